"""A second kernel, for what this one would not survive unchanged."""

from __future__ import annotations

import os
import re
import subprocess
from tempfile import TemporaryDirectory
from typing import Any

from jupyter_client.manager import AsyncKernelManager

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def channels(folder: str) -> dict[str, Any]:
    """How a kernel is to be reached: through sockets in this folder, but on Windows.

    Jupyter chooses the ports of a kernel some time before the kernel takes them, and one that
    starts at the same moment may be faster.
    """
    return {"transport": "ipc", "ip": f"{folder}/kernel"} if os.name == "posix" else {}


async def run_cell(source: str, timeout: float = 20.0) -> str:
    """Run one cell in a fresh kernel, which is gone afterwards.

    Gives what the cell printed and, if it failed, `Type: message` as the last
    line. Raises TimeoutError if kernel and cell take longer than `timeout` seconds.
    """
    with TemporaryDirectory() as folder:
        return await _run_cell(source, AsyncKernelManager(**channels(folder)), timeout)


async def _run_cell(source: str, manager: AsyncKernelManager, timeout: float) -> str:
    printed = []

    def keep(message: dict) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    await manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=timeout)
        reply = await client.execute_interactive(source, timeout=timeout, output_hook=keep)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    if reply["content"]["status"] == "error":
        printed.append(f"{reply['content']['ename']}: {reply['content']['evalue']}")
    return _ANSI.sub("", "".join(printed))
