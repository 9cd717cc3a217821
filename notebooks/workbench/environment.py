"""Is everything here that the chapters use?"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from workbench import nest, node

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
PYTHON = (3, 11)
NODE = 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: its name, what was found, and what to do if anything."""

    name: str
    found: str
    cure: str = ""


class Findings(list[Finding]):
    """What `check` found. A cell shows it as a table of plain text."""

    def __repr__(self) -> str:
        rows = [f"{'ok' if not f.cure else '!!':4}{f.name:22}{f.found}" for f in self]
        cures = [f"{f.name}: {f.cure}" for f in self if f.cure]
        return "\n".join([*rows, "", *(cures or ["Everything is here."])])


def check() -> Findings:
    """Look for everything that the chapters use; never raises."""
    return Findings([_python(), *_packages(), *_archived(), *_node(), _browser(), _proxy()])


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, PYTHON))
    cure = f"make the virtual environment with Python {wanted} or newer"
    return Finding("Python", found, "" if sys.version_info >= PYTHON else cure)


def _packages() -> Iterator[Finding]:
    """The packages of requirements.txt, in the versions that it asks for."""
    if not REQUIREMENTS.exists():
        cure = "keep the folder notebooks/ inside the repository, beside requirements.txt"
        yield Finding("requirements.txt", "missing", cure)
        return
    for line in REQUIREMENTS.read_text().splitlines():
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            cure = f"run %pip install '{wanted}' in a cell, then restart the kernel"
            try:
                found = version(wanted.name)
            except PackageNotFoundError:
                yield Finding(wanted.name, "missing", cure)
            else:
                yield Finding(wanted.name, found, "" if found in wanted.specifier else cure)


def _archived() -> Iterator[Finding]:
    """The predecessor of nest-asyncio2, if something has applied it in this kernel."""
    if "nest_asyncio" in sys.modules:
        cure = "restart the kernel and use nest_asyncio2: the archived one loses queued cells"
        yield Finding("nest_asyncio", "imported", cure)


def _node() -> Iterator[Finding]:
    """Node, its WebSocket library `ws`, and Nest; without them there are recordings."""
    cure = f"install Node {NODE} or newer to run Node's programs; all else works without"
    if not (program := shutil.which("node")):
        yield Finding("Node", "missing", cure)
        return
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    major = re.match(r"v(\d+)", answer.stdout)
    enough = major and int(major[1]) >= NODE
    yield Finding("Node", answer.stdout.strip().lstrip("v") or "broken", "" if enough else cure)
    package = node.FOLDER / "node_modules" / "ws" / "package.json"
    if package.exists():
        yield Finding("Node's package ws", json.loads(package.read_text())["version"])
    else:
        yield Finding("Node's package ws", "missing", f"{node.why_not()} (only chapter 05 uses it)")
    if why := nest.why_not():
        yield Finding("Nest", "missing", f"{why} (only chapter 07 uses it)")
    else:
        yield Finding("Nest", nest.version())


def _browser() -> Finding:
    """How a page in the browser gets to a server in this kernel."""
    if "JUPYTERHUB_SERVICE_PREFIX" not in os.environ:
        return Finding("browser", "reaches the kernel directly, on this machine")
    return Finding("browser", "reaches the kernel through jupyter-server-proxy, on this hub")


def _proxy() -> Finding:
    """Whether an HTTP proxy stands between this kernel and itself."""
    if not urllib.request.getproxies():
        return Finding("proxy", "none")
    if urllib.request.proxy_bypass("127.0.0.1"):
        return Finding("proxy", "set, and 127.0.0.1 is exempt from it")
    cure = "exempt 127.0.0.1 from it in the system's settings, or connect(..., proxy=None)"
    return Finding("proxy", "set, for 127.0.0.1 too", cure)
