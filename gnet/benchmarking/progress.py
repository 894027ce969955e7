"""What a benchmark shows while it runs: one line that changes on a terminal, or else a line now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TextIO

from gnet.benchmarking.drawing import shown_ms

if TYPE_CHECKING:
    from gnet.benchmarking.outcome import Outcome

__all__ = ["ProgressLine"]

# Seconds between reports. Each costs the load some 0.2 ms, in which no answer is read: rare, so that even a
# p99.9 is not that of the reports.
_ON_TERMINAL: Final = 1.0
_ELSEWHERE: Final = 5.0

_ERASE_TO_END: Final = "\x1b[K"


class ProgressLine:
    """Writes to a stream, such as standard error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._began = self._before = time.monotonic()
        self._is_shown = False

    @property
    def interval(self) -> float:
        """How often, in seconds, `show` is to be called."""
        return _ON_TERMINAL if self._is_terminal else _ELSEWHERE

    def show(self, latest: Outcome, total: Outcome) -> None:
        """Show the figures since the last call, and how many errors there were in all."""
        now = time.monotonic()
        rate = latest.answered / max(now - self._before, 1e-9)
        self._before = now
        p50, p99 = latest.latencies.percentiles((50, 99))
        text = (
            f"{now - self._began:6.1f} s  {rate:>11,.0f}/s  p50 {shown_ms(p50)}  p99 {shown_ms(p99)}  "
            f"max {shown_ms(latest.latencies.most)} ms  errors {total.new_failures:,}"
        )
        self._is_shown = True
        self._write(f"\r{text[:79]}{_ERASE_TO_END}" if self._is_terminal else f"{text}\n")

    def start(self) -> None:
        """Begin to count the time."""
        self._began = self._before = time.monotonic()

    def end(self) -> None:
        """Leave no line behind on a terminal."""
        if self._is_shown and self._is_terminal:
            self._write(f"\r{_ERASE_TO_END}")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            pass  # nobody looks any more, which is no reason to end the measurement
