"""Load on a chat: what one says is to reach all the others; how long that takes, and what never comes.

    locust -f examples/locust_chat.py --headless -u 20 -r 20 -t 10 --host tcp://127.0.0.1:7010

To try it: python examples/chat_server.py --port 7010, which sends each line to all clients but its speaker.

Pushes answer no request: each line has a key. Whoever speaks has the other users of this process expect that
key, from the moment of the sending on. Each of them counts it when it comes, and as lost if that takes longer
than `timeout`. What users of other processes say is read too, and counted there.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from typing import ClassVar

from locust import between, task

from gnet.locust import StreamUser

PROCESS = os.urandom(4).hex()  # workers count from 0 each


class ChatUser(StreamUser):
    host = "tcp://127.0.0.1:7010"
    wait_time = between(0.5, 1.5)
    timeout = 2000  # milliseconds; what has not come then is lost

    hearing: ClassVar[set[ChatUser]] = set()
    """Who is in the room for sure. The server does not say so; but whoever has heard a line is."""
    numbers = itertools.count()

    def on_connect(self) -> None:
        self.hearing.discard(self)

    def on_stop(self) -> None:
        self.hearing.discard(self)

    def message_key(self, message: bytes) -> bytes:
        """Give the key in `guest 7: a1b2c3d4-15 hello`; a line like `* guest 8 is here` is its own."""
        found = re.match(rb"guest \d+: ([0-9a-f]+-\d+) ", message)
        return found[1] if found else message

    def on_push(self, message: bytes) -> None:
        self.hearing.add(self)

    @task
    def say(self) -> None:
        key = f"{PROCESS}-{next(self.numbers)}".encode()
        now = time.perf_counter()
        for other in self.hearing - {self}:
            other.client.expect(key, name="delivery", since=now)
        self.client.send(key + b" hello, all")
