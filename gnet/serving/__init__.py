"""What `gnet.Server` is made of: listeners, connections, deadlines, counters."""
