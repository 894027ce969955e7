"""Datagrams to a server that sends each one back, one in flight for each user; some are lost, but few."""

from __future__ import annotations

import itertools
import os
import random

from locust import between, task
from locust.env import Environment

from gnet.locust import DatagramUser
from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Below
from loadtests.load.verdicts import declare

LEAST, MOST = 10, 1400  # bytes: what fits into one packet of Ethernet

# Of datagrams none needs to arrive. On loopback one is lost when the server's buffer is full.
LOST_SHARE = 0.001


class Echoed(DatagramUser):
    timeout = 1000
    wait_time = between(0.004, 0.012)
    numbers = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.rng = random.Random(next(self.numbers))

    @task
    def echo(self) -> None:
        data = os.urandom(self.rng.randint(LEAST, MOST))
        self.client.request(data, expect=data, name="echo")


declare(
    FailuresAtMost(LOST_SHARE),
    AtLeast(100, ("UDP", "echo")),
    P99Below(100, ("UDP", "echo")),
    users=50,
    main=("UDP", "echo"),
)
