"""What idle connections cost: `gnet.Server` beside gevent's StreamServer with `makefile` (fault row B6).

    python -m loadtests.hostile.idle [--connections 10000]

Each connection sends one line, reads the answer, and is then silent. The table has the server's KiB for each
of them, microseconds that one more client waits for an answer before they came and while they are there
(median of many), and the KiB that stay when all have gone.

Client and server are two processes on two cores; a connection takes a descriptor in each. The clients come
from as many loopback addresses as ports ask for. Ports of the last run that are still in TIME_WAIT are no
obstacle: the clients end with a reset.
"""

from __future__ import annotations

import argparse
import resource
import socket
import statistics
import struct
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if sys.argv[1:] == ["--serve"]:  # the peer, which imports no more than a program that serves does
    import gnet

    def answer(client: gnet.Socket, _address: str) -> None:
        """Answer each line."""
        for _line in client.lines():
            client.send(b"+PONG\r\n")

    most = int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 0.8)
    server = gnet.Server(answer, "127.0.0.1", max_connections=most)
    server.start()
    print(f"listening on 127.0.0.1:{server.port}", flush=True)
    server.serve_forever()
    raise SystemExit

from loadtests.measuring import machine, processes, tables
from loadtests.measuring.peers import PEERS as SERVERS
from loadtests.measuring.peers import Peer, PeerUnavailable
from loadtests.measuring.processes import PeerServer

PEERS = ["gnet.Server", "gevent"]
AIM_KIB = 10.0
PER_ADDRESS = 20_000
ASKED = 2000
LINGER_ZERO = struct.pack("ii", 1, 0)
PING, PONG = b"PING\r\n", b"+PONG\r\n"
Row = dict[str, Any]


def connect(port: int, number: int) -> socket.socket:
    """Connect client number so-and-so, from an address that has ports left."""
    sock = socket.socket()
    sock.settimeout(30)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    sock.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
    sock.connect(("127.0.0.1", port))
    return sock


def ask(sock: socket.socket) -> float:
    """Send a line and wait for its answer; give the microseconds that took."""
    before = time.perf_counter()
    sock.sendall(PING)
    answer = b""
    while len(answer) < len(PONG):
        data = sock.recv(64)
        if not data:
            raise SystemExit("the server closed a connection")
        answer += data
    return (time.perf_counter() - before) * 1e6


def measure_peer(peer: str, connections: int) -> Row:
    """Hold the connections and look at the server."""
    with PeerServer(peer) as server, ExitStack() as stack:
        other = stack.enter_context(connect(server.port, 0))
        alone = statistics.median(ask(other) for _ in range(ASKED))
        before = server.memory_kib()
        with ExitStack() as idle:
            for number in range(connections):
                ask(idle.enter_context(connect(server.port, number)))
            server.cpu_ns()  # it has come to rest
            held = server.memory_kib()
            among = statistics.median(ask(other) for _ in range(ASKED))
        ask(other)
        server.cpu_ns()
        after = server.memory_kib()
        return {
            "connections": connections,
            "kib_each": (held - before) / connections,
            "alone_us": alone,
            "among_us": among,
            "left_kib": after - before,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--peers", default=",".join(PEERS), help="of %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    SERVERS["gnet.Server"] = Peer("gnet.Server", (sys.executable, __file__, "--serve"))
    processes.prepare()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    # The server keeps a fifth of its descriptors for other things (`max_connections`).
    if arguments.connections > most * 0.8 - 10:
        raise SystemExit(f"{arguments.connections} connections are too many for {most} descriptors")
    facts = machine.machine_facts()
    print(machine.facts_line(facts), flush=True)
    rows: dict[str, Row] = {}
    for peer in arguments.peers.split(","):
        try:
            rows[peer] = measure_peer(peer, arguments.connections)
        except PeerUnavailable as error:
            print(f"without {peer}: {error}", file=sys.stderr)
    header = ["server", "idle", "KiB each", "answer alone, µs", "answer among them, µs", "KiB left"]
    cells = [
        [
            peer,
            f"{row['connections']:,}",
            f"{row['kib_each']:.1f}",
            f"{row['alone_us']:.0f}",
            f"{row['among_us']:.0f}",
            f"{row['left_kib']:,}",
        ]
        for peer, row in rows.items()
    ]
    print("\n" + tables.markdown_table(header, cells))
    ours = rows.get("gnet.Server")
    if ours is not None:
        verdict = "met" if ours["kib_each"] <= AIM_KIB else "MISSED"
        print(f"\nAim: at most {AIM_KIB:g} KiB each: {verdict}.")
    if arguments.json:
        tables.write_json(arguments.json, {"facts": facts, "rows": rows})


if __name__ == "__main__":
    main()
