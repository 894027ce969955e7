"""Locust users of lines, raw bytes, frames and datagrams: the settings in their classes, and their clients.

A user connects to `host` and talks through its `client`. As with Locust's own users, nothing that the network
or the server does ends a user: it is a failure in the figures, and the task goes on.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal
from weakref import WeakKeyDictionary

import gevent
from locust import User
from locust.user.task import LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from gnet.addresses import is_ip_address
from gnet.deadlines import to_milliseconds
from gnet.errors import TimeoutError
from gnet.locust.arrival import attach, await_first
from gnet.locust.clients import DatagramClient, SocketClient
from gnet.locust.connections import Terms
from gnet.locust.events import Recorder
from gnet.locust.framing import Framing, LineFraming, PrefixFraming
from gnet.locust.hosts import parse_host
from gnet.locust.messages import FramedClient, LineClient
from gnet.locust.misuse import refuse
from gnet.locust.streams import StreamClient
from gnet.options import MAX_LINE_LENGTH
from gnet.serving.foreground import raise_descriptor_limit
from gnet.tls.contexts import SslContext, new_context

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from gevent import Greenlet
    from gevent.pool import Group
    from locust.env import Environment

    from gnet.deadlines import Timeout
    from gnet.locust.connected import ConnectedClient
    from gnet.locust.connections import ConnectPolicy

__all__ = ["ConnectedUser", "DatagramUser", "FramedUser", "LineUser", "SocketUser", "StreamUser"]

_POLICIES: Final = ("on_start", "per_task", "per_request")

# The addresses of a class, which its users take in turn.
_rotations: WeakKeyDictionary[type, Iterator[str]] = WeakKeyDictionary()


class ConnectedUser(User):
    """What the users here have in common: how they connect. Not for use by itself."""

    abstract = True

    timeout: Timeout = 5000
    """Milliseconds (or a `timedelta`) for connecting, for the handshake and for each answer; -1: no limit."""

    connect: ConnectPolicy = "on_start"
    """When to connect: `on_start` keeps one connection; `per_task` and `per_request` make a new one for each
    task (a nested TaskSet is one) or request, with the first request in it."""

    reconnect: bool = True
    """Make a new connection when one is lost or can not be made; else the user ends then."""

    drop_after_timeout: bool = True
    """Close the connection after a timeout: its late answer would be taken for that to the next request."""

    tls: Callable[[], SslContext] | SslContext | None = None
    """For `tls://`: makes the context, once in a process; unless given, `gnet.new_context`."""

    resume: bool = True
    """Whether TLS connections go on with the session of an earlier one, as most clients do; else each makes a
    full handshake (with a context of its own, which takes a millisecond or more to make, before its time)."""

    source_addresses: Sequence[str] = ()
    """Addresses of this machine to connect from, in turn: each has some 28,000 ports."""

    schemes: ClassVar[tuple[str, ...]] = ("tcp", "tls", "unix")
    """What `host` may begin with; the first one is meant where it has none."""

    intended_start: float | None = None
    """Seconds (`perf_counter`): when the task was due, in an open loop (`gnet.locust.arrival`)."""

    client: ConnectedClient

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        attach(self)
        try:
            terms = self._terms()
            self.client = self._new_client(terms, Recorder(environment, self))
        except (ValueError, TypeError, OSError) as error:
            refuse(environment, None, f"{type(self).__name__}: {error}")
        # Instead of the class's, which filtering by tags may have shortened.
        self.tasks = [
            _guarded(_with_connection(task) if terms.policy == "per_task" else task) for task in self.tasks
        ]

    def on_start(self) -> None:
        """Connect, unless that is done per task or request; in an open loop, wait for the first task.

        A subclass's own may leave this out: then its first request connects.
        """
        if self.connect == "on_start":
            self.client.connect()
        await_first(self)

    def on_connect(self) -> None:
        """Called when a connection was made, each time: to read a greeting, or to log in."""

    def start(self, group: Group) -> Greenlet[..., Any]:
        """Start the user. However it ends, its connection is closed then."""
        greenlet: Greenlet[..., Any] = super().start(group)
        greenlet.link(self._ended)
        return greenlet

    def stop(self, force: bool = False) -> bool:
        """Stop the user: at once if it waits between two tasks or if it must, else when its task is done."""
        if not force and self._state == LOCUST_STATE_WAITING:
            # Locust kills a user that waits. Should its wait end before the kill comes, it is to see that it
            # stops: it would begin a request that the server counts and Locust does not.
            self._state = LOCUST_STATE_STOPPING
            force = True
        stopped: bool = super().stop(force)
        return stopped

    def end_task(self) -> None:
        """Close the connection of a task that has ended (`connect = "per_task"`)."""
        self.client.close()

    def _ended(self, greenlet: Greenlet[..., Any]) -> None:
        # In the hub: this must not wait.
        self.client.close()

    def _new_client(self, terms: Terms, recorder: Recorder) -> ConnectedClient:
        raise NotImplementedError

    def _terms(self) -> Terms:
        """Check the class attributes."""
        own = type(self)  # not the instance: a function is not to become a method
        target = parse_host(self.host, self.schemes)
        if self.connect not in _POLICIES:
            raise ValueError(f"connect: expected one of {', '.join(_POLICIES)}, got {self.connect!r}")
        sources = None
        if self.source_addresses:
            if target.scheme == "unix":
                raise ValueError("source_addresses: a Unix socket has no address to connect from")
            sources = _rotation_of(own, self.source_addresses)
        raise_descriptor_limit()
        return Terms(
            target=target,
            timeout=to_milliseconds(self.timeout),
            policy=self.connect,
            reconnect=bool(self.reconnect),
            drop_after_timeout=bool(self.drop_after_timeout),
            ssl_context_of=self._context_source() if target.scheme == "tls" else None,
            sources=sources,
        )

    def _context_source(self) -> Callable[[], SslContext]:
        """Give what gives the context for each connection."""
        tls = type(self).tls
        context = _context_of(tls)
        if self.resume:
            return lambda: context
        if isinstance(tls, SslContext):
            raise ValueError("resume: False needs a function in tls: a context keeps the sessions")
        return lambda: _new_context(tls)


class LineUser(ConnectedUser):
    """A user whose requests and answers are lines; `client` is a `LineClient`."""

    abstract = True

    line_end: bytes = b"\r\n"
    """What ends the lines that are sent. Those that come may end in LF, CRLF or a lone CR."""

    max_length: int = MAX_LINE_LENGTH - 1
    """Bytes that an answer may have; a longer one is a failure."""

    client: LineClient

    def _new_client(self, terms: Terms, recorder: Recorder) -> ConnectedClient:
        framing = LineFraming(self.line_end, self.max_length)
        return LineClient(terms, recorder, self.environment, self, framing=framing)


class SocketUser(ConnectedUser):
    """A user that sends and receives bytes as they are; `client` is a `SocketClient`."""

    abstract = True

    client: SocketClient

    def _new_client(self, terms: Terms, recorder: Recorder) -> ConnectedClient:
        return SocketClient(terms, recorder, self.environment, self)


class FramedUser(ConnectedUser):
    """A user whose messages have their length before them; `client` is a `FramedClient`."""

    abstract = True

    prefix_size: int = 4
    """Bytes of the length, 1 to 8; it does not count itself."""

    byte_order: Literal["big", "little"] = "big"
    """Of the length."""

    max_length: int = 16 * 1024 * 1024
    """Bytes that a message may have."""

    client: FramedClient

    def _new_client(self, terms: Terms, recorder: Recorder) -> ConnectedClient:
        framing = PrefixFraming(self.prefix_size, self.byte_order, self.max_length)
        return FramedClient(terms, recorder, self.environment, self, framing=framing)


class DatagramUser(ConnectedUser):
    """A user that sends datagrams and waits for the answer to each; `client` is a `DatagramClient`."""

    abstract = True

    schemes = ("udp",)

    client: DatagramClient

    def _new_client(self, terms: Terms, recorder: Recorder) -> ConnectedClient:
        return DatagramClient(terms, recorder, self.environment, self)


class StreamUser(ConnectedUser):
    """A user whose answers and pushes come when they come, told apart by a key; `client` is a `StreamClient`.

    Messages are lines, or frames if `framed`; the other attributes are those of `LineUser` and `FramedUser`.
    """

    abstract = True

    framed: bool = False
    line_end: bytes = b"\r\n"
    max_length: int = MAX_LINE_LENGTH - 1
    prefix_size: int = 4
    byte_order: Literal["big", "little"] = "big"

    client: StreamClient

    def message_key(self, message: bytes) -> Hashable | None:
        """Give the key of a message that came: what it was sent or expected under. To be defined.

        Neither this nor `on_push` may wait for another message: they run in what reads them.
        """
        raise NotImplementedError

    def on_push(self, message: bytes) -> None:
        """Called with a message whose key nothing waits for. Nothing is recorded."""

    def end_task(self) -> None:
        """Wait for what is to come, and close the connection."""
        self.client.settle()
        self.client.close()

    def _new_client(self, terms: Terms, recorder: Recorder) -> ConnectedClient:
        if type(self).message_key is StreamUser.message_key:
            raise TypeError("define message_key(message): what it is an answer to")
        if terms.policy == "per_request":
            raise ValueError("connect: a StreamUser connects on_start or per_task")
        framing: Framing
        if self.framed:
            framing = PrefixFraming(self.prefix_size, self.byte_order, self.max_length)
        else:
            framing = LineFraming(self.line_end, self.max_length)
        return StreamClient(
            terms,
            recorder,
            self.environment,
            self,
            framing=framing,
            key_of=self.message_key,
            on_push=self.on_push,
        )


def _with_connection(task: Any) -> Callable[[ConnectedUser], None]:
    """Give a task that closes the connection when it ends."""
    do = _as_function(task)

    @functools.wraps(task, updated=())
    def run(user: ConnectedUser) -> None:
        try:
            do(user)
            user.end_task()
        finally:
            user.client.close()

    return run


def _guarded(task: Any) -> Callable[[ConnectedUser], None]:
    """Give a task that somebody's `gevent.Timeout` ends as any error does: else it would end the user."""
    do = _as_function(task)

    @functools.wraps(task, updated=())
    def run(user: ConnectedUser) -> None:
        try:
            do(user)
        except gevent.Timeout as error:
            raise TimeoutError(f"a task was cut short by its gevent.Timeout: {error}") from error

    return run


