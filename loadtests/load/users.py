"""What the users of the scenarios have in common: the one that pings, and whom TLS users trust."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from locust import between, events, task
from locust.env import Environment

import gnet
from gnet.locust import ConnectedUser, LineUser
from loadtests.load.servers.lines import PING, PONG

__all__ = ["TIMEOUT", "Pinger", "Trusting", "tls_context"]

TIMEOUT = 5000  # milliseconds, for connecting and for each answer

_ca_file = ""


def tls_context() -> gnet.SslContext:
    """Make a context that trusts the authorities of `--tls-ca`, else those of certifi."""
    return gnet.new_context(ca_file=_ca_file)


class Trusting(ConnectedUser):
    """What all have: how long they wait, and whom they trust if the host is `tls://`."""

    abstract = True
    timeout = TIMEOUT
    tls = staticmethod(tls_context)


class Pinger(Trusting, LineUser):
    """Has one line in flight, and time to think.

    Fifty of them make some 5,000 requests a second. That leaves a core for Locust mostly idle; a busy one
    would report the time that answers wait for Locust.
    """

    abstract = True
    wait_time = between(0.004, 0.012)

    @task
    def ping(self) -> None:
        self.client.request(PING, expect=PONG, name="ping")


def _add_arguments(parser: ArgumentParser, **_: Any) -> None:
    options: dict[str, Any] = {"include_in_web_ui": False}  # Locust's own
    parser.add_argument("--tls-ca", default="", metavar="FILE", help="trust these CAs", **options)


def _take_arguments(environment: Environment, **_: Any) -> None:
    global _ca_file
    options: Any = environment.parsed_options
    _ca_file = options.tls_ca


_hooks: Any = events
_hooks.init_command_line_parser.add_listener(_add_arguments)
_hooks.init.add_listener(_take_arguments)
