"""What the commands have in common when they talk to whoever started them."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import gevent

from gnet.checks import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["complain", "fill_standard_streams", "quiet_interrupts"]


def complain(error: Exception) -> None:
    """Print an error on one line of standard error."""
    message = getattr(error, "strerror", None) or str(error)  # without "[Errno 111]"
    print(f"python -m gnet: {printable(message)}", file=sys.stderr)


def fill_standard_streams() -> None:
    """Open those that are closed: a socket that got such a number would be somebody's input or output."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) != descriptor:
                raise


@contextmanager
def quiet_interrupts() -> Iterator[None]:
    """Have gevent print nothing for a Ctrl-C, which comes out of the main greenlet as KeyboardInterrupt."""
    hub = gevent.get_hub()
    before = hub.NOT_ERROR
    hub.NOT_ERROR = (*before, KeyboardInterrupt)
    try:
        yield
    finally:
        hub.NOT_ERROR = before
