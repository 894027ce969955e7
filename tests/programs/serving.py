"""`serve` as a program: `python tests/programs/serving.py HANDLER {"workers": 2, …}`.

Prints where it listens, and afterwards what the signal handlers are.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

if "--patch" in sys.argv:
    from gevent import monkey

    monkey.patch_all()

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import _socket

import gnet
from gnet.serving.foreground import serve
from tests.programs import handlers


def main() -> None:
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    if "--hub" in sys.argv:
        import gevent

        gevent.sleep(0)
    listener = _socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    if files := arguments.pop("tls", None):
        arguments["ssl_context"] = gnet.new_context(
            cert_file=files[0], key_file=files[1], verify_mode=gnet.SslCVerifyMode.NONE
        )
    before = signal.getsignal(signal.SIGTERM)
    try:
        serve(getattr(handlers, name), listener=listener, **arguments)
    finally:
        listener.close()
    restored = signal.getsignal(signal.SIGTERM) is before
    print("handlers restored" if restored else "handlers left", flush=True)


if __name__ == "__main__":
    main()
