"""Failures that a chapter provokes on purpose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_PORT = re.compile(r"(\bport |127\.0\.0\.1(?::|', ))\d+", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with every port number replaced by dots, the same in each run."""
    return _PORT.sub(r"\1·····", text)


@contextmanager
def expected(*types: type[BaseException]) -> Iterator[None]:
    """Run a block that must fail with one of `types`; print `Type: message`.

    Raises AssertionError if the block succeeds. Any other error passes through.
    """
    try:
        yield
    except types as error:
        print(masked(f"{type(error).__name__}: {error}").removesuffix(": "))
    else:
        raise AssertionError(f"expected {' or '.join(t.__name__ for t in types)}, but it worked")
