"""What any transport must do, asked of each one there is; and what the plain one does with the loop.

The contract comes first: it uses what `gnet.transports.Transport` promises, and closing. Another
transport joins by a line in `PAIRS`.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket, subprocess
from gevent.event import Event

import gnet
from gnet.transports import READ, PlainTransport, Readiness
from tests.canceller import InterruptionError, active_watchers
from tests.faults.peers import GUARD, black_hole, closed_port

_ROOT: Final = Path(__file__).parents[1]

# Turns of the loop within 50 ms: an idle process needs a few, one that spins thousands.
_FEW_TURNS: Final = 50

Pair = tuple[PlainTransport, PlainTransport]


def take_over(end: socket.socket) -> PlainTransport:
    """Make a plain transport of a gevent socket, which is left detached."""
    return PlainTransport(_socket.socket(end.family, end.type, end.proto, fileno=end.detach()))


def tcp_pair() -> Pair:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client = socket.create_connection(server.getsockname())
        accepted = server.accept()[0]
        for end in (client, accepted):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return take_over(client), take_over(accepted)


def unix_pair() -> Pair:
    left, right = socket.socketpair()
    return take_over(left), take_over(right)


PAIRS: Final[dict[str, Callable[[], Pair]]] = {"tcp": tcp_pair, "unix": unix_pair}


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two transports that are connected with each other."""
    ends = PAIRS[request.param]()
    yield ends
    for end in ends:
        end.close()


def waiting(call: Callable[..., Any], *arguments: Any) -> gevent.Greenlet:
    """Start a call in a greenlet and give it when it waits."""
    greenlet = gevent.spawn(call, *arguments)
    gevent.sleep(0)
    assert not greenlet.ready(), f"it does not wait: {greenlet.value!r}, {greenlet.exception!r}"
    return greenlet


def finish(greenlet: gevent.Greenlet) -> Any:
    return greenlet.get(timeout=GUARD / 1000)


def send_all(transport: PlainTransport, data: bytes) -> None:
    while data:
        count = transport.send(data)
        data = data[count:]
        if not count:
            transport.wait_writable()


def receive_all(transport: PlainTransport, size: int) -> bytes:
    """Receive `size` bytes, fewer only at the end of the stream."""
    data = b""
    while len(data) < size:
        part = transport.receive(size - len(data))
        if part is None:
            transport.wait_readable()
        elif not part:
            break
        else:
            data += part
    return data


def loop_turns() -> int:
    """How often the loop turns in 50 ms. A descriptor that is always ready makes it spin."""
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1

    watcher = gevent.get_hub().loop.prepare(ref=False)
    watcher.start(count)
    try:
        gevent.sleep(0.05)
    finally:
        watcher.stop()
        watcher.close()
    return turns


def fill(transport: PlainTransport) -> int:
    """Send until the kernel takes no more; give how much it took."""
    size = 0
    while count := transport.send(b"x" * 65536):
        size += count
    return size


# The contract: moving bytes


def test_what_one_sends_the_other_receives(pair: Pair) -> None:
    ours, peer = pair
    assert ours.send(b"hello") == 5
    assert receive_all(peer, 5) == b"hello"
    assert ours.send(memoryview(b"a view")) == 6
    assert receive_all(peer, 6) == b"a view"


def test_nothing_is_there_before_something_is_sent(pair: Pair) -> None:
    ours, peer = pair
    assert ours.receive(10) is None
    assert ours.peek(10) is None
    assert ours.drained
    peer.send(b"now")
    ours.wait_readable()
    assert ours.receive(10) == b"now"


def test_a_short_receive_has_drained_the_kernel_and_a_full_one_may_not_have(pair: Pair) -> None:
    ours, peer = pair
    assert not ours.drained
    peer.send(b"12345678")
    ours.wait_readable()
    assert ours.receive(4) == b"1234"
    assert not ours.drained
    assert ours.receive(5) == b"5678"
    assert ours.drained


def test_a_peek_leaves_the_bytes(pair: Pair) -> None:
    ours, peer = pair
    peer.send(b"12345678")
    ours.wait_readable()
    assert [ours.peek(4), ours.peek(100)] == [b"1234", b"12345678"]
    assert ours.receive(100) == b"12345678"
    assert ours.peek(4) is None


def test_the_end_of_the_stream_comes_after_all_bytes_and_stays(pair: Pair) -> None:
    ours, peer = pair
    peer.send(b"last words")
    peer.close()
    assert receive_all(ours, 100) == b"last words"
    for _ in range(3):
        ours.wait_readable()
        assert ours.receive(10) == ours.peek(10) == b""
    assert ours.failure is None


