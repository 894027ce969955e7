"""A connection for each request: connect, ask, close."""

from __future__ import annotations

from locust import between

from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Ratio, SameAsServer, SameCount
from loadtests.load.users import Pinger
from loadtests.load.verdicts import declare


class Churning(Pinger):
    connect = "per_request"
    # 1,000 connections a second. Their ports can be used again only after a minute by some servers, and
    # there are 28,000 of them. (Linux gives those of loopback back after a second.)
    wait_time = between(0.01, 0.03)


declare(
    FailuresAtMost(),
    AtLeast(100, ("LINE", "ping")),
    SameCount(("CONNECT", ""), ("LINE", "ping")),
    P99Ratio(5, ("LINE", "ping")),
    P99Ratio(10, ("CONNECT", "")),
    SameAsServer(),
    users=20,
    main=("LINE", "ping"),
)
