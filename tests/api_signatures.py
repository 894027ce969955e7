"""How gnet's functions and methods are called, as it was decided before they were written.

A parameter with `=` has that default (`...`: some default of its own); one without may have a default. What
is not shown, a call need not give. A `timeout` that is not given is `None`: the socket's own, or no limit.
`test_exports.py` compares; `test_docs.py` holds `docs/nim.md`, which shows every parameter, against the code.
"""

from __future__ import annotations

from typing import Final

SIGNATURES: Final = """
    Port(number)
    deadline(timeout)
    dial(address, port, protocol=IPPROTO_TCP, buffered=True, timeout=None, *, ssl_context=None, source=None)
    from_sock_addr(sockaddr)
    get_peer_certificates(connection)
    get_primary_ip_addr(dest=parse_ip_address("8.8.8.8"))
    get_ssl_context_extra_data_index()
    ip_family(address)
    ipv4_any()
    ipv4_broadcast()
    ipv4_loopback()
    ipv6_any()
    ipv6_loopback()
    is_disconnection_error(flags, error)
    is_ip_address(text)
    new_context(prot_version, verify_mode, cert_file, key_file, cipher_list=CIPHERS_INTERMEDIATE, ca_dir,
        ca_file, *, ciphersuites, alpn, min_version)
    new_socket(domain, sock_type, protocol, buffered=True, inheritable=False, *, fd=None)
    parse_ip_address(text)
    raise_ssl_error(message="")
    serve(handler, address="", port=0, *, workers=1)
    to_sock_addr(address, port)

    Socket.accept(flags=SocketFlag.SAFE_DISCONN, inheritable=False, timeout=None)
    Socket.accept_addr(flags=SocketFlag.SAFE_DISCONN, inheritable=False, timeout=None)
    Socket.adopt(sock)
    Socket.bind_addr(port=0, address="")
    Socket.bind_unix(path)
    Socket.close(flags=SocketFlag.SAFE_DISCONN, timeout=1000)
    Socket.connect(address, port=0, timeout=None)
    Socket.connect_unix(path, timeout=None)
    Socket.detach()
    Socket.do_handshake(timeout=None)
    Socket.fileno()
    Socket.flush(timeout=None)
    Socket.get_fd()
    Socket.get_local_addr()
    Socket.get_peer_addr()
    Socket.get_peer_certificates()
    Socket.get_psk_identity()
    Socket.get_sock_opt(opt, level=None)
    Socket.get_socket_error()
    Socket.got_handshake()
    Socket.has_data_buffered()
    Socket.is_ssl()
    Socket.lines(max_length=65536, timeout=None, bare_cr=False)
    Socket.listen(backlog=SOMAXCONN)
    Socket.peek(size, timeout=None)
    Socket.read_line(timeout=None, flags=SocketFlag.SAFE_DISCONN, max_length=MAX_LINE_LENGTH)
    Socket.read_lines(most=512, timeout=None, flags=SocketFlag.SAFE_DISCONN, max_length=MAX_LINE_LENGTH)
    Socket.recv(size, timeout=None, flags=SocketFlag.SAFE_DISCONN)
    Socket.recv_exactly(size, timeout=None)
    Socket.recv_from(length, flags=0, timeout=None, *, truncate=False)
    Socket.recv_into(buffer, size=0, timeout=None, flags=SocketFlag.SAFE_DISCONN)
    Socket.recv_line(timeout=None, flags=SocketFlag.SAFE_DISCONN, max_length=MAX_LINE_LENGTH)
    Socket.recv_some(max_size, timeout=None)
    Socket.recv_until(delimiter, max_length, timeout=None)
    Socket.send(data, flags=SocketFlag.SAFE_DISCONN, timeout=None)
    Socket.send_to(address, port, data, af=None, flags=0)
    Socket.set_keepalive(idle, interval, count)
    Socket.set_sock_opt(opt, value, level=None)
    Socket.set_user_timeout(timeout)
    Socket.shutdown(how)
    Socket.skip(size, timeout=None)
    Socket.socket_error(err=-1, async_=False, last_error=-1, flags=...)
    Socket.try_accept()
    Socket.try_read_line()
    Socket.try_send(data)

    SslContext.destroy_context()
    SslContext.get_extra_data(index)
    SslContext.renewed()
    SslContext.set_extra_data(index, data)
    SslContext.wrap_connected_socket(socket, handshake, hostname="", timeout=None)
    SslContext.wrap_socket(socket)
"""

PROPERTIES: Final = (
    "Socket.alpn_protocol Socket.closed Socket.coalesce Socket.ssl_handle Socket.timeout SslContext.context "
    "SslContext.client_get_psk_func SslContext.psk_identity_hint SslContext.server_get_psk_func "
    "SslContext.session_id_context"
)

# Public for other modules of gnet only; how they are called is their own affair, and no document shows them.
FOR_OTHER_MODULES: Final = frozenset(
    "Socket.become_tls Socket.finish_handshake Socket.from_transport SslContext.check_client_host "
    "SslContext.freeze SslContext.is_destroyed SslContext.server_verify_flags SslContext.verifies "
    "SslContext.wrap_transport".split()
)
