"""TLS: connections that last, and new ones with and without resumption; all verify the certificate.

The users who resume keep a session from each connection for the next one. Once there was one, a full
handshake is a failure: the server did not keep its side.
"""

from __future__ import annotations

import time

from locust import User, between, task
from locust.env import Environment

import gnet
from gnet.locust.hosts import parse_host
from gnet.tls import bindings
from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Ratio
from loadtests.load.servers.lines import PING, PONG
from loadtests.load.users import TIMEOUT, Pinger, tls_context
from loadtests.load.verdicts import declare


class PingingOverTls(Pinger):
    pass


class NotResumedError(Exception):
    """A full handshake with a server that had given a session."""


class Connecting(User):
    """Makes the connections itself: which handshake it was decides the row, and that is known afterwards."""

    abstract = True
    # Some 20 of each kind a second: a handshake takes milliseconds, in which the others here wait.
    fixed_count = 3
    wait_time = between(0.1, 0.2)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.target = parse_host(self.host, ["tls"])
        self.may_resume = False

    def ssl_context(self) -> gnet.SslContext:
        raise NotImplementedError

    @task
    def connect_and_ask(self) -> None:
        context = self.ssl_context()
        moment = time.perf_counter()
        row = ("CONNECT", self.target.name)
        error: Exception | None = None
        try:
            with gnet.dial(self.target.address, self.target.port, timeout=TIMEOUT) as socket:
                self.record(*row, moment)
                moment, row = time.perf_counter(), ("TLS", "handshake")
                context.wrap_connected_socket(
                    socket, gnet.SslHandshakeType.AS_CLIENT, self.target.address, timeout=TIMEOUT
                )
                resumed = bindings.session_reused(socket.ssl_handle)
                if self.may_resume and not resumed:
                    error = NotResumedError("a full handshake, although there was a session")
                self.record("TLS", "resumed" if resumed else "full handshake", moment, error)
                moment, row = time.perf_counter(), ("LINE", "after a handshake")
                socket.timeout = TIMEOUT
                socket.send(PING + b"\r\n")
                answer = socket.read_line(flags=gnet.SocketFlag(0))
                self.record(*row, moment, None if answer == PONG else ValueError(f"answer {answer!r}"))
                self.answered()
        except OSError as failure:
            self.record(*row, moment, failure)

    def answered(self) -> None:
        """Called when a connection has done its work."""

    def record(self, kind: str, name: str, since: float, error: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=(time.perf_counter() - since) * 1000,
            response_length=0,
            exception=error,
            context={},
        )


class Resuming(Connecting):
    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.own_context = tls_context()

    def ssl_context(self) -> gnet.SslContext:
        return self.own_context

    def answered(self) -> None:
        self.may_resume = True


class NotResuming(Connecting):
    def ssl_context(self) -> gnet.SslContext:
        return tls_context()  # which knows no session


declare(
    FailuresAtMost(),
    AtLeast(100, ("LINE", "ping")),
    AtLeast(10, ("TLS", "resumed")),
    AtLeast(10, ("TLS", "full handshake")),
    P99Ratio(5, ("LINE", "ping"), ignore_ms=15),
    users=36,
    main=("LINE", "ping"),
)
