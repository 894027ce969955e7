"""Load on a mail server: a connection for each mail, from greeting to QUIT, with STARTTLS if it is offered.

    locust -f examples/locust_smtp.py --headless -u 10 -r 10 -t 10 --host tcp://localhost:2525

To try it: python examples/smtp_sink.py --port 2525 (with --tls-cert for STARTTLS; SSL_CERT_FILE=ca.pem has
users trust an authority of your own). Not for a server that delivers: to that, recipients are real.

An answer of SMTP is one line or several: `250-` goes on, `250 ` is the last (RFC 5321, 4.2.1). Each step has
a row of its own: a slow message does not hide behind fast recipients. Left out: passwords, pipelining.
"""

from __future__ import annotations

import functools
import re

from locust import between, task

import gnet
from gnet.locust import LineUser

LONGEST = 2048  # bytes of a line of an answer
MAIL = b"From: load@example.com\r\nTo: sink@example.com\r\nSubject: load\r\n\r\n.starts with a dot\r\n"


def read_reply(socket: gnet.Socket) -> bytes:
    """Read all lines of an answer; give them with a line end between them."""
    lines = [socket.recv_until(b"\r\n", LONGEST)[:-2]]
    while lines[-1][3:4] == b"-":
        lines.append(socket.recv_until(b"\r\n", LONGEST)[:-2])
    return b"\n".join(lines)


def code(number: int) -> re.Pattern[bytes]:
    """Give what matches an answer with this code."""
    return re.compile(rb"%d(?:[ -].*)?" % number, re.DOTALL)


@functools.cache
def tls_context() -> gnet.SslContext:
    return gnet.new_context(verify_mode=gnet.SslCVerifyMode.PEER_USE_ENV_VARS)


class MailUser(LineUser):
    host = "tcp://localhost:2525"
    connect = "per_task"  # one mail, one connection
    wait_time = between(0.01, 0.1)
    timeout = 10_000  # milliseconds, for each answer

    def on_connect(self) -> None:
        """Greet. Called with each connection, before the first request of the task goes out."""
        # The greeting comes unasked: nothing is sent for it.
        self.client.exchange(None, read_reply, "greeting", code(220))
        answer = self.step(b"EHLO load.example.com", 250)
        if b"STARTTLS" in answer and self.step(b"STARTTLS", 220):
            self.client.exchange(None, self.start_tls, "handshake")
            answer = self.step(b"EHLO load.example.com", 250)  # what was said in clear counts no more
        if not answer:
            self.client.close()  # then no request of the task is sent

    def start_tls(self, socket: gnet.Socket) -> bytes:
        """Speak TLS from here on; the certificate must be for the host of the test."""
        host = self.client.target.address
        tls_context().wrap_connected_socket(socket, gnet.SslHandshakeType.AS_CLIENT, host)
        return b""

    @task
    def send_mail(self) -> None:
        if (
            self.step(b"MAIL FROM:<load@example.com>", 250, "MAIL FROM")
            and self.step(b"RCPT TO:<sink@example.com>", 250, "RCPT TO")
            and self.step(b"DATA", 354)
        ):
            stuffed = re.sub(rb"^\.", b"..", MAIL, flags=re.MULTILINE)  # a lone dot ends the message
            self.step(stuffed + b".", 250, "message")
            self.step(b"QUIT", 221)

    def step(self, command: bytes, expected: int, name: str | None = None) -> bytes:
        """Send a command; give its answer, `b""` if it is not the expected one."""
        response = self.client.request(command, read=read_reply, expect=code(expected), name=name)
        return response.data if response.ok else b""
