"""Makes the calls of a case of `data/nim_stream.jsonl.gz` on a real gnet socket.

What each gives is put as the recorded answers of Nim are: `r` (what was read, in hex, or another
result), `ret` (a count), or `exc` and, for an OSError, `errno`. The exceptions have Nim's names:

    ClosedError               AssertionDefect   Nim asserts that the socket is not closed
    ValueError                RangeDefect       Nim's type for sizes has no negative numbers
    TimeoutError              TimeoutError
    any other OSError         OSError
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import gevent
import gevent.socket

import gnet
from tests.scripted_peer import ScriptedPeer

Answer = dict[str, Any]

_LIMIT_SECONDS = 20


@dataclass(frozen=True)
class Replay:
    """What gnet did in a case."""

    answers: list[Answer]
    peer_got: str | dict[str, Any]
    """In hex; of much data, the length and a hash, as it was recorded."""


def replay(case: dict[str, Any]) -> Replay:
    """Play a case over loopback."""
    answers: list[Answer] = []
    hangs = AssertionError(f"case {case['id']}: a call does not return")
    with (
        gevent.Timeout(_LIMIT_SECONDS, hangs),
        ScriptedPeer(case["peer"]) as peer,
        gnet.new_socket(buffered=case["buffered"]) as client,
    ):
        client.connect("127.0.0.1", peer.port)
        peer.play(client)
        for op in case["ops"]:
            answers.append(answer(client, peer, op))
        client.close(timeout=10_000)
        peer.finish()
    return Replay(answers, digest(peer.received))


def answer(client: gnet.Socket, peer: ScriptedPeer, op: dict[str, Any]) -> Answer:
    """Make one call and give its answer."""
    try:
        return call(client, peer, op)
    except gnet.TimeoutError:
        return {"exc": "TimeoutError"}
    except gnet.ClosedError:
        return {"exc": "AssertionDefect"}
    except ValueError:
        return {"exc": "RangeDefect"}
    except OSError as error:
        return {"exc": "OSError", "errno": error.errno}


def call(client: gnet.Socket, peer: ScriptedPeer, op: dict[str, Any]) -> Answer:
    """Make the call that Nim's is in gnet."""
    kind = op["op"]
    timeout = op.get("timeout", -1)
    flags = gnet.SocketFlag.SAFE_DISCONN if op.get("flags", "S") == "S" else gnet.SocketFlag(0)
    max_length = op.get("max", gnet.MAX_LINE_LENGTH)
    match kind:
        case "readLine":
            return {"r": client.read_line(timeout, flags, max_length).hex()}
        case "recvLine":
            return {"r": client.recv_line(timeout, flags, max_length).hex()}
        case "recv":
            return {"r": client.recv(op["size"], timeout, flags).hex()}
        case "recvVar":
            data = client.recv(op["size"], timeout, flags)
            return {"r": data.hex(), "ret": len(data)}
        case "recvPtr" | "recvPtrT":
            buffer = bytearray(op["size"])  # Nim's forms with a pointer have no flags
            count = client.recv_into(buffer, op["size"], timeout if kind == "recvPtrT" else -1)
            return {"r": buffer[:count].hex(), "ret": count}
        case "skip":
            return {"ret": client.skip(op["size"], timeout)}
        case "has":
            return {"r": client.has_data_buffered()}
        case "send":
            client.send(bytes.fromhex(op["data"]) * op.get("rep", 1), flags)
        case "sendPtr":
            client.send(bytes.fromhex(op["data"]))
        case "trySend":
            # Nim's waits until the kernel has it all; gnet's never waits, so give it room before.
            gevent.socket.wait_write(client.fileno()) if not client.closed else None
            return {"r": client.try_send(bytes.fromhex(op["data"]) * op.get("rep", 1))}
        case "peer":
            address, port = client.get_peer_addr()
            return {"r": [address, port == peer.port]}
        case "local":
            address, port = client.get_local_addr()
            return {"r": [address, 0 < port != peer.port]}
        case "sockerr":
            return {"r": client.get_socket_error()}
        case "close":
            client.close()
        case "stdin":
            peer.wait_for_mark()
        case "sleep":
            gevent.sleep(op["ms"] / 1000)
        case "errno":
            pass  # Nim reads the thread's errno after the fact; gnet has no such thing
        case _:
            raise AssertionError(f"an unknown call: {op}")
    return {}


def digest(data: bytes | bytearray) -> str | dict[str, Any]:
    """Give data as `peer_got` was recorded."""
    if len(data) <= 2000:
        return data.hex()
    return {"len": len(data), "sha256": hashlib.sha256(data).hexdigest()}
