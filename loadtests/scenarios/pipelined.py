"""32 lines in flight: each user sends them at once and reads the answers, which must be in their order."""

from __future__ import annotations

from locust import between, task

from gnet.locust import LineUser
from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Ratio, SameAsServer
from loadtests.load.servers.lines import PING, PONG, answer_to
from loadtests.load.users import Trusting
from loadtests.load.verdicts import declare

DEPTH = 32
LINES = [PING if number % 8 else b"line %d" % number for number in range(DEPTH)]
ANSWERS = [PONG if line == PING else answer_to(line) for line in LINES]


class Pipelining(Trusting, LineUser):
    wait_time = between(0.004, 0.012)

    @task
    def burst(self) -> None:
        self.client.pipeline(LINES, expect=ANSWERS, name="pipelined")


declare(
    FailuresAtMost(),
    AtLeast(100 * DEPTH, ("LINE", "pipelined")),
    P99Ratio(10, ("LINE", "pipelined")),  # the last of a burst waits for all the others
    SameAsServer(),
    users=20,
    main=("LINE", "pipelined"),
)
