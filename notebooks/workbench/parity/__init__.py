"""The parity table: conversations with a real Nest and with ours, and whether they differ.

::

    found = await compare()                                     # the whole table
    await compare(Conversation("mine", say("identity", 5)))     # a row of your own
    grid(found)
    differences(found)

Each conversation is played, byte for byte the same, with node/nest/src/parity.ts and with
gateways.py, once on the library `websockets` and once on our own server. Where there is no
Node, what Nest said when it was recorded is compared.
"""

from workbench.parity.compared import Compared, Found, compare, record
from workbench.parity.conversation import (
    EQUAL,
    Again,
    Conversation,
    Do,
    Verdict,
    at,
    improvement,
    library,
    python,
    raw,
    say,
)
from workbench.parity.picture import grid
from workbench.parity.report import Report, differences
from workbench.parity.table import CONVERSATIONS, FAMILIES

__all__ = [
    "CONVERSATIONS",
    "EQUAL",
    "FAMILIES",
    "Again",
    "Compared",
    "Conversation",
    "Do",
    "Found",
    "Report",
    "Verdict",
    "at",
    "compare",
    "differences",
    "grid",
    "improvement",
    "library",
    "python",
    "raw",
    "record",
    "say",
]
