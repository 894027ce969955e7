"""Certificates and contexts for the tests of the TLS transport, made when the first of them asks.

One CA, a server certificate for loopback, client certificates of that CA and of a strange one. Nothing of it
outlives the process.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trustme
from gevent import ssl
from OpenSSL import SSL

import gnet

HOST: Final = "127.0.0.1"
"""What all of them listen on; the server certificate is for it, too."""

_directory: Final = tempfile.TemporaryDirectory(prefix="gnet-test-keys-")
atexit.register(_directory.cleanup)


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its key, in files."""

    cert_file: str
    key_file: str


@dataclass(frozen=True)
class Keys:
    """Paths of PEM files."""

    ca_file: str
    other_ca_file: str
    """A CA that signed none of these but `stranger`."""
    server: Pair
    client: Pair
    expired: Pair
    """A client's that was good until yesterday."""
    stranger: Pair
    """A client's of the other CA."""


@functools.cache
def keys() -> Keys:
    """Give the files, which are made by the first call."""
    ca, other_ca = (trustme.CA(key_type=trustme.KeyType.ECDSA) for _ in range(2))
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    issue = functools.partial(ca.issue_cert, key_type=trustme.KeyType.ECDSA)
    return Keys(
        ca_file=_write("ca.pem", ca.cert_pem.bytes()),
        other_ca_file=_write("other-ca.pem", other_ca.cert_pem.bytes()),
        server=_write_pair("server", issue("localhost", HOST, "::1")),
        client=_write_pair("client", issue("client.test")),
        expired=_write_pair("expired", issue("client.test", not_after=yesterday)),
        stranger=_write_pair("stranger", other_ca.issue_cert("client.test", key_type=trustme.KeyType.ECDSA)),
    )


def _write(name: str, content: bytes) -> str:
    path = Path(_directory.name, name)
    path.touch(mode=0o600)
    path.write_bytes(content)
    return str(path)


def _write_pair(name: str, leaf: trustme.LeafCert) -> Pair:
    chain = b"".join(certificate.bytes() for certificate in leaf.cert_chain_pems)
    return Pair(_write(f"{name}.pem", chain), _write(f"{name}-key.pem", leaf.private_key_pem.bytes()))


# Contexts, for gnet and for the peers


def server_context(pair: Pair | None = None, **arguments: Any) -> gnet.SslContext:
    """Give gnet's context of a server; `arguments` go to `new_context`."""
    pair = pair or keys().server
    return gnet.new_context(cert_file=pair.cert_file, key_file=pair.key_file, **arguments)


def client_context(pair: Pair | None = None, **arguments: Any) -> gnet.SslContext:
    """Give gnet's context of a client that trusts the CA here, with a certificate of its own if asked to."""
    if pair is not None:
        arguments |= {"cert_file": pair.cert_file, "key_file": pair.key_file}
    arguments.setdefault("ca_file", keys().ca_file)
    return gnet.new_context(**arguments)


def openssl_context(*, server: bool, version: str = "TLSv1.3", pair: Pair | None = None) -> SSL.Context:
    """Give pyOpenSSL's context of a peer that speaks just one version of TLS."""
    context = SSL.Context(SSL.TLS_METHOD)
    number = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}[version]
    context.set_min_proto_version(number)
    context.set_max_proto_version(number)
    if server:
        pair = pair or keys().server
    if pair is not None:
        context.use_certificate_chain_file(pair.cert_file)
        context.use_privatekey_file(pair.key_file)
    context.load_verify_locations(keys().ca_file)
    context.set_verify(SSL.VERIFY_NONE if server else SSL.VERIFY_PEER)
    return context


def stdlib_context(*, server: bool, version: str = "") -> ssl.SSLContext:
    """Give the stdlib's context, as gevent makes it cooperative."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    if version:
        number = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[version]
        context.minimum_version = context.maximum_version = number
    if server:
        context.load_cert_chain(keys().server.cert_file, keys().server.key_file)
    else:
        context.load_verify_locations(keys().ca_file)
    return context