def test_a_send_takes_nothing_when_there_is_no_room_and_goes_on_when_there_is(pair: Pair) -> None:
    ours, peer = pair
    size = fill(ours)
    assert ours.send(b"more") == 0
    writer = waiting(ours.wait_writable)
    assert receive_all(peer, size) == b"x" * size
    finish(writer)
    assert ours.send(b"more") == 4
    assert receive_all(peer, 4) == b"more"


def test_much_goes_both_ways_at_once_in_order(pair: Pair) -> None:
    data = bytes(range(256)) * 8_000
    tasks = [gevent.spawn(send_all, end, data) for end in pair]
    received = [gevent.spawn(receive_all, end, len(data)) for end in pair]
    gevent.joinall(tasks, timeout=GUARD / 1000, raise_error=True)
    assert [finish(greenlet) for greenlet in received] == [data, data]


# The contract: errors


def test_a_send_to_a_peer_that_is_gone_raises_and_the_first_error_is_kept(pair: Pair) -> None:
    ours, peer = pair
    peer.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)) as first:  # noqa: PT012
        while ours.send(b"anybody there?"):
            gevent.sleep(0)
    failure = ours.failure
    assert (type(failure), failure.errno) == (type(first.value), first.value.errno)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        ours.send(b"nobody")
    assert ours.failure is failure


def test_a_reset_raises_after_the_bytes_and_is_kept() -> None:
    ours, peer = tcp_pair()
    peer.send(b"last words")
    ours.wait_readable()
    peer.close(reset=True)
    assert ours.receive(100) == b"last words"
    ours.wait_readable()
    with pytest.raises(ConnectionResetError):
        ours.receive(100)
    assert isinstance(ours.failure, ConnectionResetError)
    ours.fail(OSError(errno.EIO, "later"))
    assert isinstance(ours.failure, ConnectionResetError)
    ours.close()


def test_a_reset_that_a_peek_meets_is_kept_too() -> None:
    ours, peer = tcp_pair()
    peer.close(reset=True)
    ours.wait_readable()
    with pytest.raises(ConnectionResetError):
        ours.peek(100)
    assert isinstance(ours.failure, ConnectionResetError)
    ours.close()


# The contract: waiting


def test_waits_for_both_directions_do_not_mind_each_other(pair: Pair) -> None:
    ours, peer = pair
    size = fill(ours)
    reader, writer = waiting(ours.wait_readable), waiting(ours.wait_writable)
    peer.send(b"data")
    finish(reader)
    assert not writer.ready()
    receive_all(peer, size)
    finish(writer)


@pytest.mark.parametrize("direction", ["wait_readable", "wait_writable"])
def test_two_who_wait_for_one_direction_are_a_mistake_that_leaves_the_first_one_waiting(
    pair: Pair, direction: str
) -> None:
    ours, peer = pair
    size = fill(ours)
    first = waiting(getattr(ours, direction))
    with pytest.raises(RuntimeError, match="two greenlets wait"):
        getattr(ours, direction)()
    assert not first.ready()
    peer.send(b"data")
    receive_all(peer, size)
    finish(first)


@pytest.mark.parametrize("direction", ["wait_readable", "wait_writable"])
def test_an_interrupted_wait_raises_what_interrupted_it_and_the_next_one_works(
    pair: Pair, direction: str
) -> None:
    ours, peer = pair
    size = fill(ours)

    def interrupted() -> BaseException:
        with pytest.raises(InterruptionError) as info:
            getattr(ours, direction)()
        return info.value

    error = InterruptionError()
    waiter = waiting(interrupted)
    waiter.kill(error, block=False)
    assert finish(waiter) is error
    waiter = waiting(getattr(ours, direction))
    peer.send(b"data")
    receive_all(peer, size)
    finish(waiter)


@pytest.mark.parametrize("ending", ["close", "stop", "detach"])
@pytest.mark.parametrize("direction", ["wait_readable", "wait_writable"])
def test_a_wait_returns_when_the_transport_is_closed(pair: Pair, direction: str, ending: str) -> None:
    ours, _ = pair
    fill(ours)
    waiter = waiting(getattr(ours, direction))
    descriptor = getattr(ours, ending)()
    assert ours.closed
    finish(waiter)
    if ending == "detach":
        os.close(descriptor)
    if ending != "stop":  # after which a last flush may wait
        getattr(ours, direction)()  # returns at once


