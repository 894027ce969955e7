"""What servers count, for Prometheus: `gnet_<key of Server.stats()>` at `/metrics`.

The only module that imports `prometheus-client` (extra `metrics`). The HTTP around it is a `gnet.Server`
with short deadlines and few places: it needs no monkey patching, and a client that says nothing can not
keep Prometheus out for long.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

try:
    from prometheus_client import CollectorRegistry, make_wsgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError as _error:
    raise ImportError(
        "metrics need the package prometheus-client: python -m pip install 'gnet-gevent[metrics]'"
    ) from _error

from gnet.errors import IncompleteReadError
from gnet.server import Server
from gnet.serving.statistics import COUNTERS, GAUGES, LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from gnet.serving.statistics import Stats
    from gnet.sockets import Socket

__all__ = ["start_metrics_server"]

_log = logging.getLogger("gnet.server")

_PATH: Final = "/metrics"

# Milliseconds for a whole request, and the most of it: Prometheus sends one of some 300 bytes at once.
_REQUEST_TIMEOUT: Final = 5_000
_MAX_REQUEST: Final = 8192

# Prometheus asks on one connection at a time. More of them than this wait in the kernel.
_PLACES: Final = 16

_FAMILIES: Final = [
    *((CounterMetricFamily, key, text) for key, text in COUNTERS.items()),
    *((GaugeMetricFamily, key, text) for key, text in GAUGES.items()),
]


def start_metrics_server(
    collect: Callable[[], Stats], port: int = 0, address: str = "127.0.0.1", *, listener: Any = None
) -> Server:
    """Serve metrics over HTTP at `/metrics` from now on, in greenlets of its own.

    Args:
        collect: gives what `Server.stats()` or `sum_stats` gives; called for each request. It may wait.
        port: 0: one that is free; see `port` of the result.
        address: where to listen; the numbers are for everybody who can connect there.
        listener: listen on this instead, as `Server(listener=...)`: for workers that share one.

    Returns:
        The server: `stop()` or `close()` ends it.
    Raises:
        OSError: with the address.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(collect))
    application = make_wsgi_app(registry)

    def answer(client: Socket, _address: str) -> None:
        _answer(client, application)

    where: dict[str, Any] = {"address": address, "port": port} if listener is None else {"listener": listener}
    server = Server(
        answer,
        **where,
        max_connections=_PLACES,
        first_byte_timeout=_REQUEST_TIMEOUT,
        line_timeout=_REQUEST_TIMEOUT,
        idle_timeout=_REQUEST_TIMEOUT,
        write_timeout=_REQUEST_TIMEOUT,
        drain_timeout=_REQUEST_TIMEOUT,
    )
    server.start()
    return server


class _Collector:
    """Makes metrics of stats, as `prometheus_client` wants them."""

    def __init__(self, collect: Callable[[], Stats]) -> None:
        self._collect = collect

    def describe(self) -> Iterator[Metric]:
        """Name the metrics, of which a scrape may ask for some (`?name[]=gnet_active`)."""
        for family, key, text in _FAMILIES:
            yield family(f"gnet_{key}", text)

    def collect(self) -> Iterator[Metric]:
        """Give the metrics of now; what the system does not tell is left out."""
        stats = self._collect()
        for family, key, text in _FAMILIES:
            value = stats.get(key)
            if isinstance(value, dict):
                by_label = family(f"gnet_{key}", text, labels=[LABELS[key]])
                for label, count in value.items():
                    by_label.add_metric([label], count)
                yield by_label
            elif value is not None:
                yield family(f"gnet_{key}", text, value=value)


# ---------------------------------------------------------------------- HTTP


def _answer(client: Socket, application: Callable[..., Iterable[bytes]]) -> None:
    """Answer one request of HTTP/1.1 (RFC 9112), and have the connection closed."""
    try:
        request = client.recv_until(b"\r\n\r\n", _MAX_REQUEST, timeout=_REQUEST_TIMEOUT)
    except IncompleteReadError:
        return  # as balancers do to see whether there is a server
    first, *fields = request[:-4].decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        _respond(client, "400 Bad Request", [], b"not an HTTP/1 request\n")
        return
    method, target, _ = parts
    path, _, query = target.partition("?")
    if path != _PATH:
        _respond(client, "404 Not Found", [], b"metrics are at /metrics\n", method)
        return
    # HEAD is GET without the body (RFC 9110, section 9.3.2); the application knows GET.
    environ = {
        "REQUEST_METHOD": "GET" if method == "HEAD" else method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
    }
    for field in fields:
        name, _, value = field.partition(":")
        if name.lower() in ("accept", "accept-encoding"):
            environ["HTTP_" + name.upper().replace("-", "_")] = value.strip()
    status, headers = "", []

    def start_response(given: str, given_headers: list[tuple[str, str]], *_: Any) -> None:
        nonlocal status, headers
        status, headers = given, given_headers

    try:
        body = b"".join(application(environ, start_response))
    except Exception:
        _log.exception("metrics: could not collect")
        status, headers, body = "500 Internal Server Error", [], b"could not collect; see the server's log\n"
    _respond(client, status, headers, body, method)


def _respond(
    client: Socket, status: str, headers: list[tuple[str, str]], body: bytes, method: str = "GET"
) -> None:
    fields = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
    client.send(head.encode("latin-1") + (b"" if method == "HEAD" else body))
