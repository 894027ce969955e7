"""The tab with the server's counters in Locust's web UI: what the page is given, and what a browser shows."""

from __future__ import annotations

import json
import socket as stdlib_socket
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import gevent
import pytest
from gevent import subprocess
from locust.env import Environment

import gnet
from gnet.locust.hooks import install
from gnet.locust.server_counters import ServerCounters, metrics_url, parse
from gnet.serving.metrics import start_metrics_server
from tests.conftest import require_program
from tests.locust.locust_processes import PATIENCE, ending, finish, free_port, pong, start

KEY: Final = "gnet-server"


@contextmanager
def server_with_metrics() -> Iterator[tuple[gnet.Server, str]]:
    """Give a server and where its metrics are."""
    with gnet.Server(pong, "127.0.0.1") as server:
        metrics = start_metrics_server(server.stats)
        try:
            yield server, f"127.0.0.1:{metrics.port}"
        finally:
            metrics.close()


@contextmanager
def page_of(**options: Any) -> Iterator[tuple[Environment, Any]]:
    """Give an environment with a web UI that has these options, and a client of its pages."""
    environment = Environment(parsed_options=options_with(**options))
    environment.create_local_runner()
    try:
        # For its page, Locust reads the command line of the process.
        with patch.object(sys, "argv", ["locust"]):
            web_ui = environment.create_web_ui("127.0.0.1", 0, delayed_start=True)
            install(environment)
            yield environment, web_ui.app.test_client()
    finally:
        environment.events.quitting.fire(environment=environment, reverse=True)
        environment.runner.quit()


def options_with(**options: Any) -> Namespace:
    needed = {"num_users": 1, "spawn_rate": 1, "run_time": None, "stats_history_enabled": False, "host": None}
    return Namespace(**needed, web_base_path=None, **options)


def rows_of(client: Any) -> dict[str, dict[str, Any]]:
    (table,) = client.get("/stats/requests").get_json()["extended_stats"]
    assert table["key"] == KEY
    return {row["name"]: row for row in table["data"]}


# What the page is given


def test_the_counters_are_in_what_the_page_asks_for() -> None:
    with server_with_metrics() as (server, url), gnet.dial("127.0.0.1", server.port) as client:
        client.send(b"PING\r\n")
        client.read_line(timeout=10_000)
        counters = ServerCounters(metrics_url(url))
        counters.ask()
        rows = {row["name"]: row["value"] for row in counters.rows()}
    assert (rows["Connections: now"], rows["Traffic: lines in"], rows["Timeouts: idle"]) == (1, 1, 0)
    assert {"Accept queue: length", "Pool: size", "Connections: rejected"} <= rows.keys()


def test_what_grows_has_a_rate_after_the_second_time() -> None:
    with server_with_metrics() as (server, url):
        counters = ServerCounters(metrics_url(url))
        counters.ask()
        assert {one.per_second for one in counters.counters} == {None}
        with gnet.dial("127.0.0.1", server.port) as client:
            client.send(b"PING\r\n")
            client.read_line(timeout=10_000)
            counters.ask()
    (lines,) = [one for one in counters.counters if one.key == "lines_in"]
    assert lines.per_second is not None
    assert lines.per_second > 0


def test_a_server_that_is_not_there_is_said_and_its_return_seen() -> None:
    counters = ServerCounters(f"http://127.0.0.1:{free_port()}/metrics")
    counters.ask()
    (row,) = counters.rows()
    assert row["value"] == "not reachable"
    assert "refused" in row["meaning"]
    with server_with_metrics() as (_, url):
        counters.url = metrics_url(url)
        counters.ask()
    assert len(counters.rows()) > 10


