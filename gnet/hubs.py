"""Whether this thread has a hub: the only place that uses what gevent does not make public for that.

gevent's public calls make a hub when there is none, and whoever forks must know that before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import gevent

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["hub_exists"]


def _found() -> Callable[[], object]:
    """Give gevent's own function; fail when gnet is imported, and not when a fork has gone wrong."""
    try:
        from gevent._hub_local import get_hub_if_exists
    except ImportError as error:
        raise ImportError(
            f"gnet: gevent {gevent.__version__} does not tell whether there is a hub "
            "(gevent._hub_local.get_hub_if_exists); gnet needs another version of gevent, or mending"
        ) from error
    hub = get_hub_if_exists()
    if hub is not None and hub is not gevent.get_hub():
        raise ImportError(
            f"gnet: gevent {gevent.__version__}: get_hub_if_exists gives {hub!r}, which is not the hub"
        )
    return get_hub_if_exists


_get_hub_if_exists: Final = _found()


def hub_exists() -> bool:
    """Whether this thread has a hub; makes none."""
    return _get_hub_if_exists() is not None
