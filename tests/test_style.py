"""Linted and formatted, by the settings in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys

import pytest
import series


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(arguments):
    ruff = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "."]
    done = subprocess.run(ruff, cwd=series.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
