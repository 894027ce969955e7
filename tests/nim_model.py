"""What Nim's `net` and gnet answer to a scripted peer, worked out in virtual time. No sockets.

`answers(case, rules)` plays a case of `data/nim_stream.jsonl.gz`: a peer with a script and a client
with a list of calls. Without any rule the client is Nim 1.6.10's, defects included; each `Rule`
replaces one of its habits by the one that gnet documents. So the model can be held against Nim's own
answers (no rules) and against gnet's (all rules), and what a single rule changes can be asked.

An answer is a dictionary: `r` (what was read, in hex, or another result), `ret` (a count), or `exc`
and, for an OSError, `errno`. Exceptions have Nim's names; see `nim_driver.py`.
"""

from __future__ import annotations

import enum
import errno
from collections import deque
from collections.abc import Callable
from typing import Any, Final

DISCONNECTIONS: Final = {errno.EPIPE, errno.ENETRESET, errno.ECONNRESET}
FOR_EVER: Final = float("inf")
NIM_BUFFER: Final = 4000
LARGEST_READ: Final = 256_000

CR: Final = b"\r"
LF: Final = b"\n"
BLANK: Final = b"\r\n"

Answer = dict[str, Any]
"""What a call gave."""


class Rule(enum.Enum):
    """Something that gnet does in another way than Nim; the value says how and why."""

    MAX_LENGTH = (
        "a line has at most max_length bytes (0: none is taken and the line is b'')",
        "that is what a maximum is; Nim gives one byte more, and takes 0 for 1",
    )
    NEGATIVE_MAX_LENGTH = (
        "a negative max_length is a ValueError",
        "it is a mistake of the caller; Nim takes it for 0",
    )
    NEGATIVE_TIMEOUT = (
        "a negative timeout other than -1 is a ValueError",
        "it is a mistake of the caller; Nim raises TimeoutError without a look at the socket",
    )
    TIMEOUT_0_TRIES = (
        "timeout 0 takes what is here now",
        "the only use there is for it; Nim raises TimeoutError without a look at the socket",
    )
    TIMEOUT_KEEPS = (
        "what arrived before a timeout stays for the next read",
        "a timeout is no reason to lose data; Nim drops it (and a CR whose LF is still to come, "
        "so that the LF reads as a blank line)",
    )
    TAIL_STAYS = (
        "a last line without a terminator stays readable with recv",
        "it is data that arrived; Nim's readLine drops it",
    )
    CR_AT_END_ENDS_LINE = (
        "a CR at the end of the stream (or before a reset) ends its line",
        "no LF can follow; Nim loses the line, or raises whatever errno held before",
    )
    RESET_LOSES_NOTHING = (
        "recv with a timeout gives what arrived before a reset",
        "it is data that arrived; Nim drops it, as its recv without a timeout does not",
    )
    RESET_IS_AN_END = (
        "a reset under SAFE_DISCONN reads as an end of stream: nothing, a count of 0",
        "there is no such thing as -1 bytes, which is what Nim gives",
    )
    ERRORS_STICK = (
        "a fatal error is raised by each later read, and only after all data",
        "a caller that retries must not take it for an orderly end, which is what Nim reports then",
    )
    OWN_SOCKET_ERROR = (
        "get_socket_error knows the errors of all calls on this socket, and of no other",
        "Nim gives the thread's last errno, or else that of a failed read",
    )
    CLOSED_IS_CLOSED = (
        "every call on a closed socket but close raises ClosedError, and nothing is buffered",
        "Nim goes on reading from its buffer, or waits for descriptor -1 until the timeout",
    )
    UNBUFFERED_READS_ONCE = (
        "recv on an unbuffered socket gives what one read gives, with a timeout too",
        "as Nim documents; Nim's recv with a timeout, or into a pointer, goes on till it is full",
    )
    READS_GROW = (
        "one read of the kernel takes more than the one before as long as these are full",
        "fewer system calls; Nim reads 4,000 bytes at a time, which has_data_buffered shows",
    )
    SEND_RAISES = (
        "every form of send raises what goes wrong",
        "there is one send, which Nim's with a pointer is part of; that one gives -1",
    )

    def __init__(self, habit: str, reason: str) -> None:
        self.habit = habit
        self.reason = reason


NIM: Final[frozenset[Rule]] = frozenset()
GNET: Final = frozenset(Rule)


class End(enum.Enum):
    """Why there is no byte."""

    OF_STREAM = enum.auto()
    RESET = enum.auto()
    OF_TIME = enum.auto()


