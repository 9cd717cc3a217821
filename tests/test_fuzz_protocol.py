"""Damaged frames, some thousands of them; `python tests/fuzz_protocol.py` sends a million."""

from __future__ import annotations

import pytest
from fuzz_protocol import Conversation, fuzz
from nestling.protocol import Assembly, Protocol


def test_damaged_frames():
    outcomes, _ = fuzz(20_000, seed=1)
    assert outcomes["frames"] >= 20_000
    assert min(outcomes[name] for name in ("Message", "Ping", "Pong", "Close")) > 100
    assert {f"closed with {code}" for code in (1000, 1002, 1005, 1007, 1009, 4999)} <= set(outcomes)


def test_the_same_seed_gives_the_same_conversation():
    for seed in range(20):
        assert Conversation(seed).run() == Conversation(seed).run()


@pytest.mark.parametrize(
    "owner, name, wrong",
    [
        (Assembly, "_text", lambda self, payload, fin: payload.decode()),
        (Assembly, "_too_big", lambda self: ValueError("too big")),
        (Protocol, "take_answers", lambda self: b"\x89"),
        (Protocol, "receive_eof", lambda self: []),
    ],
)
def test_what_is_broken_is_noticed(monkeypatch, owner, name, wrong):
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError, match="seed"):
        fuzz(5_000)
