"""A server that answers lines by a rule and counts them, in the tests' own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gevent.event import Event

import gnet


class LineServer:
    """Answers each line with `answer(number, line)`, counted from 1; `None`: ends the connection."""

    def __init__(self, answer: Callable[[int, bytes], bytes | None] = lambda _number, _line: b"+PONG\r\n"):
        self.lines = 0
        self.connections = 0
        self.has_lines = Event()
        self.all_gone = Event()
        self._here = 0
        self._answer = answer

    def talk(self, client: gnet.Socket) -> None:
        self.connections += 1
        self._here += 1
        try:
            for line in client.lines(max_length=200_000):
                self.lines += 1
                self.has_lines.set()
                answer = self._answer(self.lines, line)
                if answer is None:
                    return
                client.send(answer)
        except OSError:
            pass
        finally:
            self._here -= 1
            if not self._here:
                self.all_gone.set()

    @contextmanager
    def serving(self, **how: Any) -> Iterator[str]:
        """Give where it is, for the command line."""
        if "unix_path" not in how:
            how = {"address": "127.0.0.1"} | how
        with gnet.Server(lambda client, _: self.talk(client), **how) as server:
            server.start()
            host = how.get("address", "")
            yield f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"
