"""What one bad client does to a line server: gnet beside gevent's `makefile`.

    python -m loadtests.hostile.flood

Three tables. *Flood*: milliseconds that a client which asks every few milliseconds waits for its answer,
while another connection sends pipelined lines as fast as the server takes them. *A line without an end*:
KiB by which the server's memory peaks above what it held before, while a client sends 200 MB and no line
end. *One-byte segments*: a line of up to 1 MB sent byte by byte with Nagle's algorithm off; CPU nanoseconds
of the server per byte, which stay the same where reading is linear and grow with the length where it is
not.

Servers have one core, the clients the other; the flooding client runs at a lower priority than the one that
measures, which is this process.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

from loadtests.measuring import client, machine, processes, tables
from loadtests.measuring.peers import PeerUnavailable
from loadtests.measuring.processes import PeerServer

PEERS = ["gnet-read_line", "gnet-lines", "gevent"]
FLOODS = {"none": 0, "80-byte lines": 80, "empty lines": 1}
QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
FLOOD_AIM_MS = 20.0
ENDLESS_AIM_KIB = 1000
Row = dict[str, Any]


def probe(port: int, seconds: float) -> list[float]:
    """Milliseconds each request took: one in flight, a pause of 2 to 5 ms between them.

    A request without an answer within `seconds` is the last one: the server serves nobody but the other.
    """
    waits: list[float] = []
    dice = random.Random(1)
    with client.connect(port) as sock:
        sock.settimeout(seconds)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(dice.uniform(0.002, 0.005))
            before = time.perf_counter()
            sock.sendall(client.PING)
            answer = b""
            try:
                while len(answer) < len(client.PONG):
                    data = sock.recv(64)
                    if not data:
                        raise SystemExit("the server closed the connection that measures")
                    answer += data
            except TimeoutError:
                return [*waits, math.inf]
            waits.append(1000 * (time.perf_counter() - before))
    return waits


def quantile(waits: list[float], share: float) -> float | None:
    """That share of the requests took no longer; None: they were not answered."""
    value = sorted(waits)[math.ceil(share * len(waits)) - 1]
    return None if math.isinf(value) else value


def flood(peer: str, name: str, line_bytes: int, seconds: float) -> Row:
    """One row of the first table."""
    with PeerServer(peer) as server:
        if line_bytes:
            options = ("-p", str(server.port), "--line-bytes", str(line_bytes))
            with processes.start_client("flood", *options) as flooding:
                assert flooding.stdout is not None
                flooding.stdout.readline()  # it floods now
                started = time.monotonic()
                waits = probe(server.port, seconds)
                answered, _nothing = flooding.communicate("")
                rate = int(answered.split()[1]) / (time.monotonic() - started)
        else:
            waits, rate = probe(server.port, seconds), 0.0
    return {
        "peer": peer,
        "flood": name,
        **{f"{key}_ms": quantile(waits, share) for key, share in QUANTILES.items()},
        "requests": len(waits),
        "flood_lines_per_second": rate,
    }


def endless_line(peer: str, megabytes: int) -> Row:
    """One row of the second table."""
    chunk = b"x" * 1_000_000
    sent = 0
    with PeerServer(peer) as server:
        probe(server.port, 0.1)  # what a first connection loads is not counted
        server.cpu_ns()
        server.forget_memory_peak()
        before = server.memory_kib("VmHWM")  # what is resident now
        end = "took it all"
        with client.connect(server.port) as sock:
            try:
                while sent < megabytes * len(chunk):
                    sent += sock.send(chunk)
            except ConnectionError as error:
                end = f"closed ({type(error).__name__})"
            server.cpu_ns()  # until it has come to rest
            grown = server.memory_kib("VmHWM") - before
    return {"peer": peer, "sent_bytes": sent, "end": end, "grown_kib": grown}


def one_byte_segments(peer: str, sizes: list[int]) -> list[Row]:
    """The rows of one peer in the third table."""
    rows: list[Row] = []
    with PeerServer(peer) as server:
        for size in sizes:
            with client.connect(server.port) as sock:
                cpu, wall = server.cpu_ns(), time.perf_counter()
                for _ in range(size - 1):
                    sock.send(b"x")
                sock.send(b"\n")
                answer = sock.recv(64)
                wall = time.perf_counter() - wall
                cpu = server.cpu_ns() - cpu
            if answer != client.PONG:
                raise SystemExit(f"{peer}: a line of {size:,} bytes was answered {answer!r}")
            rows.append({"peer": peer, "bytes": size, "seconds": wall, "cpu_ns_per_byte": cpu / size})
    return rows


def milliseconds(value: float | None) -> str:
    return "no answer" if value is None else f"{value:.2f}"


def flood_table(rows: list[Row], seconds: float) -> str:
    lines = [
        [
            *(str(row["peer"]), str(row["flood"])),
            *(milliseconds(row[f"{key}_ms"]) for key in QUANTILES),
            f"{row['flood_lines_per_second']:,.0f}",
            f"p99 < {FLOOD_AIM_MS:.0f} ms" if str(row["peer"]).startswith("gnet") else "",
        ]
        for row in rows
    ]
    header = [f"flood for {seconds:g} s", "by", "p50 ms", "p99 ms", "max ms", "flooding lines/s", "aim"]
    return tables.markdown_table(header, lines)


def endless_table(rows: list[Row]) -> str:
    lines = [
        [
            *(str(row["peer"]), f"{row['sent_bytes']:,}", str(row["end"]), f"{row['grown_kib']:,}"),
            f"< {ENDLESS_AIM_KIB:,} KiB" if row["peer"] == "gnet-lines" else "",
        ]
        for row in rows
    ]
    header = ["a line without an end", "bytes sent", "the server", "grew by KiB", "aim"]
    return tables.markdown_table(header, lines)


def segments_table(rows: list[Row]) -> str:
    lines = [
        [str(row["peer"]), f"{row['bytes']:,}", f"{row['seconds']:.2f}", f"{row['cpu_ns_per_byte']:,.0f}"]
        for row in rows
    ]
    return tables.markdown_table(["one-byte segments", "bytes", "seconds", "server CPU ns per byte"], lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", action="append", choices=PEERS, help="only these; default: all")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each flood")
    parser.add_argument("--megabytes", type=int, default=200, help="of the line without an end")
    parser.add_argument(
        "--segments", type=int, default=1_000_000, help="of one byte; also a half and a quarter"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    given = parser.parse_args()
    if given.seconds <= 0 or given.megabytes < 1 or given.segments < 8:
        parser.error("--seconds must be above 0, --megabytes at least 1, --segments at least 8")
    return given


def main() -> None:
    given = parse_arguments()
    processes.prepare()
    facts = machine.machine_facts()
    floods: list[Row] = []
    endless: list[Row] = []
    segments: list[Row] = []
    sizes = [given.segments // 4, given.segments // 2, given.segments]
    for peer in given.peer or PEERS:
        try:
            PeerServer(peer).close()
        except PeerUnavailable as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        floods += [flood(peer, name, size, given.seconds) for name, size in FLOODS.items()]
        endless.append(endless_line(peer, given.megabytes))
        # A line of 1 MB is above what `lines()` takes by default; `read_line` takes it.
        if peer != "gnet-lines":
            segments += one_byte_segments(peer, sizes)
    print(machine.facts_line(facts))
    texts = flood_table(floods, given.seconds), endless_table(endless), segments_table(segments)
    print("", "\n\n".join(texts), sep="\n")
    if given.json:
        everything = {"flood": floods, "endless_line": endless, "one_byte_segments": segments}
        tables.write_json(given.json, {"machine": facts, **everything})


if __name__ == "__main__":
    main()
