"""What the notebooks use to run, watch, draw and check what they build."""
