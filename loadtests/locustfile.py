"""Locust users of a line server: each sends a line over a gnet socket and reads the answer, again and again.

    locust -f loadtests/locustfile.py --host 127.0.0.1:7000
    locust -f loadtests/locustfile.py --host tls://localhost:7443 --tls-ca ca.pem

The server is to answer `+PONG` to every line, as examples/ping_server.py does. Several addresses may be
given, with commas between them: the users share them out, and the figures of plain and TLS ones are kept
apart. Over TLS the server's certificate must be for the host and from an authority of `--tls-ca` (else from
one of certifi's), or the connection fails.

Every failure is an event with its exception: a connection or handshake that does not come about, a timeout, a
reset, an end of stream, an answer that is not `+PONG` or one too many. After each the user connects anew.
Locust's own figures are rounded (see histogram.py); `--figures FILE` has those of this process written
exactly when the test stops.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import gevent
import locust.stats
from locust import User, between, events, task
from locust.env import Environment

import gnet
from loadtests.histogram import Histogram

ANSWER = b"+PONG"
TIMEOUT = 5000  # milliseconds for connecting (handshake included), and for each send and each answer
RETRY_SECONDS = 0.1  # between two attempts to connect
PLAIN, TLS = "plain", "TLS"  # what Locust shows as the type of a request

# Sizes of lines, ends included: the value sizes of Facebook's general-purpose memcached pool (ETC), from
# Atikoglu et al., "Workload Analysis of a Large-Scale Key-Value Store" (SIGMETRICS 2012, section 5). Many
# services' messages are like that: 44 of 100 have less than 15 bytes and the others follow a generalized
# Pareto distribution, so that no size is typical and a few are hundreds of times larger than most. Clipped
# to 10 B and 4 KiB: of 1,000 lines 328 are the smallest and 2 the largest.
LARGEST = 4096
SMALL_SIZES = {10: 0.32768, 11: 0.08989, 12: 0.00092, 13: 0.00326, 14: 0.01980}
PARETO_FROM, PARETO_SCALE, PARETO_SHAPE = 15, 214.476, 0.348238

# Of five lines one goes out in several parts, with pauses between them so that they arrive as parts.
LEAST_PARTS, MOST_PARTS = 2, 4
PAUSE_SECONDS = 0.001

TEXT = bytes(random.Random(1).choices(range(0x20, 0x7F), k=LARGEST))  # what lines are cut from

locust.stats.CONSOLE_STATS_INTERVAL_SEC = 3  # seconds between two tables


def to_three_digits(response_time: float) -> float:
    return float(f"{response_time:.3g}")


# Locust's documentation offers this function to be replaced. With it the percentiles of the HTML report have
# decimals; the console cuts them off.
locust.stats.bucket_response_time = to_three_digits  # type: ignore[assignment]  # floats sort as integers do


class WrongAnswerError(Exception):
    """The server answered, but not what it should."""


def draw_size(rng: random.Random) -> int:
    """Draw the size of a line from the distribution above."""
    chance = rng.random()
    for size, share in SMALL_SIZES.items():
        if chance < share:
            return size
        chance -= share
    drawn = PARETO_FROM + PARETO_SCALE / PARETO_SHAPE * ((1 - rng.random()) ** -PARETO_SHAPE - 1)
    return min(int(drawn), LARGEST)


def draw_line(rng: random.Random) -> bytes:
    return TEXT[LARGEST + 2 - draw_size(rng) :] + b"\r\n"


def cut(line: bytes, rng: random.Random) -> list[bytes]:
    """Cut a line into a few parts of at least a byte, anywhere: also between CR and LF."""
    count = rng.randint(LEAST_PARTS, MOST_PARTS)
    cuts = [0, *sorted(rng.sample(range(1, len(line)), count - 1)), len(line)]
    return [line[start:end] for start, end in itertools.pairwise(cuts)]


@functools.cache
def tls_context(ca_file: str) -> gnet.SslContext:
    """Give the context that all users share: a server seen before may resume their sessions."""
    return gnet.new_context(ca_file=ca_file)


class LineUser(User):
    # Fifty users then make some 5,000 requests a second. That leaves Locust's core mostly idle; a busy one
    # would report the time that answers wait for Locust.
    wait_time = between(0.004, 0.012)
    numbers = itertools.count()

    def on_start(self) -> None:
        number = next(self.numbers)
        self.rng = random.Random(number)  # the same lines in every run
        self.socket: gnet.Socket | None = None
        addresses = str(self.host).split(",")
        scheme, _, address = addresses[number % len(addresses)].rpartition("://")
        if scheme not in ("", "tcp", "tls"):
            raise ValueError(f"expected HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT, got {self.host!r}")
        host, _, port = address.rpartition(":")
        self.address, self.port = host.strip("[]"), int(port)
        self.kind, self.ssl_context = PLAIN, None
        if scheme == "tls":
            options = self.environment.parsed_options
            self.kind, self.ssl_context = TLS, tls_context(options.tls_ca if options is not None else "")

    def on_stop(self) -> None:
        self.hang_up()

    @task(4)
    def line(self) -> None:
        self.ask("line", [draw_line(self.rng)])

    @task(1)
    def line_in_parts(self) -> None:
        self.ask("line in parts", cut(draw_line(self.rng), self.rng))

    def ask(self, name: str, parts: list[bytes]) -> None:
        """Send a line and read its answer; the time that counts begins when the last part is sent."""
        socket = self.socket or self.connect()
        if socket is None:
            return
        error: Exception | None = None
        answer = b""
        started = time.perf_counter()
        try:
            for part in parts[:-1]:
                socket.send(part)
                gevent.sleep(PAUSE_SECONDS)
            started = time.perf_counter()
            socket.send(parts[-1])
            answer = socket.read_line(flags=gnet.SocketFlag(0))  # without the flag a reset is an error
            if answer != ANSWER:
                if not answer:
                    raise EOFError("the server closed the connection instead of answering")
                raise WrongAnswerError(f"expected {ANSWER!r}, got {answer[:60]!r}")
            if socket.has_data_buffered():
                raise WrongAnswerError(f"more than one answer: {socket.peek(60)!r} came behind it")
        except (OSError, EOFError, WrongAnswerError) as problem:
            error = problem
            self.hang_up()
        self.report(name, time.perf_counter() - started, len(answer), error, line_bytes=sum(map(len, parts)))

    def connect(self) -> gnet.Socket | None:
        error: Exception | None = None
        started = time.perf_counter()
        try:
            self.socket = gnet.dial(self.address, self.port, timeout=TIMEOUT, ssl_context=self.ssl_context)
            self.socket.timeout = TIMEOUT
        except OSError as problem:
            error = problem
        self.report("connect", time.perf_counter() - started, 0, error)
        if error is not None:
            gevent.sleep(RETRY_SECONDS)
        return self.socket

    def hang_up(self) -> None:
        if self.socket is not None:
            self.socket.close(timeout=0)
            self.socket = None

    def report(
        self, name: str, seconds: float, answer_bytes: int, error: Exception | None, **context: int
    ) -> None:
        self.environment.events.request.fire(
            request_type=self.kind,
            name=name,
            response_time=1000 * seconds,
            response_length=answer_bytes,
            exception=error,
            context=context,
        )


class Figures:
    """What happened in this process since the test started, exactly."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.times: dict[tuple[str, str], Histogram] = defaultdict(Histogram)  # ns, by kind and name
        self.failures: Counter[tuple[str, str, str]] = Counter()  # by kind, name and exception
        self.sizes = Histogram()  # bytes of lines

    def start(self, **_: Any) -> None:
        self.started = time.perf_counter()
        self.times.clear()
        self.failures.clear()
        self.sizes = Histogram()

    def on_request(
        self, request_type: str, name: str, response_time: float, exception: Exception | None, **more: Any
    ) -> None:
        if exception is None:
            self.times[request_type, name].record(round(1_000_000 * response_time))
        else:
            self.failures[request_type, name, f"{type(exception).__name__}: {exception}"] += 1
        if "line_bytes" in more["context"]:
            self.sizes.record(more["context"]["line_bytes"])

    def on_user_error(self, exception: Exception, **_: Any) -> None:
        self.failures["", "user", f"{type(exception).__name__}: {exception}"] += 1  # a mistake in this file

    def write(self, environment: Environment, **_: Any) -> None:
        options = environment.parsed_options
        if options is None or options.figures is None:
            return
        data = {
            "seconds": time.perf_counter() - self.started,
            "times_ns": [[*key, times.as_json()] for key, times in self.times.items()],
            "failures": [[*key, count] for key, count in self.failures.most_common()],
            "line_bytes": self.sizes.as_json(),
        }
        options.figures.write_text(json.dumps(data), encoding="utf-8")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--figures", type=Path, metavar="FILE", help="write exact figures as JSON there")
    parser.add_argument("--tls-ca", default="", metavar="FILE", help="trust these CAs, not certifi's")


figures = Figures()
hooks: Any = events  # their add_listener has no types
hooks.test_start.add_listener(figures.start)
hooks.request.add_listener(figures.on_request)
hooks.user_error.add_listener(figures.on_user_error)
hooks.test_stop.add_listener(figures.write)
hooks.init_command_line_parser.add_listener(add_arguments)
