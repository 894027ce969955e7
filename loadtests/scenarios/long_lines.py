"""Lines of just below, at and over the server's limit of 64 KiB, beside users who ping.

To one over the limit there must be no answer but the end of the connection, at once: without limit a client
could fill the server's memory. Whether that end is a reset depends on what was still on its way.
"""

from __future__ import annotations

from locust import constant, task

import gnet
from gnet.locust import ResponseContextManager, SocketUser
from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Ratio
from loadtests.load.servers.lines import LIMIT, answer_to
from loadtests.load.users import Pinger, Trusting
from loadtests.load.verdicts import declare


class BesideLongLines(Pinger):
    pass


class LongLines(Trusting, SocketUser):
    fixed_count = 5
    wait_time = constant(0.05)

    @task
    def just_below(self) -> None:
        self.ask(LIMIT - 1, "below the limit")

    @task
    def at_the_limit(self) -> None:
        self.ask(LIMIT, "at the limit")

    def ask(self, size: int, name: str) -> None:
        line = b"x" * size
        self.client.request(
            line + b"\r\n", until=b"\r\n", expect=answer_to(line) + b"\r\n", name=name
        )  # to be answered as any other


class TooLongLines(Trusting, SocketUser):
    fixed_count = 5
    wait_time = constant(0.05)
    connect = "per_request"

    @task
    def just_over(self) -> None:
        self.ask(LIMIT + 1)

    @task
    def far_over(self) -> None:
        self.ask(4 * LIMIT)

    def ask(self, size: int) -> None:
        line = b"x" * size + b"\r\n"
        request = self.client.request(line, until=b"\r\n", name="over the limit", catch_response=True)
        assert isinstance(request, ResponseContextManager)
        with request as response:
            if response.ok:
                response.failure(f"a line over the limit was answered: {response.data[:40]!r}")
            elif not isinstance(response.exception, gnet.TimeoutError):
                response.success()  # the connection ended


declare(
    FailuresAtMost(),
    AtLeast(10, ("RAW", "below the limit")),
    AtLeast(10, ("RAW", "at the limit")),
    AtLeast(10, ("RAW", "over the limit")),
    P99Ratio(5, ("LINE", "ping")),
    users=60,
    main=("LINE", "ping"),
)
