"""README.md and binder/: what they promise is so, on a machine with nothing but Python."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import refresh
import series
from packaging.requirements import Requirement
from test_chapters import targets

README = (series.ROOT / "README.md").read_text()
CONTRIBUTING = series.ROOT / ".github" / "CONTRIBUTING.md"


def command(ending: str) -> str:
    [line] = [
        line for line in README.splitlines() if re.match(f"python3 .*{re.escape(ending)}$", line)
    ]
    return line


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of the repository as they are now, without anything that was installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=series.ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the repository is not known")
    for name in filter(None, listed.stdout.split("\0")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(series.ROOT / name, tmp_path / name)
    return tmp_path


async def test_the_first_command_opens_chapter_00_and_its_packages_run_it(clone, tmp_path):
    config = tmp_path / "config"
    config.mkdir()
    (config / "jupyter_server_config.py").write_text(
        "c.ServerApp.allow_root = True\nc.ServerApp.port = 0\n"
    )
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "BROWSER": str(browser),
    }
    set_up, launch = command("00_start_here.ipynb").rsplit("&&", 1)
    process = await asyncio.create_subprocess_shell(
        f"{set_up} && exec {launch}",
        cwd=clone,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(300):
            while not opened.exists():
                assert process.returncode is None, "the command ended"
                await asyncio.sleep(0.2)
        page = Path(opened.read_text().strip().removeprefix("file://")).read_text()
        assert re.search(r"/lab/tree/00_start_here\.ipynb\?token=", page)
    finally:
        process.terminate()
        await process.wait()
    subprocess.run(
        [clone / ".venv/bin/jupyter", "execute", clone / "notebooks/00_start_here.ipynb"],
        check=True,
        env=environment,
        capture_output=True,
    )


def test_the_second_command_is_what_ci_runs():
    assert command(".venv/bin/pytest").startswith("python3 -m venv .venv && ")
    assert r"grep '\.venv/bin/pytest$' README.md" in (series.ROOT / ".ci/run").read_text()


def test_ci_tries_the_other_pythons_too_and_the_page_names_the_one_of_the_tests():
    assert (series.ROOT / ".ci/run").read_text().endswith("\n.ci/other-pythons\n")
    [tried] = re.findall(r"the chapters have been run on ([^;]+?)\. Clone the", README)
    if os.environ.get("CI"):
        assert f"3.{sys.version_info.minor}" in re.split(", | and ", tried)


def test_every_chapter_has_its_row_and_no_link_leads_nowhere():
    for path in series.chapters():
        [row] = [row for row in README.splitlines() if f"(notebooks/{path.name})" in row]
        title = series.read(path).cells[0].source.splitlines()[0].removeprefix("# ")
        minutes = re.search(r"\*\*Time\*\* (\d+) minutes", series.read(path).cells[0].source)[1]
        assert f"[{path.name[:2]} {title}]" in row
        assert f"| {minutes} |" in row
    pages = {"README.md": README, ".github/CONTRIBUTING.md": CONTRIBUTING.read_text()}
    for page, text in pages.items():
        for target in targets(text):
            near = (series.ROOT / page).parent / target
            assert target.startswith("https://") or near.exists(), target


def test_the_binder_links_name_the_repository_that_is_known_or_there_are_none():
    known = {refresh.with_address(README, name) for name in ("", refresh.repository())}
    assert README in known and "OWNER" not in README
    somewhere = refresh.with_address(README, "someone/somewhere")
    for path in series.chapters():
        link = f"mybinder.org/v2/gh/someone/somewhere/HEAD?urlpath=lab/tree/notebooks/{path.name})"
        assert somewhere.count(link) == 1
    assert refresh.with_address(somewhere, "") == refresh.with_address(README, "")


@pytest.mark.parametrize(
    ("remote", "repository"),
    [
        ("https://github.com/someone/some.where.git", "someone/some.where"),
        ("git@github.com:someone/somewhere.git", "someone/somewhere"),
        ("https://github.com/someone/somewhere", "someone/somewhere"),
        ("../somewhere", ""),
        (None, ""),
    ],
)
def test_the_repository_is_that_of_the_git_remote(tmp_path, monkeypatch, remote, repository):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    if remote:
        subprocess.run(["git", "-C", tmp_path, "remote", "add", "origin", remote], check=True)
    monkeypatch.setattr(series, "ROOT", tmp_path)
    monkeypatch.setattr(series, "settings", lambda: {"repository": ""})
    assert refresh.repository() == repository
    monkeypatch.setattr(series, "settings", lambda: {"repository": "else/where"})
    assert refresh.repository() == "else/where"


def test_the_figures_are_those_that_chapters_drew_and_the_film_is_small():
    drawn = {path: pictures for path, pictures in series.figures().items() if pictures}
    shown = {series.ROOT / name for name in targets(README) if name.endswith(".png")}
    assert drawn == {path: [path.read_bytes()] for path in shown}
    assert (series.ROOT / ".github" / "poll.gif").stat().st_size < 2**20


def test_binder_plans_the_image_with_our_python_and_our_packages():
    if not (program := shutil.which("jupyter-repo2docker", path=Path(sys.executable).parent)):
        pytest.fail("jupyter-repo2docker is missing, though tests/requirements.txt names it")
    plan = subprocess.run(
        [program, "--no-build", "--debug", "--user-id", "1000", "--user-name", "reader", "."],
        cwd=series.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout
    assert 'pip install --no-cache-dir -r "binder/requirements.txt"' in plan
    assert "Building conda environment for python=3.11" in plan
    assert "RUN ./binder/postBuild" in plan


def requirements(path: str) -> list[Requirement]:
    lines = (series.ROOT / path).read_text().splitlines()
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def test_binder_installs_the_python_that_ci_tests():
    wanted = (series.ROOT / "binder/runtime.txt").read_text().strip()
    if os.environ.get("CI"):
        assert wanted == f"python-{sys.version_info.major}.{sys.version_info.minor}"


def test_binder_installs_the_versions_with_which_the_outputs_were_written():
    lines = (series.ROOT / "binder/requirements.txt").read_text().splitlines()
    assert lines == ["-r ../requirements.txt", "-c constraints.txt"]
    frozen = {r.name: str(r.specifier) for r in requirements("binder/constraints.txt")}
    assert all(re.fullmatch(r"==[\w.]+", pin) for pin in frozen.values())
    for wanted in requirements("requirements.txt"):
        assert frozen[wanted.name].lstrip("=") in wanted.specifier
    pinned = [r for r in requirements("tests/requirements.txt") if "==" in str(r.specifier)]
    shared = {r.name: str(r.specifier) for r in pinned if r.name in frozen}
    assert shared and shared.items() <= frozen.items()


def test_what_is_frozen_is_all_that_the_requirements_bring():
    names = {line.partition("==")[0] for line in refresh.frozen()}
    assert {"jupyterlab", "websockets", "pillow", "pyzmq", "jupyter-client"} <= names
    assert not names & {"pytest", "ruff", "playwright", "jupyter-repo2docker"}
