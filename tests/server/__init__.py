"""Tests of `gnet.Server`, each with real sockets: limits, resources, listeners, deadlines, drains."""
