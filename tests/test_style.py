"""Linted and formatted by the settings in pyproject.toml, and typed."""

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


def test_nestling_is_typed_without_exception():
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "/dev/null", "-p", "nestling"]
    done = subprocess.run(mypy, cwd=series.NOTEBOOKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
