"""The arguments of `Server`, checked before anything is opened. Each error names the argument."""

from __future__ import annotations

import logging
import resource
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final, Literal

from gnet.checks import check_int
from gnet.deadlines import Timeout, to_milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "check_limit",
    "check_milliseconds",
    "check_overflow",
    "check_positive",
    "check_proxies",
    "limit_of_connections",
]

_log = logging.getLogger("gnet.server")

# Unless told otherwise: of the descriptors that the process may have, and at most.
_SHARE_OF_DESCRIPTORS: Final = 0.8
_MOST_CONNECTIONS: Final = 10_000

# What is said to clients over the limit goes out at once, or not at all.
_LONGEST_OVERFLOW: Final = 1024


def check_positive(value: int | None, name: str) -> int:
    """Give a number; raise unless it is one, and at least 1."""
    if value is None:
        raise TypeError(f"Server: {name}: expected a number, got None")
    if check_int(value, f"Server: {name}") < 1:
        raise ValueError(f"Server: {name}: expected at least 1, got {value}")
    return value


def check_milliseconds(timeout: Timeout, name: str) -> float:
    """Give a timeout in milliseconds; raise unless it is one."""
    try:
        return to_milliseconds(timeout)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Server: {name}: {error}") from None


def check_limit(timeout: Timeout, name: str) -> float:
    """Give a limit in milliseconds; raise unless there is time at all."""
    milliseconds = check_milliseconds(timeout, name)
    if milliseconds == 0:
        raise ValueError(f"Server: {name}: with 0 ms no client could be served; -1 is no limit")
    return milliseconds


def check_overflow(overflow: Literal["backlog", "reset"] | bytes) -> Literal["backlog", "reset"] | bytes:
    """Give what is done with clients over the limits; raise if it can not be done."""
    if isinstance(overflow, bytes) and len(overflow) > _LONGEST_OVERFLOW:
        raise ValueError(f"Server: overflow: a line of {len(overflow)} bytes (limit {_LONGEST_OVERFLOW})")
    if not isinstance(overflow, bytes) and overflow not in ("backlog", "reset"):
        raise ValueError(f"Server: overflow: expected 'backlog', 'reset' or bytes, got {overflow!r}")
    return overflow


def check_proxies(versions: object, trusted: Iterable[str], is_local: bool) -> list[Any]:
    """Give the networks that may send a PROXY header, as those of `ipaddress`.

    Args:
        versions: which headers are expected; `None`: none.
        is_local: only who is on this machine can connect.
    """
    if versions is not None and versions not in ("v1", "v2", "any"):
        raise ValueError(f"Server: proxy_protocol: expected 'v1', 'v2' or 'any', got {versions!r}")
    if isinstance(trusted, (str, bytes)):
        raise TypeError("Server: proxy_trusted: expected several networks, got one string")
    networks = [_network(text) for text in trusted]
    if versions is not None and not networks and not is_local:
        raise ValueError("Server: proxy_protocol needs proxy_trusted: who may say who a client is?")
    return networks


def _network(text: str) -> Any:
    if not isinstance(text, str):
        raise TypeError(f"Server: proxy_trusted: expected networks as str, got {type(text).__name__}")
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"Server: proxy_trusted: {error}") from None


def limit_of_connections(given: int | None) -> int:
    """Give the limit of connections: as given, but never more than there are descriptors for."""
    if given is not None:
        check_positive(given, "max_connections")
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 30
    most = max(1, int(soft * _SHARE_OF_DESCRIPTORS))
    if given is None:
        return min(most, _MOST_CONNECTIONS)
    if given > most:
        _log.warning("max_connections=%d is more than %d descriptors allow; it is %d now", given, soft, most)
        return most
    return given
