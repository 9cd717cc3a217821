"""How long to wait before another try. Pure: the dice and the clock are arguments.

Full jitter: any wait between 0 and an upper bound is as likely as any other, and the bound
doubles with every try. Who lost their connections together come back apart.
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)
"""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """The waits of one client, in seconds.

    first: the upper bound of the first wait
    most:  what the upper bound doubles up to
    well:  how long a connection has to last for the next wait to be a first one again
    dice:  gives a number from 0 to 1, such as `random.random`
    clock: gives the time in seconds, such as `time.monotonic`

    Raises ValueError unless 0 < first <= most and 0 <= well.
    """

    def __init__(
        self,
        first: float,
        most: float,
        well: float,
        *,
        dice: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        if not (0 < first <= most and well >= 0):
            raise ValueError(f"0 < first <= most and 0 <= well, not {first}, {most} and {well}")
        self._first, self._most, self._well = first, most, well
        self._dice, self._clock = dice, clock
        self._bound = first
        self._opened: float | None = None  # since when there is a connection

    def opened(self) -> None:
        """There is a connection now."""
        self._opened = self._clock()

    def delay(self) -> float:
        """How long to wait now that there is no connection, or still none."""
        if self._opened is not None and self._clock() - self._opened >= self._well:
            self._bound = self._first
        self._opened = None
        bound, self._bound = self._bound, min(self._most, 2 * self._bound)
        return bound * self._dice()
