"""The conformance board: what a WebSocket server must do, as rows, and a client that plays them.

::

    problem = await run(case, "127.0.0.1", port)     # None if the server did what it must

The server under test echoes texts and binary messages, takes messages of MAX_SIZE bytes and no
more, and compresses with those who offer it. Rows and words are our own; sections are those of
RFC 6455, or of RFC 7692 where that is said.
"""

from __future__ import annotations

from dataclasses import replace

from workbench.conformance import compressed, frames, openings
from workbench.conformance.case import MAX_SIZE, Case
from workbench.conformance.player import run

FAMILIES = [
    *(frames.framing, frames.control, frames.reserved, frames.fragmentation, frames.utf8),
    *(frames.closing, frames.masking, frames.size, openings.handshake),
    *(compressed.negotiation, compressed.compression, compressed.compressed_fragments),
    compressed.broken_compression,
]
CASES = [replace(case, family=family.__name__) for family in FAMILIES for case in family()]

__all__ = ["CASES", "MAX_SIZE", "Case", "run"]
