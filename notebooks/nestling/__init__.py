"""What the chapters build: WebSockets, from the wire up."""
