"""TLS on pyOpenSSL: contexts, trust, and the transport that stands in for the plain one."""
