"""What bad clients, idle ones, reloads and workers do to a server; each program runs by `python -m`."""
