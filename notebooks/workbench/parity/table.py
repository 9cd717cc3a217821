"""All rows of the parity table."""

from __future__ import annotations

from dataclasses import replace

from workbench.parity.rows import connections, messages

_FAMILIES = [
    *(messages.envelope, messages.values, messages.streams, messages.order, messages.ids),
    *(connections.errors, connections.hooks, connections.paths, connections.handshake),
    *(connections.control, connections.limits, connections.closing),
]
FAMILIES = [family.__name__ for family in _FAMILIES]
CONVERSATIONS = [replace(row, family=rows.__name__) for rows in _FAMILIES for row in rows()]
