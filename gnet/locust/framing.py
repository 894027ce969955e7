"""How messages stand in a stream: lines with an end, or frames with their length before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NoReturn, Protocol

from gnet.checks import check_int
from gnet.errors import IncompleteReadError, LineTooLongError
from gnet.locust.answers import limited
from gnet.options import MAX_LINE_LENGTH, SocketFlag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gnet.sockets import Socket

__all__ = ["Framing", "LineFraming", "PrefixFraming", "raise_end"]

_BLANK: Final = b"\r\n"  # what read_line gives for a blank line

# Lines taken in one step, without a look at the clock: 10 µs of taking.
_MOST_AT_ONCE: Final = 64


class Framing(Protocol):
    """What a client asks of a framing."""

    def encode(self, message: bytes) -> bytes:
        """Give the message as it is sent."""
        ...

    def encode_many(self, messages: Sequence[bytes]) -> bytes:
        """Give several messages as they are sent."""
        ...

    def read(self, socket: Socket) -> bytes:
        """Wait for one message.

        Raises:
            OSError: the stream ended or broke before.
        """
        ...

    def read_group(self, socket: Socket, most: int, into: list[bytes]) -> None:
        """Wait for one message, and add it and those that came with it, up to `most` in all, to a list.

        Raises:
            OSError: as `read`. What came before is in the list.
        """
        ...


class LineFraming:
    """Lines: each is sent with a line end; LF, CRLF and a lone CR end those that come (`read_line`)."""

    __slots__ = ("_limit", "_line_end")

    def __init__(self, line_end: bytes, max_length: int) -> None:
        """Check the settings.

        Args:
            line_end: what `encode` adds.
            max_length: bytes that a line may have, without its end.
        """
        if not isinstance(line_end, bytes):
            raise TypeError(f"line_end: expected bytes, got {type(line_end).__name__}")
        if check_int(max_length, "max_length") < 1:
            raise ValueError(f"max_length: expected at least 1, got {max_length}")
        self._line_end = line_end
        # A line that fills one byte more is too long. The default is the very object that has read_line take
        # its short way.
        self._limit = MAX_LINE_LENGTH if max_length + 1 == MAX_LINE_LENGTH else max_length + 1

    def encode(self, message: bytes) -> bytes:
        """Add the line end."""
        try:
            return message + self._line_end
        except TypeError:
            raise TypeError(_no_bytes(message)) from None

    def encode_many(self, messages: Sequence[bytes]) -> bytes:
        """Add the line end to each."""
        try:
            return self._line_end.join(messages) + self._line_end
        except TypeError:
            return b"".join(map(self.encode, messages))  # which tells which

    def read(self, socket: Socket) -> bytes:
        """Read a line, `b""` if it is blank.

        Raises:
            IncompleteReadError: the stream ended. LineTooLongError. OSError: a reset among them.
        """
        line = socket.read_line(max_length=self._limit)
        if 2 < len(line) < self._limit:
            return line
        return self._uncommon(socket, line)

    def read_group(self, socket: Socket, most: int, into: list[bytes]) -> None:
        """Wait for one line, and take those that are there behind it."""
        limit = self._limit
        lines = socket.read_lines(most if most < _MOST_AT_ONCE else _MOST_AT_ONCE, max_length=limit)
        if not lines:
            raise_end(socket, "a line")
        if len(b"".join(lines)) >= limit:  # all together; so one may be
            for line in lines:
                self._check_length(line)
                into.append(b"" if line == _BLANK else line)
        elif _BLANK in lines:
            into.extend([b"" if line == _BLANK else line for line in lines])
        else:
            into.extend(lines)

    def _check_length(self, line: bytes) -> None:
        if len(line) >= self._limit:
            raise LineTooLongError(
                f"answer: no line end in {self._limit} bytes (limit {self._limit - 1})",
                limit=self._limit - 1,
            )

    def _uncommon(self, socket: Socket, line: bytes) -> bytes:
        """Say what a short or a long result of `read_line` means."""
        self._check_length(line)
        if line:
            return b"" if line == _BLANK else line
        raise_end(socket, "a line")


class PrefixFraming:
    """Frames: a length, as an unsigned integer of a few bytes, and as many bytes of content."""

    __slots__ = ("_begun", "_byte_order", "_max_length", "_prefix_size")

    def __init__(self, prefix_size: int, byte_order: Literal["big", "little"], max_length: int) -> None:
        """Check the settings.

        Args:
            prefix_size: bytes of the length, 1 to 8.
            byte_order: of the length.
            max_length: bytes that a frame may have, without its length.
        """
        if not 1 <= check_int(prefix_size, "prefix_size") <= 8:
            raise ValueError(f"prefix_size: expected 1 to 8 bytes, got {prefix_size}")
        if byte_order not in ("big", "little"):
            raise ValueError(f"byte_order: expected 'big' or 'little', got {byte_order!r}")
        if check_int(max_length, "max_length") < 1:
            raise ValueError(f"max_length: expected at least 1, got {max_length}")
        self._prefix_size = prefix_size
        self._byte_order = byte_order
        self._max_length = min(max_length, 256**prefix_size - 1)
        # The socket and the length of a frame whose content is to come: a read that is cut short goes on.
        self._begun: tuple[Socket, int] | None = None

    def encode(self, message: bytes) -> bytes:
        """Put the length before the message."""
        if not isinstance(message, bytes):
            raise TypeError(_no_bytes(message))
        if len(message) > self._max_length:
            raise ValueError(f"request: a frame of {len(message)} bytes (limit {self._max_length})")
        return len(message).to_bytes(self._prefix_size, self._byte_order) + message

    def encode_many(self, messages: Sequence[bytes]) -> bytes:
        """Put its length before each."""
        return b"".join(map(self.encode, messages))

    def read(self, socket: Socket) -> bytes:
        """Read a frame.

        Raises:
            IncompleteReadError: the stream ended. LineTooLongError: its length is over the limit.
            OSError: a reset among them.
        """
        begun, self._begun = self._begun, None
        try:
            if begun is None or begun[0] is not socket:
                begun = (socket, self._read_length(socket))
            return socket.recv_exactly(begun[1])
        except IncompleteReadError:
            raise_end(socket, "a frame")
        except BaseException:
            self._begun = begun
            raise

    def _read_length(self, socket: Socket) -> int:
        length = int.from_bytes(socket.recv_exactly(self._prefix_size), self._byte_order)
        if length > self._max_length:
            limit = self._max_length
            text = f"answer: a frame of {length} bytes (limit {limit})"
            raise LineTooLongError(
                limited(text, f"answer: a frame over the limit of {limit} bytes"), limit=limit
            )
        return length

    def read_group(self, socket: Socket, most: int, into: list[bytes]) -> None:
        """Wait for one frame."""
        into.append(self.read(socket))


def raise_end(socket: Socket, what: str) -> NoReturn:
    """Raise for a stream that has ended: a reset as what it is, else how far it came.

    Args:
        what: what was being read, e.g. `a line`.
    """
    socket.peek(1, flags=SocketFlag(0), timeout=0)  # what broke the stream, if anything did
    rest = socket.peek(2**20, timeout=0)
    text = "the server closed the connection instead of answering"
    if rest:
        begun = f"the server closed the connection in {what}"
        text = limited(f"{begun}, after {len(rest)} bytes of it", begun)
    raise IncompleteReadError(text, received=len(rest))


def _no_bytes(message: object) -> str:
    hint = f" {message[:20]!r}; encode it, e.g. .encode()" if isinstance(message, str) else ""
    return f"request: expected bytes, got {type(message).__name__}{hint}"
