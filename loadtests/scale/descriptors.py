"""How many descriptors a process may have, and so how many connections can be measured here.

A connection takes a descriptor in the server and one in a client process. The server must have all of them in
one process, and `gnet.Server` keeps a fifth of what it may have for other things: that decides.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

SERVER_SHARE = 0.8  # of its descriptors, for connections (`max_connections` of gnet.Server)
SPARE = 16  # connections that the benchmark makes beside those it counts


@dataclass(frozen=True)
class Granted:
    """What the kernel gave for what was asked."""

    needed: int
    limit: int

    @property
    def connections(self) -> int:
        """How many connections a server can have."""
        return int(self.limit * SERVER_SHARE) - SPARE

    def describe(self) -> str:
        """One sentence for who reads the figures."""
        text = f"descriptors: {self.needed:,} a process are needed, the limit is {self.limit:,}"
        if self.limit >= self.needed:
            return text
        return (
            f"{text}: TOO LOW, so nothing is measured above {self.connections:,} connections. Raise the hard "
            f"limit: ulimit -Hn {self.needed} as root (in a container: --ulimit nofile={self.needed})"
        )


def descriptors_for(connections: int) -> int:
    """How many descriptors a server needs for so many connections."""
    return int((connections + SPARE) / SERVER_SHARE) + 1


def raise_limit(connections: int) -> Granted:
    """Let this process and its children have the descriptors for so many connections, if that can be."""
    needed = descriptors_for(connections)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        try:  # root may, up to fs.nr_open
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
        except (ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            return Granted(needed, hard)
        return Granted(needed, needed)
    limit = needed if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return Granted(needed, limit)


def feasible(sizes: list[int], granted: Granted) -> list[int]:
    """Those numbers of connections that can be measured."""
    return [size for size in sizes if size <= granted.connections]
