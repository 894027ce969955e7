"""What all benchmarks share: server processes, clients, peers, tables, the machine's facts."""
