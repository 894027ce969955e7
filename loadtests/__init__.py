"""Programs that load and measure gnet and its peers: `python -m loadtests.NAME` from the project's root."""
