"""The exercises' checks: the stub, and wrong answers that must get the right hint.

That the solutions pass is shown by running the notebooks that hold them.
"""

from __future__ import annotations

import asyncio
import time

import pytest
import workbench.checks
from conftest import assert_hint
from websockets.asyncio.client import connect
from websockets.sync.client import connect as blocking_connect
from workbench.checks import check


async def stub(*_):
    raise NotImplementedError


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def silent(connection):
    async for _ in connection:
        pass


async def reverse_once(connection):
    await connection.send((await connection.recv())[::-1])


async def reverse_and_return(connection):
    async for message in connection:
        return await connection.send(message[::-1])


async def reverse_in_pieces(connection):
    async for message in connection:
        await connection.send(reversed(message))


async def never_answers(connection):
    await connection.recv()


async def reverse_wrongly(connection):
    async for message in connection:
        await connection.send(message.reversed())


async def block(connection):
    time.sleep(60)


async def count_asleep(connection):
    for n in range(int(await connection.recv()), -1, -1):
        await connection.send(str(n))
        time.sleep(0.1)


async def count_at_once(connection):
    for n in range(int(await connection.recv()), -1, -1):
        await connection.send(str(n))


async def count_hard_coded(connection):
    for n in "3210":
        await connection.send(n)
        await asyncio.sleep(0.1)


async def count_below_zero(connection):
    for n in range(int(await connection.recv()), -3, -1):
        await connection.send(str(n))
        await asyncio.sleep(0.1)


async def count_slowly(connection):
    for n in range(int(await connection.recv()), -1, -1):
        await connection.send(str(n))
        await asyncio.sleep(0.6)


async def count_in_one_message(connection):
    await connection.send("3, 2, 1, 0")


async def count_to_one(connection):
    for n in range(int(await connection.recv()), 0, -1):
        await connection.send(str(n))
        await asyncio.sleep(0.1)


async def count_up(connection):
    for n in range(int(await connection.recv()) + 1):
        await connection.send(str(n))
        await asyncio.sleep(0.1)


async def count_in_integers(connection):
    for n in range(int(await connection.recv()), -1, -1):
        await connection.send(n)


async def ask(url, question):
    async with connect(url) as client:
        await client.send(question)
        return await client.recv()


async def reverse_bytes(connection):
    async for message in connection:
        await connection.send(message[::-1].encode())


async def reverse_without_await(connection):
    async for message in connection:
        connection.send(message[::-1]).close()


async def reverse_yielding(connection):
    async for message in connection:
        yield message[::-1]


async def ask_over_one_connection(url, questions):
    async with connect(url) as client:
        for question in questions:
            await client.send(question)
        return [await client.recv() for _ in questions]


async def ask_over_open_connections_in_turn(url, questions):
    async with connect(url) as a, connect(url) as b, connect(url) as c, connect(url) as d:
        answers = []
        for client, question in zip((a, b, c, d), questions, strict=True):
            await client.send(question)
            answers.append(await client.recv())
        return answers


async def ask_without_await(url, questions):
    return asyncio.gather(*(ask(url, question) for question in questions))


async def ask_and_sort(url, questions):
    return sorted(await asyncio.gather(*(ask(url, question) for question in questions)))


async def ask_in_turn(url, questions):
    return [await ask(url, question) for question in questions]


async def ask_as_completed(url, questions):
    return [await done for done in asyncio.as_completed([ask(url, q) for q in questions])]


async def ask_and_forget(url, questions):
    await asyncio.gather(*(ask(url, question) for question in questions))


async def ask_blocking(url, questions):
    with blocking_connect(url) as client:
        client.send(questions[0])


@pytest.mark.parametrize("exercise", ["00.1", "00.2", "00.3"])
async def test_a_stub_is_not_attempted_yet(exercise):
    verdict = await check(exercise, stub)
    assert (verdict.passed, verdict.text) == (
        None,
        "not attempted yet: raise NotImplementedError is still there",
    )


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        ("00.1", echo, "something else came back"),
        ("00.1", reverse_bytes, "the last letter comes first, in a str"),
        ("00.1", reverse_without_await, "is every message answered, with await"),
        ("00.1", reverse_in_pieces, r"letters came one by one(.|\n)*in pieces: \['c', 'b', 'a'"),
        ("00.1", reverse_and_return, r"does it loop, and without a return(.|\n)*second message"),
        ("00.1", reverse_yielding, "yield makes the function a generator"),
        ("00.1", silent, "nothing came back within 2 s"),
        ("00.1", reverse_once, "that happens when the handler returns. It answered one message"),
        ("00.1", never_answers, r"when the handler returns\n +sent +'abc'(.|\n)*received +nothing"),
        ("00.1", reverse_wrongly, "AttributeError: 'str' object has no attribute 'reversed'"),
        ("00.1", block, "your code stopped the whole kernel"),
        ("00.1", "reverse", "the answer is the function itself"),
        ("00.2", count_asleep, r"the kernel stood still for \d.\d s while your handler waited"),
        ("00.2", count_at_once, "numbers came at once"),
        ("00.2", count_hard_coded, "from the number sent down to 0"),
        ("00.2", count_below_zero, "from the number sent down to 0"),
        pytest.param("00.2", count_slowly, "came slowly", marks=pytest.mark.measures),
        ("00.2", count_in_one_message, "a message each"),
        ("00.2", count_to_one, "from the number sent down to 0"),
        ("00.2", count_up, "other messages came back"),
        ("00.2", count_in_integers, "your code raised TypeError"),
        ("00.3", ask_in_turn, "at most 1 of 4 questions were under way at once"),
        ("00.3", ask_over_open_connections_in_turn, "at most 1 of 4 questions"),
        ("00.3", ask_over_one_connection, "1 connections were opened for 4 questions"),
        ("00.3", ask_as_completed, "in another order than the questions"),
        ("00.3", ask_and_sort, "in another order than the questions"),
        ("00.3", ask_without_await, "has not been awaited"),
        ("00.3", ask_and_forget, "return a list with the answer to each question"),
        ("00.3", ask_blocking, "your code stopped the whole kernel"),
        ("00.3", None, "the answer is the function itself"),
    ],
)
async def test_a_wrong_answer_gets_the_hint_that_fits(exercise, answer, hint):
    await assert_hint(exercise, answer, hint)


async def test_what_was_sent_expected_and_received_is_shown():
    lines = (await check("00.1", echo)).text.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["sent", "'abc'"],
        ["expected", "'cba'"],
        ["received", "'abc'"],
    ]


@pytest.mark.parametrize("exercise", ["00.9", "77.1", "reverse", "", 1, None])
async def test_an_exercise_that_does_not_exist(exercise):
    verdict = await check(exercise, echo)
    assert (verdict.passed, verdict.text) == (None, "is no exercise: take the number from the text")


async def test_an_answer_that_waits_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(workbench.checks, "SECONDS", 0.3)

    async def wait(url, questions):
        await asyncio.Event().wait()

    verdict = await check("00.3", wait)
    assert (verdict.passed, verdict.text) == (False, "not yet: it was not done after 0.3 s")
