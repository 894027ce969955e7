"""The read buffer and the write queue: bytes in, answers out. No sockets, no waiting.

`ReadBuffer` keeps what arrived until somebody takes it. Its `take_…` methods answer at once: the
bytes asked for, or `None` for "not all here yet". A `None` takes nothing, so a caller that is
interrupted before it asks again has lost nothing. Who waits for more bytes, and what the end of
the stream means to a call, is decided elsewhere (`gnet.reading`).

Theory of operation. The bytes not yet taken are, in order:

    lines split ahead  +  the rest of the chunk   (or, instead of both: the long tail)

* The *chunk* is one `bytes` object and an offset. Most reads find all they want in it.
* *Lines split ahead*: once a few lines in a row were asked for, a few C calls split a whole block of
  them and each further line is a `list.pop()`. Measured per 80-byte line: 70 ns, against 200 ns for
  a find and a slice per line. The offset already stands behind the block; when something
  other than a line is asked for, `_unsplit` moves it back to the first line not yet taken.
* The *long tail* is a `bytearray` that collects a message whose end has not come: appending to it
  costs the same for each byte, however small the pieces. `_scanned` says how far it was searched.

There are two kinds of lines. Nim's end with LF, CRLF or a lone CR; Python's (`lines()`) with LF or
CRLF only. Each kind has a list of its own and at most one of the two lists is not empty.
"""

from __future__ import annotations

from typing import Final

from gnet.splitting import split_block

__all__ = ["LimitReachedError", "ReadBuffer", "WriteQueue"]

_CRLF: Final = b"\r\n"
_CR: Final = 0x0D
_LF: Final = 0x0A

# What a search was for, besides delimiters, which are bytes.
_NIM_LINE: Final = "nim line"
_PY_LINE: Final = "python line"

# What is split ahead at most: some 512 lines of the length of the first, within these bounds in
# bytes. It limits the memory of the list, and the lines handed out between two looks at fairness.
_BLOCK_LINES: Final = 512
_SMALLEST_BLOCK: Final = 2048
_LARGEST_BLOCK: Final = 32768
_MOST_LINES: Final = 2048

# The bytes to split ahead grow from single lines to that, by this factor for each block that was
# used up, and start again when something else is read in between. So going back to bytes costs no
# more than was gained before: a protocol that alternates lines and counted data (RESP, HTTP) pays
# nothing.
_SINGLE_LINES: Final = 3
_FIRST_BLOCK: Final = 128
_BLOCK_GROWTH: Final = 4

# A tail up to this size is joined with what arrives (one copy, some 100 ns); beyond it, collected.
_SHORT_TAIL: Final = 4096


class LimitReachedError(Exception):
    """No line end or delimiter within the limit; the caller turns it into the user's error."""

    def __init__(self, seen: int = 0, limit: int = 0) -> None:
        super().__init__(f"no end in {seen} bytes (limit {limit})")
        self.seen = seen
        self.limit = limit