class Raised(Exception):
    """What the client's call raises, no error of the model: the name as Nim has it, an OSError's errno."""

    def __init__(self, name: str, number: int | None = None) -> None:
        super().__init__(name, number)
        self.answer: Answer = {"exc": name} if number is None else {"exc": name, "errno": number}


def answers(case: dict[str, Any], rules: frozenset[Rule]) -> list[Answer]:
    """Give what each call of the case answers under these rules."""
    client = Client(case, rules)
    found = []
    for op in case["ops"]:
        if not case.get("keep_errno"):
            client.errno = 0
        try:
            found.append(client.call(op))
        except Raised as raised:
            found.append(raised.answer)
    return found


class Kernel:
    """The peer, the network and the client's side of the kernel. Times are milliseconds.

    The peer acts only while the client waits, and then as far as it can, as two greenlets of one
    hub do.
    """

    def __init__(self, script: list[list[Any]]) -> None:
        self._steps = deque(script)
        self._peer_time = 0.0
        self._marks = 0
        self._from_client = 0
        self.now = 0.0
        self.arrived = bytearray()
        self.ended = False
        self.reset = False
        self.error = 0  # not yet reported, SO_ERROR

    def wait_for_mark(self) -> None:
        """Let time pass until the peer has reached its next mark."""
        self._pass(lambda: self._marks > 0, FOR_EVER)
        self._marks -= 1

    def wait_readable(self, limit: float) -> float | None:
        """Let time pass until there is something to read; give how long that took, `None`: too long."""
        start = self.now
        return self.now - start if self._pass(self._readable, limit) else None

    def sleep(self, length: float) -> None:
        """Let this much time pass."""
        self._pass(lambda: False, length)

    def end(self) -> End:
        """Tell why nothing arrived; a reset is reported once."""
        assert self.ended
        return End.RESET if self.take_error() else End.OF_STREAM

    def take_error(self) -> int:
        """Give SO_ERROR, which clears it."""
        number, self.error = self.error, 0
        return number

    def send(self, size: int) -> int:
        """Send; give an errno number, or 0 if that went well."""
        if self.reset:
            return self.take_error() or errno.EPIPE
        self._from_client += size
        self._peer_time = max(self._peer_time, self.now)
        return 0

    def _readable(self) -> bool:
        return bool(self.arrived) or self.ended

    def _pass(self, reached: Callable[[], bool], limit: float) -> bool:
        """Let the peer act until `reached()`, at most `limit` ms from now."""
        end = self.now + limit
        if reached():
            return True
        self._run(self.now)
        while not reached():
            if not self._steps or self._needs_client() or self._peer_time > end:
                assert end != FOR_EVER, "the client would wait for ever"
                self.now = end
                return False
            self.now = max(self.now, self._peer_time)
            self._run(self.now)
        return True

    def _needs_client(self) -> bool:
        step = self._steps[0]
        return bool(step[0] == "need" and self._from_client < step[1])

    def _run(self, until: float) -> None:
        """Take the peer's steps up to a moment."""
        while self._steps and self._peer_time <= until and not self._needs_client():
            kind, *arguments = self._steps.popleft()
            if kind == "send":
                self.arrived += bytes.fromhex(arguments[0])
            elif kind == "sleep":
                self._peer_time += arguments[0]
            elif kind == "mark":
                self._marks += 1
            elif kind in ("fin", "close"):
                self.ended = True
            elif kind == "rst":
                self.ended = self.reset = True
                self.error = errno.ECONNRESET


class Wait:
    """The time that one call may wait. Nim does not count the time between two waits, nor does gnet."""

    def __init__(self, kernel: Kernel, timeout: float, rules: frozenset[Rule]) -> None:
        self._kernel = kernel
        self.limited = timeout != -1
        self._left = timeout if self.limited else FOR_EVER
        self._try_once = timeout == 0 and Rule.TIMEOUT_0_TRIES in rules

    def readable(self) -> bool:
        """Wait until there is something to read; False: time is over."""
        if self._left < 1 and not self._try_once:
            return False
        took = self._kernel.wait_readable(self._left)
        if took is None:
            return False
        self._left -= took
        return True


