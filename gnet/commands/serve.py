"""`python -m gnet serve MODULE:HANDLER`: run a handler as a server, in one process or in several."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import logging
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from gevent import monkey

from gnet.commands import milliseconds, port_number
from gnet.commands.terminal import fill_standard_streams, quiet_interrupts
from gnet.options import SslCVerifyMode
from gnet.server import Server
from gnet.serving.binding import bind_tcp
from gnet.serving.foreground import Service, be_worker, raise_descriptor_limit, served_names
from gnet.serving.inherited import inherited_listeners
from gnet.serving.launching import WORKER_SIGNALS, taken_channel, worker_program
from gnet.serving.shared import SharedListeners, listening_names
from gnet.serving.signals import Signals
from gnet.tls.contexts import SslContext, new_context
from gnet.workers import SUPERVISOR_SIGNALS, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["add_parser", "load_handler", "run"]

_DESCRIPTION: Final = """\
Serve TCP or Unix connections: each is given to HANDLER(client, address), in a greenlet of its own.

  # app.py                                      python -m gnet serve app.py:echo --port 7000
  def echo(client, address):
      for line in client.lines():
          client.send(line + b"\\r\\n")
"""

_EPILOG: Final = """\
Timeouts are milliseconds; -1: no limit. They hold while the handler waits for its client.

