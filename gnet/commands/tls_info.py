"""`python -m gnet tls-info HOST:PORT`: what a TLS server offers, and whether its certificate verifies."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from gnet.checks import printable
from gnet.commands.terminal import quiet_interrupts
from gnet.tls.report import TlsReport, inspect_server

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `python -m gnet`."""
    parser = subparsers.add_parser(
        "tls-info",
        help="show what a TLS server offers and whether its certificate verifies",
        description="Show version, cipher and certificate chain of a TLS server, and whether it verifies. "
        "Exit status: 0 if it does, 1 if not, 2 if there was no handshake at all.",
    )
    parser.add_argument("server", metavar="HOST:PORT", help="e.g. localhost:443 or [::1]:443")
    parser.add_argument("--servername", default="", metavar="NAME", help="ask for and verify this name")
    parser.add_argument("--ca", default="", metavar="FILE", help="trust these CAs, not certifi's")
    parser.add_argument("--alpn", default="", metavar="P,…", help="application protocols to offer")
    parser.add_argument("--timeout", type=float, default=10_000, metavar="MS", help="milliseconds (10000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Print the report; give the exit status.

    Raises:
        OSError, ValueError: there is nothing to report.
    """
    host, port = _host_and_port(given.server)
    with quiet_interrupts():
        report = inspect_server(
            host,
            port,
            servername=given.servername,
            ca_file=given.ca,
            alpn=[name for name in given.alpn.split(",") if name],
            timeout=given.timeout,
        )
    print(json.dumps(asdict(report)) if given.json else _as_text(report))
    return 0 if report.verified else 1


def _as_text(report: TlsReport) -> str:
    verdict = "yes" if report.verified else f"NO: {report.problem} (code {report.verify_code})"
    rows = [
        ("server", f"{report.host}:{report.port}, asked for {report.servername}"),
        ("verifies", verdict),
        ("version", report.version),
        ("cipher", report.cipher),
        ("alpn", report.alpn or "none agreed on"),
        ("resumption", "yes" if report.resumption else "no" if report.verified else "not tried"),
    ]
    if report.refusal:
        rows.append(("then refused", report.refusal))
    for number, certificate in enumerate(report.chain):
        rows += [
            (f"certificate {number}", certificate.subject or "(no subject)"),
            ("  names", ", ".join(certificate.names) or "none"),
            ("  issuer", certificate.issuer or "(none)"),
            ("  valid", f"{certificate.not_before} to {certificate.not_after}"),
            ("  key", f"{certificate.key}, signed with {certificate.signature}"),
        ]
    return "\n".join(f"{name:<14} {printable(value)}" for name, value in rows)


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"expected HOST:PORT, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)
