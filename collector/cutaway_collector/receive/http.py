"""OTLP/HTTP: POST /v1/traces and /v1/logs as protobuf or JSON, and scores as JSON, on one port. Not a web framework.

An ASGI application behind uvicorn's httptools protocol (connection.py), in a thread with an event loop of its own. The credential
is checked before a body is read; bodies are read and inflated under the limits, then handed to `submit` on a bounded pool, because
submit waits for the disk.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Any, Final, cast

import uvicorn
from uvicorn.server import ServerState

from cutaway_collector.contracts import Authenticate, Encoding, Submit, TlsFiles
from cutaway_collector.errors import (
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestError,
    TooSlow,
    UnsupportedMedia,
)
from cutaway_collector.receive.connection import Connection
from cutaway_collector.receive.cors import Cors, Headers
from cutaway_collector.receive.limits import Budget, check_encoding, inflate, too_large
from cutaway_collector.receive.replies import export_response, status_body, status_headers
from cutaway_collector.receive.tls import Renewals, http_context, renew

logger = logging.getLogger(__name__)

PATHS: Final = {"/v1/traces": "", "/v1/logs": "logs/", "/v1/scores": "scores/"}
"""Path -> what its bodies' encodings begin with."""
CONTENT_TYPES: Final = {"application/x-protobuf": "protobuf", "application/json": "json"}
BODY_SECONDS_MAX: Final = 30.0
"""A sender that needs longer for one body is holding a place others could use."""
IDLE_SECONDS_MAX: Final = 75
"""Between two requests of a connection: longer than the intervals exporters send at."""
HANDSHAKE_SECONDS_MAX: Final = 10.0
RENEWAL_SECONDS: Final = 1.0
"""How often the certificate's files are asked whether they have changed."""
STOP_SECONDS_MAX: Final = 5.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


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
        self._in_flight = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="otlp-http")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        bound = self._socket.getsockname()
        self.address: tuple[str, int] = (bound[0], bound[1])
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops accepting, lets requests under way finish, then returns. Idempotent."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=2 * STOP_SECONDS_MAX)
        self._pool.shutdown(wait=True)
        self._socket.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        """As uvicorn.Server does, without signal handlers, which only the main thread may install, and with a short handshake."""
        config = uvicorn.Config(self._application, interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=False,
                                proxy_headers=False, timeout_keep_alive=IDLE_SECONDS_MAX)
        config.load()
        state = ServerState()
        server = await self._loop.create_server(
            lambda: Connection(config=config, server_state=state, app_state={}, connections_max=self._connections_max),
            sock=self._socket, backlog=1024, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_SECONDS_MAX if self._tls else None,
        )
        await self._until_stopping()
        server.close()
        connections = cast("set[Connection]", state.connections)
        for connection in list(connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=STOP_SECONDS_MAX)
        for connection in list(connections):
            connection.transport.abort()

    async def _until_stopping(self) -> None:
        """Waits for `close`, and puts a renewed certificate in place meanwhile."""
        if self._tls is None or self._tls_files is None:
            await self._stopping.wait()
            return
        renewals = Renewals(self._tls_files, "OTLP/HTTP")
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), RENEWAL_SECONDS)
            if renewals.found():
                renew(self._tls, self._tls_files)

    async def _application(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        as_json = _media(headers) == "application/json"
        shared = self._cors.headers(headers.get("origin", ""))
        content_type = b"application/json" if as_json else b"application/x-protobuf"
        try:
            if scope["method"] == "OPTIONS" and shared and scope["path"] in PATHS:
                await _send(send, 204, self._cors.preflight(headers["origin"]), b"")
                return
            encoding = _route(scope["path"], scope["method"], headers)
            tenant = self._tenant(scope, headers)
            check_encoding(headers.get("content-encoding", ""))
            body = await self._answer(headers, receive, encoding, tenant)
            await _send(send, 200, [(b"content-type", content_type), *shared], body)
            return
        except RequestError as error:
            refusal = error.with_traceback(None)  # a frame and its exception hold each other, and with them the body
        except Exception:
            logger.exception("OTLP/HTTP request failed in the collector")
            refusal = Overloaded("the collector failed on this request: send it again; its log has the reason")
        own = [(b"content-type", content_type), *status_headers(refusal), *shared]
        if "100-continue" in headers.get("expect", "").lower():
            own.append((b"connection", b"close"))  # the sender may keep its body to itself now: what follows is anyone's guess
        await _send(send, refusal.http, own, status_body(refusal, as_json=as_json))

    def _tenant(self, scope: Message, headers: Mapping[str, str]) -> str:
        if self._authenticate is None:
            return ""
        peer = scope["client"][0] if scope["client"] else ""
        return self._authenticate(headers.get("authorization", ""), "ingest", peer).tenant

    async def _answer(self, headers: Mapping[str, str], receive: Receive, encoding: Encoding, tenant: str) -> bytes:
        if self._in_flight >= self._concurrency_max:
            raise Overloaded(f"{self._concurrency_max} requests are being taken already: send it again")
        self._in_flight += 1
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                await self._read(headers, receive, parts)
            take = partial(self._take, b"".join(parts), headers.get("content-encoding", ""), encoding, tenant)
            return await self._loop.run_in_executor(self._pool, take)
        except TimeoutError:
            raise TooSlow(f"a body must arrive within {BODY_SECONDS_MAX:.0f} s: send smaller batches") from None
        finally:
            self._budget.give_back(sum(map(len, parts)))
            self._in_flight -= 1

    def _take(self, body: bytes, content_encoding: str, encoding: Encoding, tenant: str) -> bytes:
        receipt = self._submit(inflate(body, content_encoding, self._body_bytes_max), encoding, tenant)
        return export_response(receipt, encoding)

    async def _read(self, headers: Mapping[str, str], receive: Receive, parts: list[bytes]) -> None:
        """Appends the pieces of the body as they come, each within the budget. Raises TooLarge, Overloaded, MalformedRequest."""
        limit = self._body_bytes_max
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise too_large(limit, "on the wire")
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise MalformedRequest("the sender went away before the body was complete")
            part = message.get("body", b"")
            if size + len(part) > limit:
                raise too_large(limit, "on the wire")
            self._budget.take(len(part), size)
            parts.append(part)
            size += len(part)
            if not message.get("more_body", False):
                return


def _headers(scope: Message) -> dict[str, str]:
    """Names in lower case; a header sent twice is one list, so that neither of two answers counts alone."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


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


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    own = [*headers, (b"date", formatdate(usegmt=True).encode())]
    if status != 204:
        own.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body})
