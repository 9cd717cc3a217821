"""What each transport should cost, by arithmetic: the lines that chapter 03 measures against.

D is the one-way delay and T the polling interval, in seconds; rates are in events a second,
and events come at random (Poisson) unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, floor

# Headers of TCP and IP (version 4, with time stamps, as Linux sends them): bytes of a segment.
SEGMENT = 52

# What TLS 1.3 puts around what is written at once: a header of 5 bytes, a type, a tag of 16.
RECORD = 22

# What server-sent events put around an event: "data: ", two ends of lines, a chunk's frame.
SSE_FRAMING = 14

# Bytes a second that keep a connection alive: a ping and a pong every 20 s, each in a segment
# of its own, and an acknowledgement.
HEARTBEAT = (2 + 6 + 3 * SEGMENT) / 20

MEBI = 2**20


def stream_latency(delay: float) -> float:
    """Mean latency of WebSocket and server-sent events: the way there, and nothing else."""
    return delay


def short_poll_latency(interval: float, delay: float, keep_alive: bool = True) -> float:
    """Mean latency of polls on a schedule: half the time until the next, and the way."""
    return polls_every(interval, delay, keep_alive) / 2 + delay


def polls_every(interval: float, delay: float, keep_alive: bool = True) -> float:
    """Seconds between the polls that are made.

    One that is due while the one before is under way is left out. With a connection of its
    own, a poll takes two round trips.
    """
    trip = (2 if keep_alive else 4) * delay
    return interval * (1 + floor(round(trip / interval, 6)))


def long_poll_latency(rate: float, delay: float) -> float:
    """Mean latency of long polls that give all that is new.

    An event that falls into the blind window, the two delays between an answer and the next
    request, waits for half of it on average; p is the share of those that do.
    """
    window = 2 * delay
    p = rate * window / (rate * window + exp(-rate * window))
    return delay + p * window / 2


def long_poll_requests(rate: float, delay: float) -> float:
    """Long polls for each event."""
    window = rate * 2 * delay
    return 1 / (window + exp(-window))


def periodic_long_poll_latency(period: float, delay: float) -> float:
    """The same for events that come regularly, every `period` seconds.

    As long as the blind window is shorter than the period, each event finds a question
    waiting. Beyond, it waits for the next one, for a delay on average.
    """
    return delay if 2 * delay < period else 2 * delay


def frame_header(payload: int) -> int:
    """Bytes in front of the payload of a WebSocket frame from a server (RFC 6455, 5.2)."""
    return 2 if payload <= 125 else 4 if payload <= 0xFFFF else 10


def published_rate(overhead: int, clients: int) -> float:
    """The unit of Lubbers and Greco (2010), who call it Mbps: Mibit/s, at a message a second.

    `overhead` is in bytes for each message of each client.
    """
    return overhead * clients * 8 / MEBI


def on_the_wire(payload: float, segments: float, records: float = 0) -> float:
    """A model of the bytes that TCP/IP makes of it: the payload and a header a segment.

    Under TLS, `records` are what the payload is written in.
    """
    return payload + segments * SEGMENT + records * RECORD


@dataclass(frozen=True)
class Expectation:
    """What a transport should do.

    name:     the transport, with its interval if it has one
    latency:  mean seconds from an event to its arrival
    requests: requests a second, over all clients
    traffic:  bytes a second, over all clients, both directions
    wire:     the same with TCP/IP, and with heartbeats where a connection stays open: a model
    """

    name: str
    latency: float
    requests: float
    traffic: float
    wire: float


def expectations(
    rate: float,
    delay: float,
    payload: int = 50,
    clients: int = 1,
    interval: float = 1.0,
    exchange: float = 400.0,
) -> list[Expectation]:
    """What short polling, long polling, server-sent events and WebSocket should do.

    Every client gets every event, of `payload` bytes; `exchange` is the bytes of the headers of
    a request and its response. Raises ValueError for a number that makes no sense.
    """
    if min(rate, interval, clients) <= 0 or min(delay, payload, exchange) < 0:
        raise ValueError("rate, interval and clients are above 0, nothing else is below")
    short = 1 / polls_every(interval, delay)
    long = rate * long_poll_requests(rate, delay)
    fresh = stream_latency(delay)
    rows = [
        (f"short polling every {interval:g} s", short_poll_latency(interval, delay), short, 2),
        ("long polling", long_poll_latency(rate, delay), long, 2),
        ("server-sent events", fresh, 0.0, SSE_FRAMING),
        ("WebSocket", fresh, 0.0, frame_header(payload)),
    ]
    found = []
    for name, latency, polls, framing in rows:
        traffic = polls * exchange + rate * (payload + framing)
        segments = 3 * polls if polls else 2 * rate
        heartbeat = 0 if name.startswith("short") else HEARTBEAT
        wire = traffic + segments * SEGMENT + heartbeat
        found.append(Expectation(name, latency, *(clients * x for x in (polls, traffic, wire))))
    return found


def recommend(
    rate: float,
    delay: float,
    payload: int = 50,
    clients: int = 1,
    *,
    stale: float,
    says: float = 0,
    exchange: float = 400,
) -> str:
    """What to take, if an event may be `stale` seconds old on average, and each client itself
    sends `says` messages a second.

    What is simpler is taken where it is fresh enough and puts at most a fifth more on the wire
    than what would be cheapest: polling before a stream, and a POST for what clients say
    before a WebSocket.
    """
    if stale < delay:
        return "nothing that runs over TCP: the way alone takes longer"
    interval = 2 * (stale - delay)
    short, _, sse, websocket = expectations(rate, delay, payload, clients, interval or 1, exchange)
    polls = interval > 2 * delay and short.wire <= 1.2 * sse.wire
    listen = short.wire if polls else sse.wire
    posts = clients * says * on_the_wire(exchange + payload, 3)
    frames = clients * says * on_the_wire(frame_header(payload) + 4 + payload, 2)
    if says and listen + posts > 1.2 * (websocket.wire + frames):
        return "WebSocket: the clients have much to say"
    advice = f"just poll, every {interval:.3g} s" if polls else "server-sent events"
    return f"{advice}, and POST" if says else advice
