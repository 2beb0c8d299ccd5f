"""OTLP/HTTP: POST /v1/traces and /v1/logs as protobuf or JSON, and scores as JSON, on one port. Not a web framework.

A thread accepts, and each connection has one of its own (connection.py): the same thread reads a body, submits it, waits for the
disk and answers, so that nothing is handed over. The credential is checked before a body is read; bodies are read and inflated
under the limits, and no more than `threads` of them are submitted at once.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, cast

from cutaway_collector.contracts import Authenticate, Encoding, Submit, TlsFiles
from cutaway_collector.errors import MethodNotAllowed, NotFound, Overloaded, RequestError, SettingsError, UnsupportedMedia
from cutaway_collector.receive.connection import Connection, Gone, Reply, last_words
from cutaway_collector.receive.cors import Cors
from cutaway_collector.receive.limits import Budget, Share, check_encoding, inflate
from cutaway_collector.receive.replies import export_response, status_body, status_headers
from cutaway_collector.receive.tls import Renewals, http_context

logger = logging.getLogger(__name__)

PATHS: Final = {"/v1/traces": "", "/v1/logs": "logs/", "/v1/scores": "scores/"}
"""Path -> what its bodies' encodings begin with."""
CONTENT_TYPES: Final = {"application/x-protobuf": "protobuf", "application/json": "json"}
RENEWAL_SECONDS: Final = 1.0
"""How often the certificate's files are asked whether they have changed."""
STOP_SECONDS_MAX: Final = 5.0
_FULL_SECONDS: Final = 0.1
"""Before the next try to accept when there are no files left to open."""


