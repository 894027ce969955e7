"""The handler of the gnet server under test: `python -m gnet serve …/gnet_lines.py:answer`."""

from __future__ import annotations

import gnet
from loadtests.load.servers.lines import LIMIT, answer_to


def answer(client: gnet.Socket, _address: str) -> None:
    for line in client.lines(LIMIT):
        client.send(answer_to(line) + b"\r\n")