def _as_function(task: Any) -> Callable[[ConnectedUser], object]:
    """Give a task as a function of its user: a TaskSet too."""
    if isinstance(task, type):
        return lambda user: task(user).run()
    function: Callable[[ConnectedUser], object] = task
    return function


def _rotation_of(owner: type, addresses: Sequence[str]) -> Iterator[str]:
    """Give the addresses of a class in turn: all its users take from the same."""
    rotation = _rotations.get(owner)
    if rotation is None:
        if isinstance(addresses, str):
            raise TypeError(f"source_addresses: expected a list of addresses, got {addresses!r}")
        for address in addresses:
            if not is_ip_address(address):
                raise ValueError(f"source_addresses: expected IP addresses, got {address!r}")
        rotation = _rotations[owner] = itertools.cycle(tuple(addresses))
    return rotation


@functools.cache
def _context_of(tls: Callable[[], SslContext] | SslContext | None) -> SslContext:
    """Give the context that the users of a class share: making one takes some 30 ms."""
    return _new_context(tls)


def _new_context(tls: Callable[[], SslContext] | SslContext | None) -> SslContext:
    context: object = tls
    if tls is None:
        context = new_context()
    elif callable(tls):
        context = tls()
    if not isinstance(context, SslContext):
        raise TypeError(f"tls: expected a function that gives an SslContext, got {type(context).__name__}")
    return context
