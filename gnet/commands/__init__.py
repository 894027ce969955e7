"""The commands of `python -m gnet`, each in a module with `add_parser(subparsers)` and `run(arguments)`."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from gnet.deadlines import to_milliseconds
from gnet.options import Port

__all__ = ["OneLineParser", "milliseconds", "port_number"]


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse's own puts the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        print(f"{self.prog}: {message} (try --help)", file=sys.stderr)
        sys.exit(2)


def port_number(text: str) -> int:
    """Read an option that is a port."""
    try:
        return Port(int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {text!r}") from None


def milliseconds(text: str) -> float:
    """Read an option that is a duration."""
    try:
        return to_milliseconds(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected milliseconds, or -1 for no limit, got {text!r}") from None