def test_a_wait_that_is_killed_while_its_transport_is_closed_ends_once(pair: Pair) -> None:
    ours, _ = pair
    ends = []

    def wait() -> None:
        try:
            ours.wait_readable()
        finally:
            ends.append("end")
        Event().wait()

    waiter = waiting(wait)
    ours.close()
    waiter.kill(block=False)
    gevent.joinall([waiter], timeout=GUARD / 1000)
    assert ends == ["end"]
    assert isinstance(waiter.value, gevent.GreenletExit)


def test_who_is_interrupted_and_whose_transport_is_closed_then_is_woken_once(pair: Pair) -> None:
    ours, _ = pair
    go_on = Event()

    def wait() -> str:
        with pytest.raises(InterruptionError):
            ours.wait_readable()
        go_on.wait()  # whoever switches here by mistake makes this an error
        return "went on"

    waiter = waiting(wait)
    waiter.kill(InterruptionError, block=False)
    ours.close()
    for _ in range(3):
        gevent.sleep(0)
    assert not waiter.ready()
    go_on.set()
    assert finish(waiter) == "went on"


# The contract: what runs in the loop


def test_a_callback_for_room_runs_in_the_hub_while_there_is_room_until_it_is_taken_back(pair: Pair) -> None:
    ours, peer = pair
    size = fill(ours)
    called = Event()
    where = []

    def callback() -> None:
        where.append(gevent.getcurrent())
        ours.call_when_writable(None)
        called.set()

    ours.call_when_writable(callback)
    gevent.sleep(0)
    assert not where
    receive_all(peer, size)
    assert called.wait(GUARD / 1000)
    assert where == [gevent.get_hub()]
    assert loop_turns() < _FEW_TURNS
    assert len(where) == 1


def test_who_waits_for_room_comes_before_the_callback_for_room(pair: Pair) -> None:
    ours, peer = pair
    size = fill(ours)
    seen: list[str] = []
    ours.call_when_writable(lambda: (seen.append("callback"), ours.call_when_writable(None)))
    waiter = waiting(lambda: (ours.wait_writable(), seen.append("waiter")))
    receive_all(peer, size)
    finish(waiter)
    while len(seen) < 2:
        gevent.sleep(0.001)
    assert seen == ["waiter", "callback"]


def test_what_is_to_run_in_the_loop_runs_once_before_the_loop_polls(pair: Pair) -> None:
    ours, peer = pair
    order: list[str] = []
    reader = waiting(lambda: (ours.wait_readable(), order.append("polled")))
    peer.send(b"data")
    ours.run_in_loop(lambda: order.append("in the hub" if ours.in_hub() else "elsewhere"))
    assert order == []
    assert not ours.in_hub()
    finish(reader)
    assert order == ["in the hub", "polled"]


def test_a_visit_to_the_loop_lets_those_run_whose_data_has_come(pair: Pair) -> None:
    ours, peer = pair
    reader = waiting(ours.wait_readable)
    peer.send(b"data")
    peer.yield_to_loop()
    peer.yield_to_loop()
    assert reader.ready()


def test_an_interrupted_visit_to_the_loop_leaves_no_timer(pair: Pair) -> None:
    ours, _ = pair
    before = active_watchers()
    visitor = gevent.spawn(ours.yield_to_loop)
    gevent.sleep(0)
    visitor.kill()
    assert active_watchers() == before


# The contract: closing, and whose it is


def test_closing_is_done_once_and_the_other_end_sees_it(pair: Pair) -> None:
    ours, peer = pair
    ours.close()
    ours.close(reset=True)
    ours.stop()
    peer.wait_readable()
    assert peer.receive(10) == b""


def test_a_stopped_transport_still_sends_and_can_wait_to_until_it_is_closed(pair: Pair) -> None:
    ours, peer = pair
    size = fill(ours)
    ours.stop()
    assert ours.closed
    sender = waiting(send_all, ours, b"last words")
    assert receive_all(peer, size) == b"x" * size
    finish(sender)
    ours.close()
    assert receive_all(peer, 100) == b"last words"


_CALLS: Final[dict[str, Callable[[PlainTransport], Any]]] = {
    "receive": lambda transport: transport.receive(1),
    "peek": lambda transport: transport.peek(1),
    "send": lambda transport: transport.send(b"x"),
    "wait_readable": lambda transport: transport.wait_readable(),
    "wait_writable": lambda transport: transport.wait_writable(),
    "yield_to_loop": lambda transport: transport.yield_to_loop(),
    "check_thread": lambda transport: transport.check_thread(),
    "accept": lambda transport: transport.accept(),
    "connect": lambda transport: transport.connect("\0nobody"),
}


