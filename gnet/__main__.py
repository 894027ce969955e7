"""The command line: `python -m gnet COMMAND`. What goes wrong is one line, with exit status 2."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING, Any, Final

from gnet._version import __version__
from gnet.commands import OneLineParser
from gnet.compiling import is_compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

# Each is in the module of that name in gnet.commands.
_COMMANDS: Final = ("serve", "nc", "tls-info", "bench")

_DESCRIPTION: Final = """\
Serve, connect, look at TLS servers, measure.

  python -m gnet serve app.py:echo --port 7000     run the function echo(client, address) of app.py
  python -m gnet nc localhost 7000                 talk to it: what you type goes there, answers come back
  python -m gnet tls-info example.org:443          what its TLS offers, and why it does not verify
  python -m gnet bench localhost:7000              how many lines it answers, and how fast
"""

_EPILOG: Final = "python -m gnet COMMAND --help shows the options of a command. Times are in milliseconds."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = OneLineParser(
        prog="python -m gnet",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"gnet {__version__}{' (compiled)' if is_compiled() else ''}"
    )
    subparsers: argparse._SubParsersAction[Any] = parser.add_subparsers(
        title="commands", metavar="COMMAND", parser_class=OneLineParser
    )
    for name in _needed(words):
        importlib.import_module(f"gnet.commands.{name.replace('-', '_')}").add_parser(subparsers)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    given = parser.parse_args(words)
    if "run" not in given:
        parser.error("expected a command")
    try:
        return int(given.run(given))
    except (OSError, ValueError) as error:
        from gnet.commands.terminal import complain

        complain(error)
        return 2
    except KeyboardInterrupt:
        return 130


def _needed(words: Sequence[str]) -> Sequence[str]:
    """Give the commands to import: the one that is named, so that no other one's modules come before it."""
    named = next((word for word in words if not word.startswith("-")), None)
    return [named] if named in _COMMANDS else _COMMANDS


if __name__ == "__main__":
    sys.exit(main())