class ReadBuffer:
    """Bytes received and not yet taken."""

    __slots__ = (
        "_ahead",
        "_block_lines",
        "_block_start",
        "_chunk",
        "_long_tail",
        "_longest",
        "_scanned",
        "_searched_for",
        "_start",
        "eof",
        "nim_ready",
        "py_ready",
        "work",
    )

    def __init__(self) -> None:
        self._chunk = b""
        self._start = 0  # the first byte of the chunk neither taken nor split ahead
        self._long_tail: bytearray | None = None  # if set, the chunk is empty and nothing is split
        self.nim_ready: list[bytes] = []
        """Lines split ahead by Nim's rules, without terminators, the next one last; always this list.

        Whoever pops one has taken it, as with `take_ready_line`. Behind a first line, which whoever
        had it split pops at once, none is longer than a block (32 KiB)."""
        self.py_ready: list[bytes] = []
        """The same for Python's rules; those lines are given out by `ready_lines`."""
        self._block_start = 0  # where in the chunk the split block begins
        self._block_lines = 0  # and how many lines it had
        self._longest = 0  # no line of it is longer
        self._scanned = 0  # bytes from the start that hold no end of `_searched_for`
        self._searched_for: str | bytes = b""
        self._ahead = -_SINGLE_LINES  # bytes worth splitting ahead; not above 0: the next line alone
        self.eof = False
        """The stream has ended: what is here is all there will be."""
        self.work = 0
        """Lines and takes handed out since somebody set this to 0, and one more for each 512 bytes."""

    # ------------------------------------------------------------------ feeding

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived. They are kept, not copied, where nothing else is waiting."""
        if self.nim_ready or self.py_ready:
            self._unsplit()
        tail = self._long_tail
        if tail is not None:
            tail += data
            return
        chunk = self._chunk
        start = self._start
        left = len(chunk) - start
        if not left:
            self._chunk = data
        elif left <= _SHORT_TAIL:
            self._chunk = chunk[start:] + data
        else:
            tail = bytearray(memoryview(chunk)[start:])
            tail += data
            self._long_tail = tail
            self._chunk = b""
        self._start = 0

    def feed_eof(self) -> None:
        """Note that the stream has ended. What is here stays readable."""
        self.eof = True

    def clear(self) -> None:
        """Drop everything, the lines that a running `lines()` loop has not reached included."""
        self.nim_ready.clear()
        self.py_ready.clear()
        self._long_tail = None
        self._chunk = b""
        self._start = self._scanned = 0

    # ------------------------------------------------------------------ looking

    def has_data(self) -> bool:
        """Whether any byte is here."""
        return (
            self._start < len(self._chunk)
            or bool(self.nim_ready)
            or bool(self.py_ready)
            or self._long_tail is not None
        )

    def __len__(self) -> int:
        """How many bytes are here."""
        if self._long_tail is not None:
            return len(self._long_tail)
        if self.nim_ready or self.py_ready:
            self._unsplit()
        return len(self._chunk) - self._start

    def peek(self, size: int) -> bytes:
        """Give up to `size` bytes from the start and leave them here."""
        if self._long_tail is not None:
            return bytes(memoryview(self._long_tail)[:size])
        if self.nim_ready or self.py_ready:
            self._unsplit()
        return self._chunk[self._start : self._start + size]

    # ------------------------------------------------------------------ taking bytes

    def take(self, size: int) -> bytes:
        """Take up to `size` bytes: what is here, `b""` if nothing is."""
        self._ahead = -_SINGLE_LINES
        self._scanned = 0
        tail = self._long_tail
        if tail is not None and size < len(tail):  # one copy of what is taken, none of the rest
            with memoryview(tail) as view:
                data = bytes(view[:size])
            del tail[:size]
            self.work += 1 + (size >> 9)
            return data
        chunk = self._to_bytes()
        start = self._start
        end = start + size
        if end < len(chunk):
            self._start = end
            data = chunk[start:end]
        else:
            self._chunk = b""
            self._start = 0
            data = chunk[start:] if start else chunk
        self.work += 1 + (len(data) >> 9)
        return data

    def take_exactly(self, size: int) -> bytes | None:
        """Take exactly `size` bytes, or `None` if fewer are here."""
        if len(self) >= size:
            return self.take(size)
        self._release_taken()
        return None

    def take_into(self, target: memoryview) -> int:
        """Move bytes into `target`, as many as are here and fit; give their number."""
        data = self.take(len(target))
        target[: len(data)] = data
        return len(data)

    def discard(self, size: int) -> int:
        """Take up to `size` bytes and drop them; give their number."""
        return len(self.take(size))

    def take_until(self, delimiter: bytes, max_length: int) -> bytes | None:
        """Take up to and including `delimiter`, or `None` if it is not here yet.

        Raises:
            LimitReachedError: the message with its delimiter is, or is going to be, longer than
                `max_length`. Nothing was taken.
        """
        tail = self._long_tail
        content: bytes | bytearray
        if tail is not None:
            content, start = tail, 0
        else:
            if self.nim_ready or self.py_ready:
                self._unsplit()
            content, start = self._chunk, self._start
        searched = self._scanned if self._searched_for == delimiter else 0
        # The delimiter may straddle what was searched before and what came since.
        at = content.find(delimiter, start + max(0, searched - len(delimiter) + 1))
        available = len(content) - start
        if at < 0:
            self._scanned = available
            self._searched_for = delimiter
            # The earliest end possible now: all of the delimiter but its first byte still to come.
            if available >= max_length:
                raise LimitReachedError(available, max_length)
            self._release_taken()
            return None
        end = at + len(delimiter) - start
        if end > max_length:
            raise LimitReachedError(end, max_length)
        return self.take(end)

    # ------------------------------------------------------------------ taking lines

    def take_ready_line(self, max_length: int) -> bytes | None:
        """`take_line`, but only from the lines split ahead; `None` also if there are none."""
        ready = self.nim_ready
        if ready and len(ready[-1]) <= max_length > 0:
            return ready.pop() or _CRLF
        return None

    def take_line(self, max_length: int) -> bytes | None:
        """Take a line by Nim's rules, without its terminator (LF, CRLF or a lone CR).

        Args:
            max_length: at least 0. A longer line is given in parts of this size, without a mark.
        Returns:
            The line; `b"\\r\\n"` for a blank one; `b""` only if `max_length` is 0; `None` if no
            line is complete. A CR at the end of what is here waits for the byte behind it (an LF
            belongs to it), unless the stream has ended.
        """
        if not max_length:
            return b""
        if self.nim_ready:
            line = self.take_ready_line(max_length)
            if line is not None:
                return line
        elif not self._start and self._long_tail is None and not self.py_ready:
            # A shortcut for request and response: the chunk is one whole line.
            chunk = self._chunk
            if not chunk and not self.eof:
                return None
            end = chunk.find(b"\n")
            if 0 < end <= max_length and end + 1 == len(chunk):
                cr = chunk.find(b"\r")
                if cr < 0 or cr == end - 1:
                    line = chunk[: end if cr < 0 else cr]
                    self._chunk = b""
                    self._scanned = 0
                    self.work += 1 + (end >> 9)
                    return line or _CRLF
        return self._search_line(max_length, self.eof)

    def take_last_line(self, max_length: int) -> bytes | None:
        """`take_line`, told that no LF follows: a CR at the end of what is here ends its line."""
        return self._search_line(max_length, True)

    def ready_lines(self, max_length: int, bare_cr: bool) -> list[bytes] | None:
        """Give the list of the next lines without their terminators, the first one *last*.

        The list stays this buffer's own: the caller pops lines off its end one by one, and may be
        interrupted between any two; whatever else is called here meanwhile empties the list.

        Args:
            max_length: bytes that a line may have, without its terminator.
            bare_cr: a lone CR ends a line, too.
        Returns:
            A list that is not empty, or `None` if no line is complete.
        Raises:
            LimitReachedError: the next line is longer than `max_length`. Nothing was taken.
        """
        if bare_cr:
            return self._ready_nim_lines(max_length)
        ready = self.py_ready
        if ready:
            if self._are_within(ready, max_length):
                return ready
        elif self._long_tail is None and not self.nim_ready:
            # Shortcuts for request and response: nothing is here, or the chunk is one whole line.
            chunk = self._chunk
            size = len(chunk)
            if self._start == size:
                self._chunk = b""
                self._start = self._scanned = 0
                return None
            if not self._start and (at := chunk.find(b"\n")) + 1 == size and at <= max_length:
                ready.append(chunk[: at - 1] if at and chunk[at - 1] == _CR else chunk[:at])
                self._split_off(0, size)
                self._block_lines = 1
                self.work += 1 + (at >> 9)
                return ready
        if self._tail_goes_on(_PY_LINE, b"\n", max_length):
            return None
        chunk = self._to_bytes()
        start = self._start
        first = chunk.find(b"\n", start, start + _LARGEST_BLOCK)
        if start <= first < start + max_length:
            size = min(max(self._next_block(first - start), first + 1 - start), max_length)
            end = chunk.rfind(b"\n", start, start + size) + 1
            lines = split_block(chunk[start:end], first - start, bare_cr=False)
            if len(lines) > _MOST_LINES:  # short ones behind a long one
                end = max(first, chunk.rfind(b"\n", start, start + _SMALLEST_BLOCK)) + 1
                lines = split_block(chunk[start:end], first - start, bare_cr=False)
            ready.extend(lines)
            ready.reverse()
            self._split_off(start, end)
            self._block_lines = len(ready)
            self.work += len(ready)
            return ready
        # No line that is sure to be within the limit: none complete, or one longer than a block.
        searched = self._scanned if self._searched_for is _PY_LINE else 0
        at = chunk.find(b"\n", start + searched, start + max_length + 2)
        if at < 0:
            available = len(chunk) - start
            # A CR as the very next byte may be the first half of the line end.
            if available > max_length + (available > 0 and chunk[-1] == _CR):
                raise LimitReachedError(available, max_length)
            self._scanned = available
            self._searched_for = _PY_LINE
            self._release_taken()
            return None
        line_end = at - 1 if at > start and chunk[at - 1] == _CR else at
        if line_end - start > max_length:
            raise LimitReachedError(line_end - start, max_length)
        self._split_off(start, at + 1)
        ready.append(chunk[start:line_end])
        self._block_lines = 1
        self.work += 1 + (len(ready[0]) >> 9)
        return ready

    # ------------------------------------------------------------------ inside

    def _ready_nim_lines(self, max_length: int) -> list[bytes] | None:
        ready = self.nim_ready
        if ready and self._are_within(ready, max_length):
            return ready
        if not self.eof and self._tail_goes_on(_NIM_LINE, _CRLF, max_length):
            return None
        length = self._length_of_next_line(self.eof, max_length)
        if length is None:
            if self._scanned > max_length:
                raise LimitReachedError(self._scanned, max_length)
            self._release_taken()
            return None
        if length > max_length:
            raise LimitReachedError(length, max_length)
        # With a limit below a block's size, lines behind the first may be over it: one at a time.
        self._split_nim_block(length, self._next_block(length) if max_length >= _LARGEST_BLOCK else 0)
        return ready

    def _length_of_next_line(self, final: bool, limit: int) -> int | None:
        """Give the length of the next line by Nim's rules, or `None` if it is not known.

        Then `_scanned` bytes are known to belong to it: more than `limit`, or all that are here but
        for a CR at the very end.
        """
        chunk = self._to_bytes()
        start = self._start
        end = len(chunk)
        position = start + (self._scanned if self._searched_for is _NIM_LINE else 0)
        stop = min(end, start + limit + 1)
        # In windows, or a stream of lone CRs would be searched to its end for an LF at each line.
        while position < stop:
            window_end = min(position + _LARGEST_BLOCK, stop)
            lf = chunk.find(b"\n", position, window_end)
            cr = chunk.find(b"\r", position, lf if lf >= 0 else window_end)
            if cr >= 0:
                if cr + 1 < end or final:
                    return cr - start
                position = cr
                break
            if lf >= 0:
                return lf - start
            position = window_end
        self._searched_for = _NIM_LINE
        self._scanned = position - start
        return None

    def _search_line(self, max_length: int, final: bool) -> bytes | None:
        """Find the next line by Nim's rules; split more of them ahead if this goes on."""
        if not max_length:
            return b""
        if not final and self._tail_goes_on(_NIM_LINE, _CRLF, max_length):
            return None
        length = self._length_of_next_line(final, max_length)
        if length is None:
            if self._scanned > max_length:
                return self.take(max_length)
            self._release_taken()
            return None
        if length > max_length:
            return self.take(max_length)
        chunk = self._chunk
        start = self._start
        end = self._behind_line_end(start + length)
        if end == len(chunk):  # one line and no more: the common case of request and response
            self._chunk = b""
            self._start = self._scanned = 0
        elif (size := self._next_block(length)) > length:
            self._split_nim_block(length, size)
            return self.nim_ready.pop() or _CRLF
        else:
            self._start = end
            self._scanned = 0
        self.work += 1 + (length >> 9)
        return chunk[start : start + length] or _CRLF

    def _next_block(self, length: int) -> int:
        """Give the size in bytes of the block to split, which begins with a line of `length` bytes."""
        size = self._ahead
        if size < 0:
            self._ahead = size + 1
            return 0
        size = size or _FIRST_BLOCK
        self._ahead = size * _BLOCK_GROWTH
        most = min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, _BLOCK_LINES * (length + 1)))
        if size < most:
            return size
        self._ahead = size
        return most

    def _behind_line_end(self, position: int) -> int:
        """Give the position behind the terminator (LF, CRLF or CR) that stands at `position`."""
        chunk = self._chunk
        crlf = chunk[position] == _CR and chunk[position + 1 : position + 2] == b"\n"
        return position + 2 if crlf else position + 1

    def _split_nim_block(self, length: int, size: int) -> None:
        """Split off lines, the first of which is complete and has `length` bytes.

        Args:
            size: how many bytes to look at for more lines.
        """
        chunk = self._chunk
        start = self._start
        first_end = self._behind_line_end(start + length)
        end = self._end_of_nim_block(size)
        ready = self.nim_ready
        if end > first_end:
            lines = split_block(chunk[start:end], length, bare_cr=True)
            if len(lines) > _MOST_LINES:  # short ones behind a long one
                end = max(first_end, self._end_of_nim_block(_SMALLEST_BLOCK))
                lines = split_block(chunk[start:end], length, bare_cr=True)
            ready.extend(lines)
            ready.reverse()
        else:
            end = first_end
            ready.append(chunk[start : start + length])
        self._split_off(start, end)
        self._block_lines = len(ready)
        self.work += len(ready) + (length >> 9)

    def _end_of_nim_block(self, size: int) -> int:
        """Give the end of the last whole line within `size` bytes; the start or less if there is none."""
        chunk = self._chunk
        start = self._start
        # Up to an LF, so that the block does not end between a CR and its LF; else, in a stream of
        # lone CRs, up to a CR that has something behind it.
        end = chunk.rfind(b"\n", start, start + size) + 1
        if not end:
            end = chunk.rfind(b"\r", start, min(start + size, len(chunk) - 1)) + 1
            if end:
                end = self._behind_line_end(end - 1)
        return end

    def _are_within(self, ready: list[bytes], max_length: int) -> bool:
        """Whether no line that was split ahead is longer than `max_length`."""
        if max_length < self._longest:
            self._longest = max(map(len, ready))
        return max_length >= self._longest

    def _split_off(self, start: int, end: int) -> None:
        """Move the offset behind a block that is about to be split into lines."""
        self._block_start = start
        self._start = end
        self._scanned = 0
        self._longest = end - start

    def _unsplit(self) -> None:
        """Go back to bytes: move the offset to the first line that was not taken."""
        ready = self.nim_ready or self.py_ready
        taken = self._block_lines - len(ready)
        position = self._block_start
        chunk = self._chunk
        if ready is self.nim_ready:
            block = chunk[position : self._start]
            position += sum(map(len, block.splitlines(keepends=True)[:taken]))
        else:
            for _ in range(taken):
                position = chunk.find(b"\n", position) + 1
        ready.clear()
        self._start = position
        self._scanned = 0
        self._ahead = -_SINGLE_LINES

    def _to_bytes(self) -> bytes:
        """Bring everything into the chunk, nothing split ahead; give the chunk."""
        if self.nim_ready or self.py_ready:
            self._unsplit()
        elif self._long_tail is not None:
            self._chunk = bytes(self._long_tail)
            self._start = 0
            self._long_tail = None
        return self._chunk

    def _release_taken(self) -> None:
        """Let go of what was taken from the chunk, before a wait that may be long."""
        if self._start:
            self._chunk = self._chunk[self._start :]
            self._start = 0

    def _tail_goes_on(self, kind: str, ends: bytes, limit: int) -> bool:
        """Whether there is a long tail without any byte of `ends`; searches only what is new."""
        tail = self._long_tail
        if tail is None or len(tail) > limit:
            return False
        searched = self._scanned if self._searched_for is kind else 0
        for end in ends:
            if tail.find(end, searched) >= 0:
                return False
        self._searched_for = kind
        self._scanned = len(tail)
        return True