def in_another_thread(call: Callable[..., Any], *arguments: Any) -> BaseException | None:
    """Call something in a thread of its own, with its own hub; give what it raised."""
    raised: list[BaseException | None] = []

    def run() -> None:
        try:
            call(*arguments)
        except BaseException as error:
            raised.append(error)
        else:
            raised.append(None)

    # Not threading.Thread, which in a patched process is a greenlet.
    gevent.get_hub().threadpool.apply(run)
    return raised[0]


@pytest.mark.parametrize("name", _CALLS)
def test_a_call_from_another_thread_is_refused(pair: Pair, name: str) -> None:
    ours, peer = pair
    before = active_watchers()
    error = in_another_thread(_CALLS[name], ours)
    assert isinstance(error, RuntimeError)
    assert "belongs to the hub of another thread" in str(error)
    assert active_watchers() == before
    peer.send(b"works on")
    assert receive_all(ours, 8) == b"works on"


def test_what_another_thread_has_to_close_is_closed_in_the_transports_own(pair: Pair) -> None:
    ours, peer = pair
    assert in_another_thread(ours.call_in_own_thread, ours.close) is None
    peer.wait_readable()
    assert peer.receive(1) == b""
    assert ours.closed


def test_a_transport_has_a_name_for_messages(pair: Pair) -> None:
    ours, _ = pair
    assert isinstance(ours.describe(), str)
    ours.peer = ("192.0.2.1", 80)
    assert ours.describe() == "192.0.2.1:80"


# The plain transport: connecting


def test_accept_gives_a_connection_or_none() -> None:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        address = made.getsockname()
        listener = take_over(made)
    assert listener.accept() is None
    with socket.create_connection(address) as client:
        listener.wait_readable()
        accepted = listener.accept()
        assert accepted is not None
        transport, peer = accepted
        assert peer == transport.peer == client.getsockname()
        assert not os.get_inheritable(transport.socket.fileno())
        assert transport.receive(1) is None  # and did not wait
        transport.close()
    assert listener.accept() is None
    listener.close()


def test_connect_gives_0_or_the_number_of_what_is_wrong() -> None:
    with ExitStack() as stack:
        refused = stack.enter_context(closed_port())
        hole = stack.enter_context(black_hole())
        for address, number in ((refused, errno.ECONNREFUSED), (hole, errno.EALREADY)):
            transport = take_over(socket.socket())
            code = transport.connect(address)
            if code == errno.EINPROGRESS and number != errno.EALREADY:
                transport.wait_writable()
            assert code in (errno.EINPROGRESS, number)
            assert transport.connect(address) in (number, errno.ECONNABORTED)
            transport.close()


# The plain transport: its watchers


def watchers_of(transport: PlainTransport) -> list[str]:
    return [text for text in active_watchers() if f" fd={transport.socket.fileno()} " in text]


def test_the_watcher_stays_started_between_two_waits(pair: Pair) -> None:
    ours, peer = pair
    first: list[str] = []
    for _ in range(3):
        peer.send(b"x")
        ours.wait_readable()
        assert ours.receive(10) == b"x"
        assert len(watchers_of(ours)) == 1
        first = first or watchers_of(ours)
        assert watchers_of(ours) == first
        gevent.sleep(0.001)  # a turn of the loop without an event does not stop it either
        assert watchers_of(ours) == first


def test_the_watcher_is_stopped_by_the_first_event_that_finds_nobody(pair: Pair) -> None:
    ours, peer = pair
    peer.send(b"x")
    ours.wait_readable()
    assert loop_turns() < _FEW_TURNS, "data that nobody takes makes the loop spin"
    assert watchers_of(ours) == []
    assert ours.receive(10) == b"x"
    peer.send(b"y")
    ours.wait_readable()
    assert ours.receive(10) == b"y"
    assert len(watchers_of(ours)) == 1


def test_the_watcher_of_an_end_of_stream_makes_no_loop_spin(pair: Pair) -> None:
    ours, peer = pair
    peer.close()
    ours.wait_readable()
    assert ours.receive(10) == b""
    assert loop_turns() < _FEW_TURNS
    assert watchers_of(ours) == []


def test_the_watcher_counts_as_work_of_the_loop_while_somebody_waits_only(pair: Pair) -> None:
    ours, peer = pair
    loop = gevent.get_hub().loop
    idle = loop.activecnt
    reader = waiting(ours.wait_readable)
    assert loop.activecnt == idle + 1
    peer.send(b"x")
    finish(reader)
    assert watchers_of(ours)
    assert loop.activecnt == idle
    reader = waiting(ours.wait_readable)
    reader.kill()
    assert loop.activecnt == idle
    fill(ours)
    ours.call_when_writable(lambda: None)
    assert loop.activecnt == idle + 1
    ours.call_when_writable(None)
    assert loop.activecnt == idle


