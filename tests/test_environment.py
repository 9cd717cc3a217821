"""The environment check of chapter 00: what it says when something is missing."""

from __future__ import annotations

import sys

import pytest
from workbench import environment, nest, node
from workbench.environment import Finding


def named(name: str) -> Finding:
    [finding] = [finding for finding in environment.check() if finding.name == name]
    return finding


def test_every_package_of_the_requirements_is_looked_for():
    names = [finding.name for finding in environment.check()]
    for package in ("jupyterlab", "websockets", "nest-asyncio2", "matplotlib"):
        assert package in names


def test_an_old_or_missing_package_says_what_to_install(tmp_path, monkeypatch):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# a reason\nwebsockets>=99\n\nno-such-package>=1\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", requirements)
    assert named("websockets").cure.startswith("run %pip install 'websockets>=99'")
    assert named("no-such-package").found == "missing"
    shown = repr(environment.check())
    assert "!!  no-such-package" in shown
    assert "Everything is here" not in shown


def test_notebooks_without_their_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert "beside requirements.txt" in named("requirements.txt").cure


def test_an_old_python(monkeypatch):
    monkeypatch.setattr("sys.version_info", (3, 10, 13))
    assert named("Python").cure == "make the virtual environment with Python 3.11 or newer"


def test_no_node(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert (named("Node").found, named("Node").cure[:16]) == ("missing", "install Node 20 ")


def test_node_without_its_package(tmp_path, monkeypatch):
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\necho v20.0.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(node, "FOLDER", tmp_path)
    assert named("Node").cure == ""
    found = named("Node's package ws")
    assert found.found == "missing"
    assert found.cure.startswith("run, in a terminal: npm ci --prefix notebooks/node")


def test_node_without_nest_and_with_it(tmp_path, monkeypatch):
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\necho v20.0.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nest, "FOLDER", tmp_path)
    assert named("Nest").found == "missing"
    assert named("Nest").cure.startswith("run, in a terminal: npm ci --prefix notebooks/node/nest")
    for package in ("@nestjs/core", "@nestjs/platform-ws", "typescript"):
        assert named("Nest").found == "missing"
        (tmp_path / "node_modules" / package).mkdir(parents=True)
        (tmp_path / "node_modules" / package / "package.json").write_text('{"version": "12.3.4"}')
    assert named("Nest") == Finding("Nest", "12.3.4")


@pytest.mark.parametrize(
    ("answer", "found", "enough"),
    [("v22.1.0", "22.1.0", True), ("v18.19.0", "18.19.0", False), ("", "broken", False)],
)
def test_the_version_of_node(answer, found, enough, tmp_path, monkeypatch):
    program = tmp_path / "node"
    program.write_text(f"#!/bin/sh\necho {answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (named("Node").found, not named("Node").cure) == (found, enough)


def test_the_archived_nest_asyncio(monkeypatch):
    monkeypatch.setitem(sys.modules, "nest_asyncio", object())
    assert named("nest_asyncio").cure.startswith("restart the kernel")


def test_the_way_in_on_a_hub(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/reader/")
    assert named("browser").found == "reaches the kernel through jupyter-server-proxy, on this hub"


def test_a_proxy_that_would_catch_loopback(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    assert "exempt 127.0.0.1" in named("proxy").cure
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert named("proxy").cure == ""
