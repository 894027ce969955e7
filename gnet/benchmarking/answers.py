"""Which of the lines that arrive are the answer that is expected: bytes in, counts out, and nothing waits."""

from __future__ import annotations

from gnet.errors import LineTooLongError
from gnet.options import MAX_LINE_LENGTH

__all__ = ["Answers", "shown_line"]

# Bytes of a wrong answer that a message shows.
_SHOWN = 60


class Answers:
    """The answers on one connection, each to be the same line, which ends with LF or CR LF."""

    __slots__ = ("_crlf", "_expected", "_lf", "_rest", "first_wrong")

    def __init__(self, expected: bytes) -> None:
        self._expected = expected
        self._lf = expected + b"\n"
        self._crlf = expected + b"\r\n"
        self._rest = b""  # the start of a line whose end has not come
        self.first_wrong: bytes | None = None

    def feed(self, data: bytes) -> tuple[int, tuple[int, ...]]:
        """Take bytes that have arrived; give how many lines they end, and which of them (from 0) are wrong.

        Raises:
            LineTooLongError: there is no line end within `MAX_LINE_LENGTH` bytes.
        """
        lines = data.count(b"\n")
        if not self._rest and data in (self._crlf * lines, self._lf * lines):
            return lines, ()
        whole = self._rest + data if self._rest else data
        if not lines:
            if len(whole) > MAX_LINE_LENGTH:
                raise LineTooLongError(
                    f"answer: no line end in {len(whole)} bytes (limit {MAX_LINE_LENGTH})",
                    limit=MAX_LINE_LENGTH,
                )
            self._rest = whole
            return 0, ()
        *every, self._rest = whole.split(b"\n")
        wrong = tuple(
            number for number, line in enumerate(every) if line.removesuffix(b"\r") != self._expected
        )
        if wrong and self.first_wrong is None:
            self.first_wrong = every[wrong[0]].removesuffix(b"\r")
        return lines, wrong


def shown_line(line: bytes) -> str:
    """Give a line for a message: as Python shows it, cut short."""
    return repr(line) if len(line) <= _SHOWN else f"{line[:_SHOWN]!r}... ({len(line)} bytes)"