_IDLE: Final = r"""
import sys
import gevent, gnet
from gevent import socket

left, peer = socket.socketpair()
ours = gnet.Socket.adopt(left)
peer.sendall(b"line\n")
assert ours.read_line() == b"line"
if sys.argv[1] == "idle":
    assert gevent.wait(timeout=10) is True, "an idle connection keeps gevent.wait() from ending"
    assert gevent.get_hub().join(timeout=10) is True
else:
    reader = gevent.spawn(ours.read_line)
    gevent.sleep(0)
    assert gevent.wait(timeout=0.1) is False, "gevent.wait() has ended although somebody reads"
    peer.sendall(b"second\n")
    assert gevent.wait(timeout=10) is True
    assert reader.value == b"second"
"""


@pytest.mark.parametrize("who", ["idle", "reading"])
def test_gevent_wait_ends_when_nobody_waits_in_a_socket(who: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _IDLE, who],
        cwd=_ROOT,
        capture_output=True,
        timeout=GUARD / 1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_socket_that_is_dropped_unclosed_is_collected_although_its_watchers_run() -> None:
    left, right = socket.socketpair()
    with right:
        dropped = gnet.Socket.adopt(left)
        right.sendall(b"line\n")
        assert dropped.read_line() == b"line"
        descriptor = dropped.fileno()
        gone = weakref.ref(dropped)
        with pytest.warns(ResourceWarning, match="unclosed <gnet.Socket"):
            del dropped
        assert gone() is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        assert right.recv(1) == b""


def test_a_socket_that_is_dropped_while_it_sends_in_the_background_is_collected() -> None:
    left, right = socket.socketpair()
    with right:
        dropped = gnet.Socket.adopt(left)
        assert dropped.try_send(b"x" * 8_000_000)
        gone = weakref.ref(dropped)
        before = gevent.get_hub().loop.activecnt
        with pytest.warns(ResourceWarning, match="unclosed <gnet.Socket"):
            del dropped
        assert gone() is None
        assert gevent.get_hub().loop.activecnt < before


def test_an_event_that_is_due_for_a_closed_transport_harms_nobody() -> None:
    # Both have data; whoever runs first closes the other, whose event is in the same turn.
    ours, others = tcp_pair(), tcp_pair()

    def read(mine: PlainTransport, other: PlainTransport) -> bytes | None:
        mine.wait_readable()
        if mine.closed:
            return None
        other.close()
        return mine.receive(10)

    readers = [waiting(read, ours[0], others[0]), waiting(read, others[0], ours[0])]
    ours[1].send(b"data")
    others[1].send(b"data")
    assert sorted(map(str, map(finish, readers))) == ["None", "b'data'"]
    for transport in (*ours, *others):
        transport.close()


def test_a_new_descriptor_with_an_old_number_has_events_of_its_own() -> None:
    numbers = set()
    for count in range(50):
        ours, peer = unix_pair()
        numbers.add(ours.socket.fileno())
        reader = waiting(ours.wait_readable)
        peer.send(b"%d" % count)
        finish(reader)
        assert ours.receive(10) == b"%d" % count
        ours.close()  # with the watcher started
        peer.close()
    assert len(numbers) < 50, "no number was used again: this tests nothing"


def test_a_readiness_refers_to_nothing_but_who_waits() -> None:
    class Holder:
        pass

    left, right = socket.socketpair()
    with left, right:
        readiness = Readiness(gevent.get_hub(), left.fileno(), READ)
        holder = Holder()
        gone = weakref.ref(holder)
        right.sendall(b"x")

        def wait(kept: Holder) -> None:
            readiness.wait()

        finish(gevent.spawn(wait, holder))
        del holder
        assert gone() is None
        readiness.close()
        readiness.close()
        readiness.wait()  # closed: returns
        readiness.call(lambda: None)  # and calls nothing
        assert watchers_count(left.fileno()) == 0


def watchers_count(descriptor: int) -> int:
    return sum(f" fd={descriptor} " in text for text in active_watchers())


@contextmanager
def _detached(transport: PlainTransport) -> Iterator[int]:
    descriptor = transport.detach()
    yield descriptor
    os.close(descriptor)


def test_a_detached_descriptor_is_blocking_again_and_nobody_watches_it(pair: Pair) -> None:
    ours, peer = pair
    waiter = waiting(ours.wait_readable)
    with _detached(ours) as descriptor:
        assert os.get_blocking(descriptor)
        finish(waiter)
        assert watchers_count(descriptor) == 0
        os.write(descriptor, b"still open")
        assert receive_all(peer, 10) == b"still open"
