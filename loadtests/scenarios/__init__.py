"""Load on the read path, one locustfile for each kind of it; each says what must hold.

    locust -f loadtests/scenarios/ping.py --host tcp://127.0.0.1:7000     the web UI, or --headless -t 10s
    make load SCENARIO=ping                                               with a server of its own

The server is to answer as loadtests/load/servers/lines.py says. Users, spawn rate and `--stop-timeout` have
defaults of the scenario's. With `--baseline FILE` (the `--gnet-figures` of a run of `ping`) response times
are compared to those of `ping`, with `--gnet-metrics` counts to those of the server.
"""
