"""Two ways to start a worker process: a program of its own, or a fork of this one before it has a hub."""

from __future__ import annotations

import _socket
import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from gevent.monkey import get_original

from gnet.serving.channels import Channel
from gnet.serving.signals import Signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

__all__ = ["WORKER_SIGNALS", "Launch", "fork_worker", "taken_channel", "worker_program"]

Launch: TypeAlias = "Callable[[_socket.socket, Callable[[], None]], int]"
"""Starts a worker that has the given end of a channel, and gives its process id. In a fork it calls its
second argument, which closes what only the supervisor may have."""

WORKER_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What a worker takes over; beside SIGINT, which it ignores: its supervisor says what Ctrl-C means."""

# How a worker program learns of its descriptors: the channel's, then those of the listeners.
_VARIABLE: Final = "GNET_WORKER"

# In a patched process this one would look for a hub to make anew.
_fork: Final = get_original("os", "fork")


def worker_program(command: Sequence[str], listeners: Sequence[int]) -> Launch:
    """Give what starts a program as a worker; the program calls `taken_channel`.

    Args:
        command: the program and its arguments.
        listeners: descriptors that it is to have, beside the standard streams; made inheritable.
    """
    for listener in listeners:
        os.set_inheritable(listener, True)

    def launch(channel: _socket.socket, _close_own: Callable[[], None]) -> int:
        descriptor = channel.fileno()
        os.set_inheritable(descriptor, True)
        given = ",".join(map(str, (descriptor, *listeners)))
        # Ctrl-C reaches all processes of a terminal, and a worker that has not begun yet, too: it is blocked
        # there until `taken_channel` ignores it. The supervisor tells its workers what Ctrl-C means.
        return os.posix_spawn(
            command[0], list(command), {**os.environ, _VARIABLE: given}, setsigmask=[signal.SIGINT]
        )

    return launch


def taken_channel() -> tuple[Channel, list[int]] | None:
    """In a worker program: give its channel and its listeners; `None` in any other program."""
    given = os.environ.pop(_VARIABLE, "")
    if not given:
        return None
    descriptors = [int(part) for part in given.split(",")]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    signal.signal(signal.SIGINT, _ignored)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    return Channel(_socket.socket(fileno=descriptors[0])), descriptors[1:]


def _ignored(number: int, frame: FrameType | None) -> None:
    """Do nothing; unlike SIG_IGN, programs that a handler starts do not inherit that."""


def fork_worker(body: Callable[[Channel, Signals], int]) -> Launch:
    """Give what forks a worker; `body` is all that runs in it, and gives its exit status."""

    def launch(channel: _socket.socket, close_own: Callable[[], None]) -> int:
        # No signal may come between the fork and the moment when the worker has handlers of its own:
        # it would be written into the supervisor's socket pair.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid: int = _fork()
            if pid == 0:
                _be_worker(body, channel, close_own, before)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    return launch


def _be_worker(
    body: Callable[[Channel, Signals], int],
    channel: _socket.socket,
    close_own: Callable[[], None],
    mask: set[int | signal.Signals],
) -> NoReturn:
    """Be the worker, in a fork; whatever happens, do not go on as a second supervisor."""
    status = 1
    try:
        close_own()
        with Signals(*WORKER_SIGNALS) as signals:
            signal.signal(signal.SIGINT, _ignored)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            status = body(Channel(channel), signals)
    except BaseException:
        traceback.print_exc()
    finally:
        stream: Any
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)