SIGTERM and Ctrl-C drain: no new connections, those that wait and those that are served are finished, exit
status 0; Ctrl-C during the drain ends it at once. SIGHUP reads the certificates again; with several workers
it replaces the workers one after another, which run new code. SIGUSR1 writes a table of the connections to
standard error. Sockets from systemd (LISTEN_FDS) are served instead of --address and --port.
"""

# Where nobody from outside can connect, unless told otherwise; of metrics always.
_ADDRESS: Final = "127.0.0.1"
_METRICS_ADDRESS: Final = "127.0.0.1"

_SERVER: Final = inspect.signature(Server).parameters

_ESCAPES: Final = {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}


# ---------------------------------------------------------------------- the options


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `python -m gnet`."""
    parser = subparsers.add_parser(
        "serve",
        help="run a handler as a server",
        usage="python -m gnet serve MODULE:HANDLER [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "handler", metavar="MODULE:HANDLER", help="a module or a file, and the callable in it: app.py:echo"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--address", help='default: 127.0.0.1; "": all of this machine')
    where.add_argument("--port", type=port_number, help="default: one that is free")
    where.add_argument("--unix", dest="unix_path", metavar="PATH", help="a Unix socket instead")
    _add(where, "reuse_port", action="store_true", help="SO_REUSEPORT: other programs may listen there, too")
    processes = parser.add_argument_group("processes")
    processes.add_argument("--workers", type=int, default=1, metavar="N", help="processes; default: 1")
    processes.add_argument(
        "--metrics-port", type=port_number, metavar="PORT", help="serve /metrics for Prometheus, on 127.0.0.1"
    )
    processes.add_argument(
        "--no-patch", dest="patch", action="store_false", help="do not call gevent.monkey.patch_all() first"
    )
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls-cert", default="", metavar="FILE", help="speak TLS: certificate chain, PEM")
    tls.add_argument("--tls-key", default="", metavar="FILE", help="its key; default: in the same file")
    tls.add_argument(
        "--tls-client-ca", default="", metavar="FILE", help="demand client certificates of these CAs"
    )
    _add_limits(parser.add_argument_group("limits of each process"))
    _add_timeouts(parser.add_argument_group("timeouts"))
    proxy = parser.add_argument_group("behind a balancer")
    _add(proxy, "proxy_protocol", choices=("v1", "v2", "any"), help="expect a PROXY header of this version")
    _add(
        proxy,
        "proxy_trusted",
        action="append",
        default=[],
        metavar="NETWORK,…",
        help="who may send one, such as 10.0.0.0/8",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    for name, text in (
        ("max_connections", "default: 80 %% of the descriptors, at most 10,000"),
        ("pool_size", "handlers at once; default: as many as connections"),
        ("max_per_address", "connections from one IPv4 address or IPv6 /64; default: no such limit"),
        ("max_handshakes", "TLS handshakes and PROXY headers at once; default: 256"),
    ):
        _add(group, name, type=int, metavar="N", help=text)
    _add(
        group,
        "overflow",
        type=_overflow,
        metavar="TEXT",
        help="over the limits: backlog (clients wait; the default), reset, or a text to send them, in which "
        r"\r \n \t \\ and \xNN are understood",
    )
    _add(
        group,
        "coalesce",
        action=argparse.BooleanOptionalAction,
        help="answers wait for each other while more requests are here; the default",
    )


def _add_timeouts(group: argparse._ArgumentGroup) -> None:
    for name, text in (
        ("handshake_timeout", "for the PROXY header and the TLS handshake"),
        ("first_byte_timeout", "until the client has sent something"),
        ("line_timeout", "from the first byte of a line to its end"),
        ("idle_timeout", "between lines"),
        ("write_timeout", "for a client that takes nothing"),
        ("drain_timeout", "for the handlers, once the server is to stop"),
    ):
        _add(group, name, type=milliseconds, metavar="MS", help=f"{text}; default: {_SERVER[name].default}")


def _add(group: argparse._ArgumentGroup, name: str, **how: Any) -> None:
    """Add an argument of `Server` as an option; one that is not given is left to `Server`."""
    how.setdefault("default", argparse.SUPPRESS)
    group.add_argument(f"--{name.replace('_', '-')}", dest=name, **how)


def _overflow(text: str) -> str | bytes:
    if text in ("backlog", "reset"):
        return text
    if not text:
        raise argparse.ArgumentTypeError("expected backlog, reset or a text, got nothing")

    def plain(match: re.Match[str]) -> str:
        found = match[1]
        if found in _ESCAPES:
            return _ESCAPES[found]
        if len(found) == 3:
            return os.fsdecode(bytes([int(found[1:], 16)]))
        raise argparse.ArgumentTypeError(f"expected \\r, \\n, \\t, \\\\ or \\xNN, got {match[0]!r}")

    return os.fsencode(re.sub(r"\\(x[0-9a-fA-F]{2}|.|$)", plain, text, flags=re.DOTALL))


# ---------------------------------------------------------------------- the command


def run(given: argparse.Namespace) -> int:
    """Serve; give the exit status.

    Raises:
        OSError, ValueError: what is given can not be served.
    """
    fill_standard_streams()  # first: the signals take descriptors, too
    taken = taken_channel()
    if given.workers < 1:
        raise ValueError(f"--workers: expected at least 1, got {given.workers}")
    _settle_place(given)
    if taken is None and given.workers > 1:
        return _supervise(given)
    with Signals(*WORKER_SIGNALS) as signals:
        if given.patch:
            monkey.patch_all()
        if taken is None:
            return _serve_alone(given, signals)
        channel, descriptors = taken
        metrics = None if given.metrics_port is None else descriptors.pop()
        try:
            return be_worker(
                lambda: _make_server(given, descriptors),
                channel,
                signals,
                descriptors,
                metrics_listener=metrics,
            )
        finally:
            channel.close()


def _settle_place(given: argparse.Namespace) -> None:
    """Put the defaults of --address and --port in, unless it is a Unix socket that they would contradict."""
    if given.unix_path is not None:
        if given.address is not None or given.port is not None:
            raise ValueError("--unix excludes --address and --port")
        given.address = ""
    elif given.address is None:
        given.address = _ADDRESS
    given.port = given.port or 0


def _serve_alone(given: argparse.Namespace, signals: Signals) -> int:
    raise_descriptor_limit()
    inherited = inherited_listeners()
    with quiet_interrupts():
        server = _make_server(given, inherited)
        signals.also([signal.SIGINT])  # until here it ends a handler that is slow to load
    metrics, metrics_names = None, []
    if given.metrics_port is not None:
        metrics = bind_tcp(_METRICS_ADDRESS, given.metrics_port).detach()
        metrics_names = listening_names([metrics])

    def say_ready() -> None:
        _say_listening(served_names(server, inherited, given.unix_path), metrics_names)

    Service(server, signals, owns_queue=not inherited, metrics_listener=metrics).run(say_ready)
    return 0


def _supervise(given: argparse.Namespace) -> int:
    _configure_logging()
    with Signals(*SUPERVISOR_SIGNALS) as signals:
        raise_descriptor_limit()
        inherited = inherited_listeners()
        with (
            SharedListeners(
                given.address,
                given.port,
                unix_path=given.unix_path,
                listener=inherited or None,
                reuse_port=getattr(given, "reuse_port", False),
                owns_queue=not inherited,
            ) as shared,
            SharedListeners(
                _METRICS_ADDRESS, given.metrics_port or 0, listener=[] if given.metrics_port is None else None
            ) as metrics,
        ):
            Supervisor(
                # The same command once more: it finds a channel in its environment.
                worker_program(
                    [sys.executable, *sys.orig_argv[1:]], [*shared.descriptors, *metrics.descriptors]
                ),
                given.workers,
                shared,
                signals,
                drain_timeout=getattr(given, "drain_timeout", _SERVER["drain_timeout"].default),
                on_ready=lambda: _say_listening(shared.names, metrics.names),
            ).run()
    return 0


def _say_listening(names: list[str], metrics: list[str]) -> None:
    print(f"listening on {', '.join(names)}", flush=True)
    if metrics:
        print(f"metrics on http://{metrics[0]}/metrics", flush=True)


def _configure_logging() -> None:
    """Have warnings written to standard error, unless the handler's module has arranged something else."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s gnet[%(process)d] %(message)s")


def _make_server(given: argparse.Namespace, listeners: list[int]) -> Server:
    handler = load_handler(given.handler)
    _configure_logging()
    arguments = {name: value for name, value in vars(given).items() if name in _SERVER and name != "handler"}
    trusted = [network for each in arguments.pop("proxy_trusted") for network in each.split(",") if network]
    if listeners:
        arguments.update(address="", port=0, unix_path=None, listener=listeners)
    return Server(handler, ssl_context=_tls(given), proxy_trusted=trusted, **arguments)


def _tls(given: argparse.Namespace) -> Callable[[], SslContext] | None:
    if not given.tls_cert:
        if given.tls_key or given.tls_client_ca:
            raise ValueError("--tls-key and --tls-client-ca need --tls-cert")
        return None

    def make() -> SslContext:
        return new_context(
            cert_file=given.tls_cert,
            key_file=given.tls_key or given.tls_cert,
            verify_mode=SslCVerifyMode.PEER if given.tls_client_ca else SslCVerifyMode.NONE,
            ca_file=given.tls_client_ca,
            require_client_cert=bool(given.tls_client_ca),
        )

    return make


# ---------------------------------------------------------------------- the handler


def load_handler(text: str) -> Callable[..., object]:
    """Load `MODULE:HANDLER` or `FILE:HANDLER`; the handler may be an attribute of an attribute.

    Raises:
        ValueError: in one line, what is wrong and where.
    """
    where, colon, name = text.rpartition(":")
    if not colon or not where or not name:
        raise ValueError(f"expected MODULE:HANDLER, such as app.py:echo, got {text!r}")
    try:
        module = _load_file(where) if where.endswith(".py") or os.sep in where else _import(where)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{where} can not be loaded: {_one_line(error)}") from error
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"{where} has no {name!r}") from None
    if not callable(found):
        raise ValueError(f"{text} is no callable, but {type(found).__name__}")
    handler: Callable[..., object] = found
    return handler


def _import(name: str) -> ModuleType:
    if not sys.flags.safe_path and os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it, for when this is not run by it
    return importlib.import_module(name)


def _load_file(path: str) -> ModuleType:
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no such file: {path}")
    name = os.path.basename(path).removesuffix(".py")
    if name in sys.modules:  # a file with the name of a module must not take its place
        name = f"_gnet_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    sys.path.insert(0, os.path.dirname(path))  # as for `python FILE`
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _one_line(error: BaseException) -> str:
    """Say what was raised, and in which line of which file that is not Python's own import."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    step = error.__traceback__
    place = ""
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and file not in (__file__, importlib.__file__):
            place = f" ({file}, line {step.tb_lineno})"
        step = step.tb_next
    return " ".join(text.split()) + ("" if isinstance(error, SyntaxError) else place)
