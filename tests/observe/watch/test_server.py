"""The server, asked over a real socket."""

import http.client
import json
import socket
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from headgate.errors import ArtifactError
from headgate.observe.watch.server import WatchServer

LINE = '{"step": 1, "loss": 2.5, "num_tokens": 4, "duration_s": 1, "expert_counts": [[1, 3]]}\n'


@pytest.fixture
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(LINE)
    return tmp_path


@contextmanager
def serving(run):
    with WatchServer(run, port=0, page=b"<!doctype html>") as server:
        thread = threading.Thread(target=server.serve_until_interrupted)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


def get(server, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.putrequest("GET", path, skip_host="host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    return response.status, response.read(), response


def test_the_page_and_its_data(run):
    with serving(run) as server:
        path = urlsplit(server.url).path
        status, body, response = get(server, path)
        assert (status, body, response.headers["Content-Type"]) == (200, b"<!doctype html>", "text/html; charset=utf-8")
        assert response.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert json.loads(get(server, f"{path}state")[1])["loss"] == 2.5
        with (run / "metrics.jsonl").open("a") as file:
            file.write(LINE.replace("2.5", "1.5").replace('"step": 1', '"step": 2'))
        assert json.loads(get(server, f"{path}state")[1])["points"] == [[1, 2.5, 1.5], [2, 1.5, 1.5]]


def test_without_the_token_there_is_nothing(run):
    with serving(run) as server:
        token = urlsplit(server.url).path.strip("/")
        for path in (
            "/",
            "/state",
            "//",
            f"/{token[:-1]}x/",
            f"/{token}",
            f"/{token}/../state",
            f"/{token}/x",
            "/%E9/",
        ):
            assert get(server, path)[:2] == (404, b"nothing here"), path


def test_another_name_for_this_machine_is_turned_away(run):
    with serving(run) as server:
        path = urlsplit(server.url).path
        assert get(server, path, host=f"localhost:{server.port}")[0] == 200
        for host in (
            "evil.example",
            f"evil.example:{server.port}",
            "127.0.0.1",
            f"127.0.0.1.evil.example:{server.port}",
        ):
            assert get(server, path, host=host)[0] == 403, host


def test_only_this_machine_can_ask(run):
    with WatchServer(run, port=0, page=b"") as server:
        assert server._server.server_address[0] == "127.0.0.1"


def test_two_servers_have_two_tokens(run):
    with WatchServer(run, port=0, page=b"") as first, WatchServer(run, port=0, page=b"") as second:
        assert urlsplit(first.url).path != urlsplit(second.url).path
        assert len(urlsplit(first.url).path) > 20


def test_a_port_that_is_taken(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ArtifactError, match=rf"can't listen on port {port}: .*; leave out --port for a free"):
            WatchServer(run, port=port, page=b"")


def test_no_run(tmp_path):
    with pytest.raises(ArtifactError, match="holds no metrics"):
        WatchServer(tmp_path, port=0, page=b"")


def test_many_at_once(run):
    with serving(run) as server:
        path = urlsplit(server.url).path
        found = []
        threads = [threading.Thread(target=lambda: found.append(get(server, f"{path}state")[0])) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [200] * 20
