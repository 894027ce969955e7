"""The version of gnet: the one place it is written (the build reads it from here, unimported)."""

from __future__ import annotations

from typing import Final

__all__ = ["__version__"]

__version__: Final = "0.1.0"
