"""What a client has to send, and what became of it when a connection is lost. No network here."""

from __future__ import annotations

from collections import deque

from websockets.exceptions import ConnectionClosedError

from nestling.client import BACKLOG, Question


class MayHaveRun(ConnectionClosedError):
    """The connection was lost between a question and its last reply, and its session, too."""

    def __str__(self) -> str:
        return "the connection was lost before the last reply came: it may have run"


class Outbox:
    """What a client has to send, and as which message of the session it was sent.

    waiting: texts that wait for a connection, with the id of the question that each asks, or None
    dropped: the ids of questions that wait to be cancelled
    """

    def __init__(self, questions: dict[int, Question]) -> None:
        self.waiting: deque[tuple[str, int | None]] = deque()
        self.dropped: list[int] = []
        self._cancels: dict[int, int] = {}  # the places of those sent, by the question's id
        self._questions = questions
        self._sent = 0

    @property
    def emits(self) -> int:
        """How many messages wait that want no reply."""
        return sum(number is None for _, number in self.waiting)

    def ask(self, text: str, number: int | None) -> None:
        """A message is being sent."""
        self._sent += 1
        if question := self._questions.get(number or 0):
            question.text, question.place = text, self._sent

    def cancel(self, number: int) -> None:
        """A cancel is being sent."""
        self._sent += 1
        self._cancels[number] = self._sent
        if len(self._cancels) > BACKLOG:
            del self._cancels[next(iter(self._cancels))]

    def take_back(self, number: int) -> bool:
        """Whether a question has still been waiting to be sent, and now is not."""
        found = [each for each in self.waiting if each[1] == number]
        for each in found:
            self.waiting.remove(each)
        return bool(found)

    def go_on(self, heard: int) -> None:
        """The server has heard so many messages: the others, but for those to emit, wait again."""
        unheard = [each for each in self._questions.items() if (each[1].place or 0) > heard]
        for number, question in sorted(unheard, key=lambda each: each[1].place or 0, reverse=True):
            question.place = None
            self.waiting.appendleft((question.text, number))
        self.dropped += [number for number, place in self._cancels.items() if place > heard]
        self._cancels.clear()
        self._sent = heard

    def start_over(self, why: Exception) -> None:
        """The server knows nothing any more: what it has been asked fails."""
        self._sent = 0
        self.dropped.clear()
        self._cancels.clear()
        for question in self._questions.values():
            if question.place is not None:
                question.place = None
                error = MayHaveRun(None, None)
                error.__cause__ = why
                question.fail(error)
