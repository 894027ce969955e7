"""gnet.locust.hosts: what a user's `host` may be."""

from __future__ import annotations

import pytest

from gnet.locust.hosts import Target, parse_host

STREAMS = ("tcp", "tls", "unix")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tcp://127.0.0.1:7000", Target("tcp", "127.0.0.1", 7000, "127.0.0.1:7000")),
        ("tls://example.com:443", Target("tls", "example.com", 443, "example.com:443")),
        ("TCP://localhost:1", Target("tcp", "localhost", 1, "localhost:1")),
        ("tcp://[::1]:65535", Target("tcp", "::1", 65535, "[::1]:65535")),
        ("tcp://127.0.0.1:7000/", Target("tcp", "127.0.0.1", 7000, "127.0.0.1:7000")),
        ("127.0.0.1:7000", Target("tcp", "127.0.0.1", 7000, "127.0.0.1:7000")),
        ("localhost:7000", Target("tcp", "localhost", 7000, "localhost:7000")),
        ("unix:/run/server.sock", Target("unix", "/run/server.sock", 0, "/run/server.sock")),
        ("unix:///run/server.sock", Target("unix", "/run/server.sock", 0, "/run/server.sock")),
        ("unix:server.sock", Target("unix", "server.sock", 0, "server.sock")),
    ],
)
def test_a_host_names_its_target(text: str, target: Target) -> None:
    assert parse_host(text, STREAMS) == target


def test_a_host_without_a_scheme_is_of_the_users_first_one() -> None:
    assert parse_host("127.0.0.1:53", ("udp",)).scheme == "udp"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no host"),
        ("", "no host"),
        (7000, "expected a str"),
        ("http://127.0.0.1:80", "there is no http"),
        ("udp://127.0.0.1:53", "does not speak udp"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://127.0.0.1:", "no port"),
        ("tcp://[::1]", "no port"),
        ("tcp://::1:7000", "needs brackets"),
        ("tcp://:7000", "no host name"),
        ("tcp://127.0.0.1:http", "'http' is no number"),
        ("tcp://127.0.0.1:0", "not from 1 to 65535"),
        ("tcp://127.0.0.1:65536", "not from 1 to 65535"),
        ("tcp://127.0.0.1:7000/path", "'7000/path' is no number"),
        ("tcp://a b:7000", "a b"),
        ("unix:", "no path"),
        ("unix:" + 108 * "x", "107"),
    ],
)
def test_a_host_that_is_none_is_refused_with_what_was_expected(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        parse_host(text, STREAMS)
    assert "tcp://HOST:PORT, tls://HOST:PORT or unix:PATH" in str(refused.value)
    assert "\n" not in str(refused.value)
