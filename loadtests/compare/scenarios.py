"""What is compared: the scenarios, each with its load, and how large a round of it is."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """What a scenario asks of the servers, and with which client."""

    PING = enum.auto()  # `+PONG` to each line; redis-benchmark where it is installed
    BULK = enum.auto()  # 64 KiB to each line; the benchmarks' own client, as all that follow
    MIXED = enum.auto()  # 100 lines of mixed length, each with an answer
    RESUMED = enum.auto()  # one connection for each request, the TLS session resumed
    IDLE = enum.auto()  # silent connections: memory and not time


@dataclass(frozen=True)
class Scenario:
    """One part of the comparison.

    `requests` are those of a full round. They are the same for all peers, and such that a round of a slow one
    takes about a second.
    """

    name: str
    title: str  # as a heading
    label: str  # as the head of a column
    kind: Kind = Kind.PING
    requests: int = 0
    connections: int = 50
    pipeline: int = 1
    keep_alive: bool = True
    most_rounds: int = 99
    digits: int = 1  # of the figure that comes first

    @property
    def unit(self) -> str:
        """Of that figure, for which less is better."""
        return "KiB per connection" if self.kind is Kind.IDLE else "CPU µs per request"


SCENARIOS = [
    Scenario("one", "One request in flight on each of 50 connections", "1 in flight", requests=20_000),
    Scenario(
        *("pipelined", "32 requests in flight on each of 50 connections", "32 in flight"),
        requests=120_000,
        pipeline=32,
        digits=2,
    ),
    Scenario(
        *("thousand", "1,000 connections, one request in flight on each", "1,000 conns"),
        requests=40_000,
        connections=1000,
        most_rounds=3,  # redis-benchmark takes a second to open the connections, twice a sample
    ),
    Scenario(
        *("connect", "One connection for each request, 50 at once", "connection each"),
        requests=3_000,
        keep_alive=False,
        digits=0,
    ),
    Scenario(
        *("resumed", "One connection for each request, session resumed", "resumed"),
        Kind.RESUMED,
        requests=400,
        connections=1,
        keep_alive=False,
        digits=0,
    ),
    Scenario(
        *("bulk", "Answers of 64 KiB, one in flight on each of 50 connections", "64 KiB"),
        Kind.BULK,
        requests=6_000,
    ),
    Scenario(
        *("mixed", "Requests of 100 lines, 10 B to 4 KiB, cut anywhere", "100 lines"),
        Kind.MIXED,
        requests=500,
        digits=0,
    ),
    Scenario("idle", "Idle connections", "KiB idle", Kind.IDLE, connections=5_000, most_rounds=2),
]
TLS_ONLY = ("resumed",)


def scenarios_of(transport: str) -> list[Scenario]:
    """Those of "plain" or of "tls"."""
    return [one for one in SCENARIOS if transport == "tls" or one.name not in TLS_ONLY]
