"""What a benchmark is to do: the `Plan`, which goes to the load processes as one line of JSON; the server."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Self

from gnet.checks import check_unix_path
from gnet.names import check_host
from gnet.options import Port

__all__ = ["Plan", "Target", "line_option"]


@dataclass(frozen=True)
class Target:
    """A server: host and port, or the path of a Unix socket."""

    host: str
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.

        Raises:
            ValueError: in one line, what is expected.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path:
                raise ValueError("expected unix:PATH, got no path")
            check_unix_path(path, "unix")
            return cls("", 0, path)
        host, colon, port = text.rpartition(":")
        if not colon or not host or "]" in port:
            raise ValueError(f"expected HOST:PORT (or unix:PATH), got {text!r}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"expected brackets around an IPv6 address, as in [::1]:7000, got {text!r}")
        if not host:
            raise ValueError(f"expected HOST:PORT, got {text!r}")
        try:
            number = Port(int(port)) if port.isascii() and port.isdigit() else 0
        except ValueError:
            number = 0
        if not number:
            raise ValueError(f"expected a port from 1 to 65535, got {port!r} in {text!r}")
        return cls(check_host(host, "host"), number)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Plan:
    """What one load process does; `shares` cuts the whole into those of several."""

    target: Target
    connections: int = 50
    pipeline: int = 1
    seconds: float | None = 10.0
    """How long requests are begun; `None`: until `requests` are made."""
    requests: int | None = None
    rate: float | None = None
    """Requests per second to begin, however the server does; `None`: each when the one before is answered."""
    line: bytes = b"PING"
    expect: bytes | None = None
    timeout: float = 10_000
    """Milliseconds for a connection, its handshake, and each answer; -1: no limit."""
    tls: bool = False
    ca_file: str = ""
    servername: str = ""
    verify: bool = True
    report_every: float = 1.0
    """Seconds between reports while it runs."""
    offset: float = 0.0
    """Of the first request at a rate, in requests: several processes take turns."""

    def shares(self, processes: int) -> list[Plan]:
        """Give the plans of so many processes, which together do what this one says."""
        every = []
        for number in range(processes):
            every.append(
                replace(
                    self,
                    connections=_share(self.connections, processes, number),
                    requests=None if self.requests is None else _share(self.requests, processes, number),
                    rate=None if self.rate is None else self.rate / processes,
                    offset=number / processes,
                )
            )
        return every

    def as_json(self) -> str:
        """Give all of it on one line; see `from_json`."""
        data = asdict(self)
        for name in ("line", "expect"):
            data[name] = None if data[name] is None else data[name].decode("latin-1")
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Make one of what `as_json` gave."""
        data = json.loads(text)
        for name in ("line", "expect"):
            data[name] = None if data[name] is None else data[name].encode("latin-1")
        return cls(**data | {"target": Target(**data["target"])})


def _share(whole: int, parts: int, number: int) -> int:
    return whole // parts + (number < whole % parts)


def line_option(text: str, name: str) -> bytes:
    """Check an option that is a line, which is given without its end.

    Raises:
        ValueError: there is a line end inside.
    """
    line = os.fsencode(text)
    if b"\n" in line or b"\r" in line:
        raise ValueError(f"{name}: expected one line, without its end, got {text!r}")
    return line