class WriteQueue:
    """Bytes that a send took and the kernel has not: whole messages, in order."""

    __slots__ = ("pieces", "room", "size", "went")

    def __init__(self) -> None:
        self.pieces: list[bytes | memoryview] = []
        """What `append` adds to; whoever adds here (a hot path) keeps `size` and `room` right."""
        self.size = 0
        """Bytes in the queue."""
        self.room = 0
        """Bytes that may be added without a thought: the writer has seen to all else, the flush included.

        It is the writer that sets this; whatever takes from the queue or ends it sets it to 0."""
        self.went = 0
        """Bytes that were discarded (sent) since the queue was last empty."""

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        if not self.size:
            self.went = 0
        if data:
            self.pieces.append(data)
            self.size += len(data)

    def joined(self) -> bytes | memoryview:
        """Give all the bytes as one object and leave them here."""
        pieces = self.pieces
        if len(pieces) > 1:
            pieces[:] = [b"".join(pieces)]
        return pieces[0] if pieces else b""

    def discard(self, size: int) -> None:
        """Drop the first `size` bytes of what `joined` gave: they are out."""
        self.room = 0
        self.went += size
        self.size -= size
        if self.size:
            self.pieces[0] = _without_start(self.pieces[0], size)
        else:
            self.pieces.clear()

    def clear(self) -> None:
        """Drop everything."""
        self.pieces.clear()
        self.size = self.room = 0


def _without_start(data: bytes | memoryview, size: int) -> bytes | memoryview:
    """Give `data` without its first `size` bytes.

    Copied each time, a large piece of which the kernel takes a little at a time would cost time in
    the square of its size; never copied, it would stay in memory until its last byte is out. So it
    is copied when half of it is out: all the copies together are no larger than the first piece.
    """
    rest = memoryview(data)[size:]
    return rest if 2 * len(rest) > len(memoryview(rest.obj)) else bytes(rest)
