"""How each scenario is run: over what, and what its server is told."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.load.processes import ROOT
from loadtests.scale.descriptors import raise_limit

__all__ = ["PLANS", "SCENARIOS", "Plan", "locustfile_of", "users_that_fit"]

SCENARIOS = ROOT / "loadtests" / "scenarios"
SECONDS = 10


@dataclass(frozen=True)
class Plan:
    """A scenario's."""

    scheme: str = "tcp"
    server_options: tuple[str, ...] = ()
    """Of gnet's server."""
    compares: bool = True
    """Whether it is compared to `ping`."""
    crowd: int = 0
    """Users that need more descriptors than every process has."""
    crowd_seconds: int = 0
    """Seconds until they are there, which its run takes longer."""


# In this order, which `all` runs them in.
PLANS = {
    "ping": Plan(compares=False),
    "pipelined": Plan(),
    "mixed": Plan(),
    "slow_senders": Plan(),
    "long_lines": Plan(),
    "churn": Plan(),
    "tls": Plan("tls"),
    "idle_crowd": Plan(crowd=9100, crowd_seconds=8),
    # So that those who say nothing are sent away while it runs.
    "abusive": Plan(server_options=("--first-byte-timeout", "1000", "--line-timeout", "1000")),
    "udp": Plan("udp", compares=False),
}


def locustfile_of(scenario: str) -> str:
    """Give the path of a scenario's locustfile."""
    return str(SCENARIOS / f"{scenario}.py")


def users_that_fit(plan: Plan, users: int | None) -> tuple[int | None, str]:
    """Raise the limit of descriptors for a crowd, and give how many users are possible, and what is missing.

    Args:
        users: asked for; `None`: those of the scenario.
    """
    if not plan.crowd:
        return users, ""
    wanted = users or plan.crowd
    granted = raise_limit(wanted)
    if granted.connections >= wanted:
        return users, ""
    return granted.connections, (
        f"{granted.connections:,} users instead of {wanted:,}: a server of so many connections needs "
        f"{granted.needed:,} descriptors, the hard limit is {granted.limit:,}. Raise it: "
        f"ulimit -Hn {granted.needed} as root (in a container: --ulimit nofile={granted.needed})"
    )
