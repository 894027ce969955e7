"""The optional compiled modules: what mypyc is told about a class, and whether they are in use.

Nothing here needs mypyc, in a process with compiled modules or without.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

__all__ = ["is_compiled", "mypyc_attr"]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_attributes):
        return lambda cls: cls


def is_compiled() -> bool:
    """Whether the modules that a wheel has compiled are so in this process: all of them or none is.

    True once any of them was imported, so after `import gnet`.
    """
    # The library that all compiled modules are in (setup.py); each of them imports it before anything else.
    return "gnet_gevent__mypyc" in sys.modules