class HttpReceiver:
    """Listens as soon as it is made; `address` is the bound (host, port). Raises OSError when the port is taken, SettingsError.

    body_bytes_max: one body, before and after inflation; receive_bytes_max: all bodies on their way in; concurrency_max: requests
    at once; connections_max: open connections; cors_origins: see `Cors`; authenticate: None lets everybody in as tenant "".
    """

    def __init__(
        self, submit: Submit, host: str, port: int, *, body_bytes_max: int, concurrency_max: int, threads: int,
        authenticate: Authenticate | None = None, tls: TlsFiles | None = None, connections_max: int = 512,
        receive_bytes_max: int = 256 * 1024 * 1024, cors_origins: str = "",
    ) -> None:
        self._submit = submit
        self._authenticate = authenticate
        self._body_bytes_max = body_bytes_max
        self._concurrency_max = concurrency_max
        self._connections_max = connections_max
        self._budget = Budget(receive_bytes_max)
        self._cors = Cors(cors_origins, authenticated=authenticate is not None)
        self._tls_files = tls
        self._tls = None if tls is None else http_context(tls)
        self._slots = threading.Semaphore(threads)
        self._lock = threading.Lock()
        self._in_flight = 0
        self._connections: dict[Connection, threading.Thread] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        bound = self._socket.getsockname()
        self.address: tuple[str, int] = (bound[0], bound[1])
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="otlp-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops accepting, lets requests under way finish, then returns. Idempotent."""
        self._stopping.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._socket.close()
        with self._lock:
            served = list(self._connections.items())
        for connection, _ in served:
            connection.stop()
        _join(thread for _, thread in served)
        for connection, thread in served:
            if thread.is_alive():
                connection.abort()
        _join(thread for _, thread in served)

    # --- connections ------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        """Until `close`: lets connections in, and puts a renewed certificate in place meanwhile."""
        self._socket.settimeout(RENEWAL_SECONDS)
        renewals = Renewals(self._tls_files, "OTLP/HTTP") if self._tls_files is not None else None
        while not self._stopping.is_set():
            if renewals is not None and self._tls_files is not None and renewals.found():
                with suppress(SettingsError):  # what changes meanwhile is found again
                    self._tls = http_context(self._tls_files)  # a new one: handshakes under way go on with the one before
            try:
                accepted, peer = self._socket.accept()
            except TimeoutError:
                continue
            except OSError:
                self._stopping.wait(_FULL_SECONDS)
                continue
            try:
                self._serve(accepted, peer[0])
            except (OSError, RuntimeError):  # it has gone already, or there is no thread to be had
                accepted.close()

    def _serve(self, accepted: socket.socket, peer: str) -> None:
        connection = Connection(accepted, peer, self._tls)
        with self._lock:
            if len(self._connections) < self._connections_max:
                thread = threading.Thread(target=self._run, args=(connection,), name="otlp-http-connection", daemon=True)
                thread.start()  # it wants the lock at its end only
                self._connections[connection] = thread
                return
        if self._tls is None:
            accepted.send(last_words(Overloaded(f"{self._connections_max} connections are open, receiver_connections_max allows no "
                                                "more: come back later, or close idle ones")))
        accepted.close()  # without the courtesy of reading on: it would let too many stay

    def _run(self, connection: Connection) -> None:
        try:
            connection.run(self._reply)
        finally:
            with self._lock:
                del self._connections[connection]

    # --- requests ---------------------------------------------------------------------------------------------------------

    def _reply(self, request: Connection) -> Reply:
        headers = request.headers
        as_json = _media(headers) == "application/json"
        shared = self._cors.headers(headers.get("origin", ""))
        content_type = b"application/json" if as_json else b"application/x-protobuf"
        try:
            if request.method == "OPTIONS" and shared and request.path in PATHS:
                return Reply(204, self._cors.preflight(headers["origin"]))
            encoding = _route(request.path, request.method, headers)
            tenant = self._tenant(request)
            check_encoding(headers.get("content-encoding", ""))
            return Reply(200, [(b"content-type", content_type), *shared], self._take(request, encoding, tenant))
        except Gone:
            raise
        except RequestError as error:
            refusal = error.with_traceback(None)  # a frame and its exception hold each other, and with them the body
        except Exception:
            logger.exception("OTLP/HTTP request failed in the collector")
            refusal = Overloaded("the collector failed on this request: send it again; its log has the reason")
        own = [(b"content-type", content_type), *status_headers(refusal), *shared]
        # A sender that asked first may keep its body to itself now: what follows is anyone's guess.
        return Reply(refusal.http, own, status_body(refusal, as_json=as_json), last=request.asks_first)

    def _tenant(self, request: Connection) -> str:
        if self._authenticate is None:
            return ""
        return self._authenticate(request.headers.get("authorization", ""), "ingest", request.peer).tenant

    def _take(self, request: Connection, encoding: Encoding, tenant: str) -> bytes:
        """Reads and submits the body; what it is answered."""
        with self._lock:
            if self._in_flight >= self._concurrency_max:
                raise Overloaded(f"{self._concurrency_max} requests are being taken already: send it again")
            self._in_flight += 1
        share = Share(self._budget)
        try:
            body = request.body(self._body_bytes_max, share)
            with self._slots:
                inflated = inflate(body, request.headers.get("content-encoding", ""), self._body_bytes_max)
                return export_response(self._submit(inflated, encoding, tenant), encoding)
        finally:
            share.give_back()
            with self._lock:
                self._in_flight -= 1


def _join(threads: Iterable[threading.Thread]) -> None:
    """Waits for all of them, STOP_SECONDS_MAX together."""
    deadline_s = time.monotonic() + STOP_SECONDS_MAX
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))


def _media(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").split(";")[0].strip().lower()


def _route(path: str, method: str, headers: Mapping[str, str]) -> Encoding:
    if path not in PATHS:
        raise NotFound("OTLP/HTTP takes traces at /v1/traces and evaluation results at /v1/logs, and scores are taken at "
                       "/v1/scores; nothing else: check the endpoint of the exporter")
    if method != "POST":
        raise MethodNotAllowed(f"{path} takes POST")
    if _media(headers) not in CONTENT_TYPES:
        raise UnsupportedMedia("Content-Type is application/x-protobuf or application/json: set one of them")
    if path == "/v1/scores" and _media(headers) != "application/json":
        raise UnsupportedMedia("scores are JSON: set Content-Type to application/json")
    return cast("Encoding", PATHS[path] + CONTENT_TYPES[_media(headers)])
