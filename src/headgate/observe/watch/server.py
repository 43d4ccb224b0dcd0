"""Serve a run's progress to the browser of this machine, and to nobody else."""

from __future__ import annotations

import json
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self

from headgate.errors import ArtifactError
from headgate.observe.watch.progress import Progress

_LOOPBACK = "127.0.0.1"
_TOKEN_BYTES = 16
_TIMEOUT_S = 10
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


class WatchServer:
    """A server on the loopback interface, at an address that can't be guessed.

    Other machines can't reach it; other pages in the same browser don't know the token in its path, and a name that
    an attacker points at 127.0.0.1 is turned away by the Host header.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "metrics.jsonl").write_text("")
        ...     with WatchServer(Path(folder), port=0) as server:
        ...         server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, run: Path, *, port: int, page: bytes | None = None) -> None:
        """Listen, and read the run for the first time.

        Args:
            run: the folder of a training run, or its metrics file.
            port: where to listen; 0 = any free one.
            page: what to show; None = the page that ships with the package.

        Raises:
            ArtifactError: there is no run, or the port is taken.
        """
        self._progress = Progress(run)
        self._page = _template() if page is None else page
        self._lock = threading.Lock()
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        try:
            self._server = ThreadingHTTPServer((_LOOPBACK, port), self._make_handler(token))
        except OSError as error:
            raise ArtifactError(
                f"can't listen on port {port}: {error.strerror}; leave out --port for a free one"
            ) from error
        self.port: int = self._server.server_address[1]
        self.url = f"http://{_LOOPBACK}:{self.port}/{token}/"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.server_close()

    def serve_until_interrupted(self) -> None:
        """Answer requests until Ctrl-C, or until `stop` is called from another thread."""
        try:
            self._server.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            return

    def stop(self) -> None:
        """End `serve_until_interrupted`."""
        self._server.shutdown()

    def _state(self) -> bytes:
        # One request reads at a time: threads share the place in the file.
        with self._lock:
            self._progress.read()
            return json.dumps(self._progress.state()).encode()

    def _answer(self, path: str) -> tuple[str, bytes] | None:
        if path == "":
            return "text/html; charset=utf-8", self._page
        if path == "state":
            return "application/json", self._state()
        return None

    def _make_handler(self, token: str) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:  # The standard library's name.
                hosts = {f"{name}:{server.port}" for name in (_LOOPBACK, "localhost")}
                if self.headers.get("Host") not in hosts:
                    self._send(HTTPStatus.FORBIDDEN, "text/plain", b"not by this name")
                    return
                prefix = f"/{token}/"
                # In constant time, so that the token can't be found out letter by letter.
                is_known = secrets.compare_digest(self.path[: len(prefix)].encode(), prefix.encode())
                found = server._answer(self.path[len(prefix) :]) if is_known else None
                if found is None:
                    self._send(HTTPStatus.NOT_FOUND, "text/plain", b"nothing here")
                else:
                    self._send(HTTPStatus.OK, *found)

            def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
                self.send_response(status)
                for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: a page that asks each second would fill the terminal."""

        return Handler


def _template() -> bytes:
    return resources.files("headgate.observe.page").joinpath("watch.html").read_bytes()
