"""One line in flight on each of 50 connections: what all other scenarios are compared to."""

from __future__ import annotations

from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Below, SameAsServer
from loadtests.load.users import Pinger
from loadtests.load.verdicts import declare


class Ping(Pinger):
    pass


declare(
    FailuresAtMost(),
    AtLeast(100, ("LINE", "ping")),
    P99Below(100, ("LINE", "ping")),
    SameAsServer(),
    users=50,
    main=("LINE", "ping"),
)
