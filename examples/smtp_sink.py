"""Accept mail and deliver none: each message is printed as a line of JSON; TLS begins in mid-connection.

    python examples/smtp_sink.py --port 2525 --tls-cert chain.pem --tls-key key.pem

For programs that send mail (RFC 5321). `recv_until` takes no line end but CRLF. `wrap_connected_socket` has
the client's socket speak TLS from there on; what somebody has slipped in before that, in clear, is an error.
Without a certificate there is no STARTTLS. Left out: passwords, and delivery.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys

import gevent

import gnet

LARGEST = 10 * 1024 * 1024  # bytes of a message
LONGEST = 64 * 1024  # bytes of a line; more than the 1,000 of the RFC, to which many programs do not keep
MOST_RECIPIENTS = 100
DRAIN_TIMEOUT = 2_000  # milliseconds
PATH = re.compile(r"(?:MAIL FROM|RCPT TO): ?<([^<>]*)>(?:.* SIZE=(\d{1,20}))?", re.IGNORECASE | re.ASCII)


def read_message(client: gnet.Socket) -> str | None:
    """Read up to the line with the dot; `None` if that was too much."""
    lines, size = [], 0
    while (line := client.recv_until(b"\r\n", LONGEST)) != b".\r\n":
        size += len(line)
        if size <= LARGEST:
            lines.append(line.removeprefix(b"."))  # which was doubled on the way
        else:
            lines.clear()  # the rest is still read: only behind it an answer is due
    return b"".join(lines).decode(errors="replace") if size <= LARGEST else None


def talk(client: gnet.Socket, context: gnet.SslContext | None) -> None:
    answer, sender, recipients = "220 smtp_sink is ready", None, list[str]()
    client.send(f"{answer}\r\n".encode())
    while not answer.startswith("221"):
        line = client.recv_until(b"\r\n", LONGEST)[:-2].decode(errors="replace")
        path, answer = PATH.match(line), "250 ok"
        match line.partition(" ")[0].upper():
            case "STARTTLS" if context and not client.is_ssl():
                client.send(b"220 go ahead\r\n")
                context.wrap_connected_socket(client, gnet.SslHandshakeType.AS_SERVER)
                sender, recipients = None, []
                continue
            case "EHLO" | "HELO" | "RSET" as verb:
                sender, recipients = None, []
                if verb == "EHLO":
                    tls = "250-STARTTLS\r\n" if context and not client.is_ssl() else ""
                    answer = f"250-smtp_sink\r\n250-PIPELINING\r\n{tls}250 SIZE {LARGEST}"
            case "MAIL" if path and int(path[2] or 0) > LARGEST:
                answer = f"552 more than {LARGEST} bytes"
            case "MAIL" if path:
                sender, recipients = path[1], []
            case "RCPT" if path and sender is not None and len(recipients) == MOST_RECIPIENTS:
                answer = f"452 more than {MOST_RECIPIENTS} recipients"
            case "RCPT" if path and sender is not None:
                recipients.append(path[1])
            case "DATA" if recipients:
                client.send(b"354 go ahead, and end with a dot\r\n")
                text = read_message(client)
                if text is None:
                    answer = f"552 more than {LARGEST} bytes"
                else:
                    mail = {"from": sender, "to": recipients, "tls": client.is_ssl(), "message": text}
                    print(json.dumps(mail), flush=True)
                sender, recipients = None, []
            case "QUIT":
                answer = "221 goodbye"
            case verb if verb != "NOOP":
                answer = "503 expected EHLO, MAIL FROM:<...>, RCPT TO:<...>, DATA, RSET, NOOP or QUIT"
        client.send(f"{answer}\r\n".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tls-cert", metavar="FILE", help="offer STARTTLS: certificate chain, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="its key; default: in the same file")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    given = parser.parse_args()

    def handle(client: gnet.Socket, _address: str) -> None:
        try:
            talk(client, context)
        except gnet.IncompleteReadError:  # it went without QUIT, or it is we who are to go
            if server.draining:
                client.send(b"421 smtp_sink is closing\r\n")

    try:
        cert, key = given.tls_cert, given.tls_key or given.tls_cert
        context = gnet.new_context(cert_file=cert, key_file=key) if cert else None
        server = gnet.Server(handle, given.address, given.port, drain_timeout=DRAIN_TIMEOUT)
        server.start()
    except (OSError, ValueError) as error:
        sys.exit(f"smtp_sink: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.stop)
    host = server.address
    print(f"listening on {f'[{host}]' if ':' in host else host}:{server.port}")
    print(f"try: curl smtp://{host}:{server.port} --mail-from a@x --mail-rcpt b@x -T FILE", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
