"""Metrics as Prometheus gets them: over HTTP, with Prometheus's own parser."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

import gevent
import pytest
from gevent import socket, subprocess
from prometheus_client.parser import text_string_to_metric_families

import gnet
from gnet.serving.metrics import start_metrics_server
from gnet.serving.statistics import COUNTERS, GAUGES, LABELS, sum_stats
from tests.server.peers import (
    answer_lines,
    ask,
    connect,
    ending,
    logged,
    receive_all,
    serving,
    wait_until,
)

# In a process of its own, as it waits in the system's calls: asks, and prints status, headers and body.
_CLIENT: Final = """
import json, sys, urllib.error, urllib.request
url, method, headers = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
try:
    answer = urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=10)
except urllib.error.HTTPError as error:
    answer = error
body = answer.read()
if answer.headers.get("Content-Encoding") == "gzip":
    import gzip
    body = gzip.decompress(body)
print(json.dumps([answer.status, dict(answer.headers), body.decode()]))
"""


def http(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    command = [sys.executable, "-I", "-c", _CLIENT, url, method, json.dumps(headers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    status, fields, body = json.loads(done.stdout)
    return status, fields, body


def samples(text: str) -> dict[tuple[str, str], float]:
    """Give each sample by its name and its label's value."""
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.fixture
def url() -> Any:
    """Serve the stats of a fresh server, and give where."""
    metrics = start_metrics_server(gnet.Server(answer_lines).stats, 0)
    yield f"http://127.0.0.1:{metrics.port}/metrics"
    metrics.close()


def test_a_scrape_gives_what_stats_gives() -> None:
    with serving(answer_lines, pool_size=7) as server:
        metrics = start_metrics_server(server.stats, 0)
        with connect(server) as client:
            ask(client)
            status, headers, text = http(f"http://127.0.0.1:{metrics.port}/metrics")
        metrics.stop()
    found = samples(text)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert found["gnet_accepted_total", ""] == 1
    assert found["gnet_bytes_in_total", ""] == 5
    assert found["gnet_timeouts_total", "idle"] == 0
    assert found["gnet_active", ""] == 1
    assert found["gnet_pool_size", ""] == 7
    assert found["gnet_draining", ""] == 0


def test_each_key_is_a_metric_of_its_kind_with_its_text() -> None:
    stats: dict[str, Any] = dict.fromkeys([*COUNTERS, *GAUGES], 3)
    stats |= {key: {"some reason": 4} for key in LABELS}
    metrics = start_metrics_server(lambda: stats, 0)
    text = http(f"http://127.0.0.1:{metrics.port}/metrics")[2]
    metrics.close()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(found) == {f"gnet_{key}" for key in stats}
    for key, documentation in COUNTERS.items():
        assert (found[f"gnet_{key}"].type, found[f"gnet_{key}"].documentation) == ("counter", documentation)
    for key, documentation in GAUGES.items():
        assert (found[f"gnet_{key}"].type, found[f"gnet_{key}"].documentation) == ("gauge", documentation)
    for key, label in LABELS.items():
        assert found[f"gnet_{key}"].samples[0].labels == {label: "some reason"}


def test_what_the_system_does_not_tell_is_left_out() -> None:
    stats = gnet.Server(answer_lines).stats() | {"accept_queue": None, "accept_queue_limit": 5}
    metrics = start_metrics_server(lambda: stats, 0)
    found = samples(http(f"http://127.0.0.1:{metrics.port}/metrics")[2])
    metrics.close()
    assert ("gnet_accept_queue", "") not in found
    assert found["gnet_accept_queue_limit", ""] == 5


def test_the_sum_of_workers_is_served_and_collecting_it_may_wait() -> None:
    one = gnet.Server(answer_lines).stats()

    def collect() -> Any:
        gevent.sleep(0.01)  # as for a supervisor that asks its workers
        return sum_stats([one | {"accepted": 1}, one | {"accepted": 2}])

    metrics = start_metrics_server(collect, 0)
    found = samples(http(f"http://127.0.0.1:{metrics.port}/metrics")[2])
    metrics.close()
    assert found["gnet_accepted_total", ""] == 3


