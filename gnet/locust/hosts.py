"""The `host` of a user to a target: `tcp://`, `tls://` and `udp://HOST:PORT`, and `unix:PATH`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gnet.checks import check_unix_path
from gnet.names import check_host

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Target", "parse_host"]

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)

# How each is written, for messages.
_FORMS: Final = {
    "tcp": "tcp://HOST:PORT",
    "tls": "tls://HOST:PORT",
    "udp": "udp://HOST:PORT",
    "unix": "unix:PATH",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a user connects to."""

    scheme: str
    """`tcp`, `tls`, `udp` or `unix`."""
    address: str
    """A host name or an IP literal (without brackets); the path of a Unix socket."""
    port: int
    """0 for Unix sockets."""
    name: str
    """For rows and messages: `127.0.0.1:7000`, `[::1]:7000`, or the path."""


def parse_host(text: object, schemes: Sequence[str]) -> Target:
    """Give the target that the `host` of a user names.

    Args:
        text: of the form of one of `schemes`; without a scheme it is the first of them.
        schemes: those that the user speaks.
    Raises:
        ValueError: it is none, or not one of these. The message says what was expected.
    """
    forms = " or ".join(", ".join(_FORMS[scheme] for scheme in schemes).rsplit(", ", 1))
    if text is None or text == "":
        raise ValueError(f"no host: set the attribute host, or give --host; expected {forms}")
    if not isinstance(text, str):
        raise ValueError(f"host: expected a str like {forms}, got {type(text).__name__}")
    found = _SCHEME.fullmatch(text)
    if found is not None:
        scheme, rest = found[1].lower(), found[2]
    elif text.startswith("unix:"):
        scheme, rest = "unix", text.removeprefix("unix:")
    else:
        scheme, rest = schemes[0], text
    if scheme not in schemes:
        known = "this user does not speak" if scheme in _FORMS else "there is no"
        raise ValueError(f"host {text!r}: {known} {scheme}; expected {forms}")
    try:
        if scheme == "unix":
            if not rest:
                raise ValueError("no path")
            check_unix_path(rest, "unix")
            return Target(scheme, rest, 0, rest)
        address, port = _split(rest.removesuffix("/"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"host {text!r}: {error}; expected {forms}") from None
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return Target(scheme, address, port, shown)


def _split(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` or `[ADDRESS]:PORT`."""
    address, colon, digits = text.rpartition(":")
    if not colon or "]" in digits:
        raise ValueError("no port")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        raise ValueError("an IPv6 address needs brackets")
    if not address:
        raise ValueError("no host name")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"the port {digits!r} is no number" if digits else "no port")
    port = int(digits[:6])
    if not 1 <= port <= 65535:
        raise ValueError(f"the port {digits[:6]} is not from 1 to 65535")
    return check_host(address, "host"), port