class Client:
    """A client socket: Nim's with no rules, gnet's with all of them."""

    def __init__(self, case: dict[str, Any], rules: frozenset[Rule]) -> None:
        self._rules = rules
        self._buffered: bool = case["buffered"]
        self._kernel = Kernel(case["peer"])
        self._buffer = bytearray()
        self._read_size = NIM_BUFFER
        self._closed = False
        self._failure = 0  # errno of the first failed read or, by OWN_SOCKET_ERROR, of any call
        self.errno = 0  # the thread's

    def call(self, op: dict[str, Any]) -> Answer:
        """Make one call."""
        kind = op["op"]
        timeout = op.get("timeout", -1)
        safe = op.get("flags", "S") == "S"
        if kind in ("readLine", "recvLine"):
            return {"r": self._read_line(timeout, safe, op.get("max", 1_000_000)).hex()}
        if kind == "recv":
            return {"r": self._recv_checked(op["size"], timeout, safe)[0].hex()}
        if kind == "recvVar":
            data, count = self._recv_checked(op["size"], timeout, safe)
            return {"r": data.hex(), "ret": count}
        if kind in ("recvPtr", "recvPtrT"):
            # The forms with a pointer have no flags, and never raise for what the network does.
            timed = kind == "recvPtrT"
            data, count = self._recv(op["size"], timeout if timed else -1, timed, True)
            return {"r": data.hex(), "ret": count}
        if kind == "skip":
            return {"ret": self._skip(op["size"], timeout)}
        if kind in ("send", "trySend", "sendPtr"):
            return self._send(kind, len(op["data"]) // 2 * op.get("rep", 1))
        simple: dict[str, Callable[[], Answer | None]] = {
            "has": lambda: {"r": bool(self._buffer)},
            "peer": self._peer,
            "local": lambda: {"r": ["127.0.0.1", True]},
            "sockerr": self._socket_error,
            "close": self._close,
            "stdin": self._kernel.wait_for_mark,
            "sleep": lambda: self._kernel.sleep(op["ms"]),
            "errno": lambda: setattr(self, "errno", op["v"]),
        }
        return simple[kind]() or {}

    # ------------------------------------------------------------------ reading

    def _read_line(self, timeout: float, safe: bool, max_length: int) -> bytes:
        exact = Rule.MAX_LENGTH in self._rules
        if max_length < 0 and Rule.NEGATIVE_MAX_LENGTH in self._rules:
            raise Raised("RangeDefect")
        wait = self._start(timeout)
        if exact and not max_length:
            return b""
        line = bytearray()
        while isinstance(byte := self._next(wait), bytes):
            if byte == LF:
                self._drop()
                return bytes(line) or BLANK
            if byte == CR:
                return self._finish_line(line, wait, safe)
            if exact and len(line) == max_length:
                return bytes(line)
            line += byte
            self._drop()
            if not exact and len(line) > max_length:
                return bytes(line)
        self._give_back(line, Rule.TIMEOUT_KEEPS if byte is End.OF_TIME else Rule.TAIL_STAYS)
        self._raise(byte, safe)
        return b""

    def _finish_line(self, line: bytearray, wait: Wait, safe: bool) -> bytes:
        """The next byte is a CR: drop it with the LF behind it, if there is one."""
        self._drop()
        byte = self._next(wait)
        if isinstance(byte, bytes):
            if byte == LF:
                self._drop()
        elif byte is End.OF_TIME:
            self._give_back(line + CR, Rule.TIMEOUT_KEEPS)
            self._raise(byte, safe)
        elif Rule.CR_AT_END_ENDS_LINE not in self._rules:
            if byte is End.OF_STREAM:
                number = self.errno or self._failure
                if not number:
                    raise Raised("OSError", 0)
                return b"" if safe and number in DISCONNECTIONS else bytes(line)
            self._raise(byte, safe)
            return b""
        return bytes(line) or BLANK

    def _recv_checked(self, size: int, timeout: float, safe: bool) -> tuple[bytes, int]:
        """The forms that take flags."""
        if size < 0:
            raise Raised("RangeDefect")
        data, count = self._recv(size, timeout, timeout != -1, safe)
        if count < 0 and not safe:
            raise Raised("OSError", self._failure)
        return data, count

    def _recv(self, size: int, timeout: float, to_the_end: bool, safe: bool) -> tuple[bytes, int]:
        """Receive; give the data and their number, or -1.

        Args:
            to_the_end: go on until all is there, whether buffered or not.
        """
        wait = self._start(timeout)
        # Whether a reset makes it forget what it has: between two reads it does, within one it does not.
        drops = to_the_end and (wait.limited or not self._buffered)
        drops = drops and Rule.RESET_LOSES_NOTHING not in self._rules
        data = bytearray()
        while len(data) < size:
            byte = self._next(wait)
            if isinstance(byte, bytes):
                data += self._take(size - len(data))
                if not self._buffered and (not to_the_end or Rule.UNBUFFERED_READS_ONCE in self._rules):
                    break
            elif byte is End.OF_TIME:
                self._give_back(data, Rule.TIMEOUT_KEEPS)
                self._raise(byte, safe)
            elif byte is End.RESET and (drops or not data):
                if Rule.RESET_IS_AN_END not in self._rules:
                    return b"", -1
                self._raise(byte, safe)
                return b"", 0
            else:
                break
        return bytes(data), len(data)

    def _skip(self, size: int, timeout: float) -> int:
        wait = self._start(timeout)
        left = size
        while left:
            byte = self._next(wait)
            if not isinstance(byte, bytes):
                assert byte is End.OF_TIME, "at the end of the stream Nim's skip spins: not in these cases"
                self._raise(byte, True)
            left -= len(self._take(left))
        return size

    # ------------------------------------------------------------------ the rest

    def _send(self, kind: str, size: int) -> Answer:
        if self._closed:
            raise Raised("AssertionDefect")
        number = self._kernel.send(size) if size else 0
        if number:
            self.errno = number
            if Rule.OWN_SOCKET_ERROR in self._rules:
                self._failure = self._failure or number
        if kind == "trySend":
            return {"r": not number}
        if number:
            if kind == "sendPtr" and Rule.SEND_RAISES not in self._rules:
                return {"ret": -1}
            raise Raised("OSError", number)
        return {}

    def _peer(self) -> Answer:
        if self._kernel.reset:
            raise Raised("OSError", errno.ENOTCONN)
        return {"r": ["127.0.0.1", True]}

    def _socket_error(self) -> Answer:
        number = self.errno
        if Rule.OWN_SOCKET_ERROR in self._rules:
            number = self._kernel.take_error()
            self._failure = self._failure or number
        if self._closed and Rule.CLOSED_IS_CLOSED in self._rules:
            raise Raised("AssertionDefect")
        number = number or self._failure
        if not number:
            raise Raised("OSError", 0)
        return {"r": number}

    def _close(self) -> None:
        self._closed = True
        if Rule.CLOSED_IS_CLOSED in self._rules:
            self._buffer.clear()

    # ------------------------------------------------------------------ bytes

    def _start(self, timeout: float) -> Wait:
        """The checks that a reading call begins with."""
        if timeout < 0 and timeout != -1 and Rule.NEGATIVE_TIMEOUT in self._rules:
            raise Raised("RangeDefect")
        if self._closed and Rule.CLOSED_IS_CLOSED in self._rules:
            raise Raised("AssertionDefect")
        return Wait(self._kernel, timeout, self._rules)

    def _next(self, wait: Wait) -> bytes | End:
        """Wait for the next byte, look at it and leave it where it is."""
        if not self._buffer:
            if self._closed:
                # With a limit, Nim polls descriptor -1, which says nothing until the time is over.
                raise Raised("TimeoutError" if wait.limited else "AssertionDefect")
            if not wait.readable():
                return End.OF_TIME
            if not self._kernel.arrived:
                return self._end()
            if not self._buffered:
                return bytes(self._kernel.arrived[:1])
            self._fill()
        return bytes(self._buffer[:1])

    def _end(self) -> End:
        end = self._kernel.end()
        if end is End.RESET:
            self.errno = errno.ECONNRESET
            self._failure = self._failure or errno.ECONNRESET
        elif Rule.ERRORS_STICK in self._rules and self._failure:
            end = End.RESET
        return end

    def _fill(self) -> None:
        """One read into the buffer."""
        arrived = self._kernel.arrived
        data = arrived[: self._read_size]
        del arrived[: self._read_size]
        self._buffer += data
        if Rule.READS_GROW in self._rules:
            if len(data) == self._read_size:
                self._read_size = min(2 * self._read_size, LARGEST_READ)
            elif len(data) <= self._read_size // 2:
                self._read_size = max(self._read_size // 2, NIM_BUFFER)

    def _take(self, size: int) -> bytes:
        """Take bytes from the buffer or, unbuffered and with nothing given back, from the kernel."""
        source = self._buffer or self._kernel.arrived
        data = bytes(source[:size])
        del source[:size]
        return data

    def _drop(self) -> None:
        self._take(1)

    def _give_back(self, data: bytes | bytearray, rule: Rule) -> None:
        if rule in self._rules:
            self._buffer[:0] = data

    def _raise(self, end: bytes | End, safe: bool) -> None:
        """Raise for the end of the data, unless it is one to pass over."""
        if end is End.OF_TIME:
            raise Raised("TimeoutError")
        if end is End.RESET and not safe:
            raise Raised("OSError", self._failure)