def test_a_reason_with_any_signs_survives() -> None:
    reason = 'say "no"\\\nthen é'
    stats = gnet.Server(answer_lines).stats() | {"handshake_failures": {reason: 1}}
    metrics = start_metrics_server(lambda: stats, 0)
    found = samples(http(f"http://127.0.0.1:{metrics.port}/metrics")[2])
    metrics.close()
    assert found["gnet_handshake_failures_total", reason] == 1


def test_open_metrics_and_compression_are_given_to_who_asks(url: str) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    status, headers, text = http(url, Accept=accept, **{"Accept-Encoding": "gzip"})
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert headers["Content-Encoding"] == "gzip"
    assert text.endswith("# EOF\n")


def test_a_query_chooses_metrics(url: str) -> None:
    assert set(samples(http(url + "?name[]=gnet_active")[2])) == {("gnet_active", "")}


def test_head_gives_the_headers_alone(url: str) -> None:
    status, headers, body = http(url, "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 0


def test_other_paths_and_methods_are_refused(url: str) -> None:
    assert http(url.removesuffix("metrics"))[0] == 404
    assert http(url, "POST")[0] == 405


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    metrics = start_metrics_server(dict, 0)
    assert metrics.address == "127.0.0.1"
    metrics.close()


def test_workers_can_share_its_listener() -> None:
    with socket.socket() as shared:
        shared.bind(("127.0.0.1", 0))
        shared.listen()
        port = shared.getsockname()[1]
        workers = [start_metrics_server(dict, listener=[os.dup(shared.fileno())]) for _ in range(2)]
        workers[0].close()
        assert http(f"http://127.0.0.1:{port}/metrics")[0] == 200
        workers[1].close()


def test_a_collection_that_fails_is_an_error_for_this_request_only() -> None:
    answers: list[Any] = [ValueError("a worker is gone"), {"accepted": 5}]

    def collect() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    metrics = start_metrics_server(collect, 0)
    where = f"http://127.0.0.1:{metrics.port}/metrics"
    with logged() as log:
        assert http(where)[0] == 500
        assert http(where)[0] == 200
    metrics.close()
    assert len([line for line in log.lines() if "could not collect" in line]) == 1


def test_a_scrape_is_not_logged(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    with logged() as log:
        http(url)
        http(url.removesuffix("metrics"))
    assert not log.lines()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\r\n\r\n", b"GET /metrics\r\n\r\n", b"GET  /metrics  HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_request_is_refused(sent: bytes) -> None:
    metrics = start_metrics_server(dict, 0)
    with logged() as log, connect(metrics) as client:
        client.sendall(sent)
        assert receive_all(client).startswith(b"HTTP/1.1 400 ")
    metrics.close()
    assert not log.lines()


def test_a_request_without_an_end_is_cut_and_others_are_served() -> None:
    metrics = start_metrics_server(dict, 0)
    with logged(), connect(metrics) as endless, connect(metrics):
        endless.sendall(b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 3000)
        assert ending(endless) in ("end", "reset")
        assert http(f"http://127.0.0.1:{metrics.port}/metrics")[0] == 200
    metrics.close()


def test_connections_that_say_nothing_are_quiet() -> None:
    metrics = start_metrics_server(dict, 0)
    with logged() as log:
        connect(metrics).close()
        wait_until(lambda: metrics.stats()["accepted"] == 1, "it was accepted")
        wait_until(lambda: metrics.stats()["active"] == 0, "it is gone")
    metrics.close()
    assert not log.lines()


def test_a_missing_package_is_named_with_its_extra() -> None:
    program = (
        "import sys\nsys.modules['prometheus_client'] = None\n"
        "try:\n    import gnet.serving.metrics\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert "prometheus-client" in done.stdout
    assert "gnet-gevent[metrics]" in done.stdout


def test_the_server_alone_does_not_import_prometheus() -> None:
    program = "import sys, gnet, gnet.server; sys.exit('prometheus_client' in sys.modules)"
    env = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], env=env, timeout=50).returncode == 0
