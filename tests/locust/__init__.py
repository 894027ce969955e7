"""Tests of gnet.locust, in the patched process only: importing Locust patches (see `conftest.py`)."""
