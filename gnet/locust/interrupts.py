"""Ctrl-C ends a test where Locust waits for it, and not in the middle of a user's request.

Python raises KeyboardInterrupt in whatever greenlet runs: as a rule in that of a user, whose request the
server has counted, and Locust does not. Here it is raised in the greenlet in which Locust waits.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import gevent
from gevent import getcurrent

__all__ = ["install"]


def install() -> None:
    """Have a Ctrl-C reach the greenlet that calls this, unless somebody has a handler of their own."""
    if threading.current_thread() is not threading.main_thread():
        return  # only there Python can be told
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    hub: Any = gevent.get_hub()
    waiting = getcurrent()

    def interrupt(*_: object) -> None:
        if getcurrent() is waiting or waiting.dead:
            raise KeyboardInterrupt
        # As a callback of the loop: it finds that greenlet where it waits.
        hub.loop.run_callback_threadsafe(waiting.throw, KeyboardInterrupt)

    signal.signal(signal.SIGINT, interrupt)
