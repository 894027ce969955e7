"""The servers of the scale benchmark: those of the comparison, and those that need a limit raised."""

from __future__ import annotations

import sys

from loadtests.measuring.peers import PEERS, Peer, PeerUnavailable
from loadtests.measuring.processes import PeerServer
from loadtests.scale.servers.counting import READERS

MOST_CONNECTIONS = 1_000_000  # more than any machine has descriptors for: those decide

REDIS = (
    *("redis-server", "--bind", "127.0.0.1", "--port", "{port}", "--save", "", "--tcp-backlog", "1024"),
    # Its protected mode turns away who does not come from 127.0.0.1 itself, and so 127.0.0.2.
    *("--maxclients", "100000", "--protected-mode", "no"),
)

GNET, REDIS_TITLE = "gnet.Server", "redis-server"

# What a peer is called here, and in `loadtests.measuring.peers`.
ACTIVE_PEERS = {
    GNET: "scale-gnet",
    "gnet bare loop": "gnet-lines",
    "gevent makefile": "gevent",
    "asyncio streams": "asyncio",
    "Go": "go",
    REDIS_TITLE: "scale-redis",
}
IDLE_PEERS = {
    title: ACTIVE_PEERS[title] for title in (GNET, "gevent makefile", "asyncio streams", REDIS_TITLE)
}
LINE_READERS = {title: f"scale-{title}" for title in READERS}


def _server(name: str, *options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"loadtests.scale.servers.{name}", *options)


def register() -> None:
    """Make those servers known that the other benchmarks do not have."""
    PEERS["scale-gnet"] = Peer(GNET, _server("pool", "--connections", str(MOST_CONNECTIONS)))
    PEERS["scale-redis"] = Peer(REDIS_TITLE, REDIS)
    for title, name in LINE_READERS.items():
        PEERS[name] = Peer(title, _server("counting", "--reader", title))


def available(titles: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Those that run here, and a note on each that does not."""
    present, notes = {}, []
    for title, name in titles.items():
        try:
            with PeerServer(name):
                present[title] = name
        except PeerUnavailable as error:
            notes.append(f"left out: {error}")
    return present, notes
