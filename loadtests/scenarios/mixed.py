"""Lines of 10 bytes to 64 KiB, with both terminators, some of them in parts that are split anywhere.

Sizes up to 4 KiB, ends included, are those of the values in Facebook's general-purpose memcached pool (ETC),
from Atikoglu et al., "Workload Analysis of a Large-Scale Key-Value Store" (SIGMETRICS 2012, section 5). Many
services' messages are like that: 44 of 100 have less than 15 bytes and the others follow a generalized Pareto
distribution, so that no size is typical and a few are hundreds of times larger than most. One line in fifty
is from the range above, and the first two of each user are the least and the most.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import gevent
from locust import between, task
from locust.env import Environment

from gnet.locust import SocketUser
from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Ratio, SameAsServer
from loadtests.load.servers.lines import answer_to
from loadtests.load.users import Trusting
from loadtests.load.verdicts import declare

LEAST, COMMON, MOST = 10, 4096, 65536
SMALL_SIZES = {10: 0.32768, 11: 0.08989, 12: 0.00092, 13: 0.00326, 14: 0.01980}
PARETO_FROM, PARETO_SCALE, PARETO_SHAPE = 15, 214.476, 0.348238
LARGE_SHARE = 0.02

# Of five lines one goes out in several parts, with pauses between them so that they arrive as parts.
PARTED_SHARE = 0.2
LEAST_PARTS, MOST_PARTS = 2, 4
PAUSE_SECONDS = 0.001

TEXT = bytes(random.Random(1).choices(range(0x20, 0x7F), k=2 * MOST))  # what lines are cut from


def draw_sizes(rng: random.Random) -> Iterator[int]:
    """Draw sizes of lines without end."""
    yield from (LEAST, MOST)
    while True:
        if rng.random() < LARGE_SHARE:
            yield int(COMMON * (MOST / COMMON) ** rng.random())
        else:
            yield _draw_common(rng)


def _draw_common(rng: random.Random) -> int:
    chance = rng.random()
    for size, share in SMALL_SIZES.items():
        if chance < share:
            return size
        chance -= share
    drawn = PARETO_FROM + PARETO_SCALE / PARETO_SHAPE * ((1 - rng.random()) ** -PARETO_SHAPE - 1)
    return min(int(drawn), COMMON)


def cut(line: bytes, rng: random.Random) -> list[bytes]:
    """Cut a line into a few parts of at least a byte, anywhere: also between CR and LF."""
    count = rng.randint(LEAST_PARTS, MOST_PARTS)
    cuts = [0, *sorted(rng.sample(range(1, len(line)), count - 1)), len(line)]
    return [line[start:end] for start, end in itertools.pairwise(cuts)]


class Mixed(Trusting, SocketUser):
    wait_time = between(0.004, 0.012)
    numbers = itertools.count()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.rng = random.Random(next(self.numbers))  # the same lines in every run
        self.sizes = draw_sizes(self.rng)

    @task
    def ask(self) -> None:
        end = self.rng.choice((b"\r\n", b"\n"))
        size = next(self.sizes) - len(end)
        start = self.rng.randrange(MOST)
        line = TEXT[start : start + size]
        parts = [line + end]
        name = "line"
        if self.rng.random() < PARTED_SHARE:
            parts = cut(parts[0], self.rng)
            name = "line in parts"
        expect = answer_to(line) + b"\r\n"
        *before, last = parts
        for part in before:
            if not self.client.send(part, name=name):
                return  # and that is a failure in the figures
            gevent.sleep(PAUSE_SECONDS)
        self.client.request(last, until=b"\r\n", expect=expect, name=name)  # timed from the last part


declare(
    FailuresAtMost(),
    AtLeast(100, ("RAW", "line")),
    AtLeast(20, ("RAW", "line in parts")),
    P99Ratio(10, ("RAW", "line")),  # lines of 64 KiB are among them
    SameAsServer(),
    users=50,
    main=("RAW", "line"),
)
