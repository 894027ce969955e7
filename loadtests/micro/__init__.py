"""Micro-benchmarks, `python -m loadtests.micro`: what a line, a call, a request costs, beside a yardstick."""
