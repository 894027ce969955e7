"""The command line: `python -m gnet COMMAND`. Errors are one line, with exit status 2."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from gnet._version import __version__
from gnet.tls.report import TlsReport, inspect_server

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give its exit status."""
    parser = argparse.ArgumentParser(prog="python -m gnet", description="Tools around gnet.")
    parser.add_argument("--version", action="version", version=f"gnet {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_tls_info(commands)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except (OSError, ValueError) as error:
        message = getattr(error, "strerror", None) or str(error)  # without "[Errno 111]"
        print(f"{parser.prog}: {_printable(message)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _add_tls_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
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
    parser.set_defaults(run=_tls_info)


def _tls_info(given: argparse.Namespace) -> int:
    host, port = _host_and_port(given.server)
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
    return "\n".join(f"{name:<14} {_printable(value)}" for name, value in rows)


def _printable(text: str) -> str:
    """Escape what could do something to a terminal: names in certificates are the server's choice."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"expected HOST:PORT, got {text!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


if __name__ == "__main__":
    sys.exit(main())
