"""20 users send one byte at a time; 50 others beside them must not notice.

A server whose reading of a slow line waits for its end, or goes through what has come again with each byte,
makes the others wait.
"""

from __future__ import annotations

import gevent
from locust import task

from gnet.locust import SocketUser
from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Ratio, SameAsServer
from loadtests.load.servers.lines import answer_to
from loadtests.load.users import Pinger, Trusting
from loadtests.load.verdicts import declare

LINE = b"what takes its time"
BYTE_SECONDS = 0.02


class BesideSlowSenders(Pinger):
    pass


class SlowSender(Trusting, SocketUser):
    fixed_count = 20

    @task
    def send_slowly(self) -> None:
        wire = LINE + b"\r\n"
        for number in range(len(wire) - 1):
            if not self.client.send(wire[number : number + 1], name="slow line"):
                return
            gevent.sleep(BYTE_SECONDS)
        expect = answer_to(LINE) + b"\r\n"
        self.client.request(wire[-1:], until=b"\r\n", expect=expect, name="slow line")


declare(
    FailuresAtMost(),
    AtLeast(100, ("LINE", "ping")),
    AtLeast(20, ("RAW", "slow line")),
    P99Ratio(3, ("LINE", "ping")),
    SameAsServer(),
    users=70,
    main=("LINE", "ping"),
)