@pytest.mark.parametrize(
    "answer", [b"", b"hello\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 404 No\r\n\r\n"]
)
def test_an_answer_that_is_none_is_said(answer: bytes) -> None:
    def handle(client: gnet.Socket, address: str) -> None:
        client.recv_until(b"\r\n\r\n", timeout=10_000)
        client.send(answer)

    with gnet.Server(handle, "127.0.0.1") as server:
        counters = ServerCounters(f"http://127.0.0.1:{server.port}/metrics")
        counters.ask()
    (row,) = counters.rows()
    assert row["value"] == "not reachable"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:9100", "http://127.0.0.1:9100/metrics"),
        ("[::1]:9100", "http://[::1]:9100/metrics"),
        ("http://server:9100/", "http://server:9100/metrics"),
        ("https://server:9100/gnet/metrics", "https://server:9100/gnet/metrics"),
    ],
)
def test_the_address_may_be_short(text: str, url: str) -> None:
    assert metrics_url(text) == url


@pytest.mark.parametrize("text", ["", "server", "ftp://server:1", "http://:1", "server:70000", "server:port"])
def test_a_wrong_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        metrics_url(text)


def test_numbers_of_others_are_left_out() -> None:
    text = '# TYPE x gauge\ngnet_active 3.0\npython_info 1.0\ngnet_timeouts_total{kind="idle"} 2.0\n'
    numbers = parse(text)
    assert numbers["active", ""] == 3
    assert numbers["timeouts", "idle"] == 2
    assert parse("python_info 1.0\n") == {}


def test_the_tab_and_its_rows_are_in_the_page() -> None:
    with server_with_metrics() as (_, url), page_of(gnet_metrics=metrics_url(url)) as (environment, client):
        tabs = environment.web_ui.template_args["extended_tabs"]
        assert tabs == [{"title": "gnet server", "key": KEY}]
        assert KEY in client.get("/").get_data(as_text=True)
        with gevent.Timeout(PATIENCE):
            while len(rows_of(client)) < 10:
                gevent.sleep(0.05)


def test_without_the_option_there_is_no_tab() -> None:
    with page_of() as (environment, client):
        assert "extended_tabs" not in environment.web_ui.template_args
        assert "extended_stats" not in client.get("/stats/requests").get_json()


def test_the_page_has_exact_times() -> None:
    with page_of() as (environment, client):
        environment.events.request.fire(
            request_type="LINE", name="ping", response_time=0.1234, response_length=4, exception=None
        )
        row, _ = client.get("/stats/requests").get_json()["stats"]
        assert (row["min_response_time"], row["max_response_time"]) == (0.123, 0.123)
        assert "0.123" in client.get("/stats/requests/csv").get_data(as_text=True)
        assert '"min_response_time": 0.123' in client.get("/stats/report").get_data(as_text=True)
        assert json.loads(client.get("/gnet/figures.json").data)["rows"][0]["min_ms"] == 0.1234


# What a browser shows


def wait_for_page(port: int) -> None:
    with gevent.Timeout(PATIENCE, AssertionError("no web UI")):
        while True:
            with gevent.socket.socket(stdlib_socket.AF_INET) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            gevent.sleep(0.05)


def page_in_browser(program: str, url: str, profile: Path) -> str:
    """Give the document that a browser has made of a page, ten seconds of its own time after the start."""
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=10000", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return str(done.stdout)


def test_a_browser_shows_the_tab_with_the_servers_counters(tmp_path: Path) -> None:
    program = require_program("chromium")
    port = free_port()
    with server_with_metrics() as (server, url):
        where = ("--web-host", "127.0.0.1", "--web-port", port, "--host", f"tcp://127.0.0.1:{server.port}")
        locust = start(tmp_path, "--autostart", "-u", 3, "-r", 3, *where, "--gnet-metrics", url)
        with ending(locust):
            reading = gevent.spawn(finish, locust)
            wait_for_page(port)
            with gevent.Timeout(PATIENCE, AssertionError("no traffic")):
                while not server.stats()["lines_in"]:
                    gevent.sleep(0.05)
            page = page_in_browser(program, f"http://127.0.0.1:{port}/?tab={KEY}", tmp_path / "profile")
            locust.terminate()
            status, output = reading.get(timeout=PATIENCE)
    assert status == 0, output
    text = page[page.index('id="root"') :]
    assert ">gnet server<" in text
    assert ">Connections: now</td>" in text
    row = text[text.index(">Connections: now</td>") :]
    assert ">3</td>" in row[: row.index("</tr>")]
