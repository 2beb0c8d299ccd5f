"""OTLP/HTTP: POST /v1/traces as protobuf or JSON, identity or gzip, on one port. Not a web framework: three paths, one method.

An ASGI application on uvicorn (httptools), in a thread with an event loop of its own. Bodies are read and inflated under the
limits, then handed to `submit` on a bounded pool, because submit waits for the disk.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import uvicorn

from cutaway_collector.contracts import Encoding, Submit
from cutaway_collector.errors import (
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestError,
    UnsupportedMedia,
)
from cutaway_collector.receive.limits import inflate, too_large
from cutaway_collector.receive.replies import export_response, status_body

logger = logging.getLogger(__name__)

CONTENT_TYPES: Final[dict[str, Encoding]] = {"application/x-protobuf": "protobuf", "application/json": "json"}
TYPE_OF: Final = {encoding: name for name, encoding in CONTENT_TYPES.items()}
BODY_SECONDS_MAX: Final = 30.0
"""A sender that needs longer for one body is holding a place others could use."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class HttpReceiver:
    """Listens as soon as it is made; `address` is the bound (host, port). Raises OSError when the port is taken."""

    def __init__(self, submit: Submit, host: str, port: int, *, body_bytes_max: int, concurrency_max: int, threads: int) -> None:
        self._submit = submit
        self._body_bytes_max = body_bytes_max
        self._concurrency_max = concurrency_max
        self._in_flight = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="otlp-http")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        bound = self._socket.getsockname()
        self.address: tuple[str, int] = (bound[0], bound[1])
        config = uvicorn.Config(
            self._application, interface="asgi3", http="httptools", ws="none", loop="asyncio", lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=75, timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="otlp-http", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # serve() would install signal handlers, which only the main thread may: run its inner coroutine instead.
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def close(self) -> None:
        """Stops accepting, lets requests under way finish, then returns."""
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._pool.shutdown(wait=True)
        self._socket.close()

    async def _application(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        media = headers.get("content-type", "").split(";")[0].strip().lower()
        encoding: Encoding = CONTENT_TYPES.get(media, "protobuf")
        try:
            _check_route(scope["path"], scope["method"])
            if media not in CONTENT_TYPES:
                raise UnsupportedMedia("Content-Type is application/x-protobuf or application/json: set one of them")
            body = await self._answer(headers, receive, encoding)
            await _send(send, 200, encoding, body)
        except RequestError as error:
            await _send(send, error.http, encoding, status_body(error, encoding), retry_after_s=error.retry_after_s)
        except Exception:
            logger.exception("OTLP/HTTP request failed in the collector")
            failure = Overloaded("the collector failed on this request: send it again; its log has the reason")
            await _send(send, failure.http, encoding, status_body(failure, encoding), retry_after_s=failure.retry_after_s)

    async def _answer(self, headers: dict[str, str], receive: Receive, encoding: Encoding) -> bytes:
        if self._in_flight >= self._concurrency_max:
            raise Overloaded(f"{self._concurrency_max} requests are being taken already: send it again")
        self._in_flight += 1
        try:
            body = await asyncio.wait_for(self._body(headers, receive), BODY_SECONDS_MAX)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._take, body, headers.get("content-encoding", ""), encoding)
        except TimeoutError:
            raise MalformedRequest(f"a body must arrive within {BODY_SECONDS_MAX:.0f} s: send smaller batches") from None
        finally:
            self._in_flight -= 1

    def _take(self, body: bytes, content_encoding: str, encoding: Encoding) -> bytes:
        receipt = self._submit(inflate(body, content_encoding, self._body_bytes_max), encoding)
        return export_response(receipt, encoding)

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        limit = self._body_bytes_max
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise too_large(limit, "on the wire")
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise MalformedRequest("the sender went away before the body was complete")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise too_large(limit, "on the wire")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def _check_route(path: str, method: str) -> None:
    if path in ("/v1/metrics", "/v1/logs"):
        raise NotFound(f"this collector stores traces; {path} is not implemented: send spans to /v1/traces")
    if path != "/v1/traces":
        raise NotFound("OTLP/HTTP traces are taken at /v1/traces: check the endpoint of the exporter")
    if method != "POST":
        raise MethodNotAllowed("/v1/traces takes POST")


async def _send(send: Send, status: int, encoding: Encoding, body: bytes, *, retry_after_s: int | None = None) -> None:
    headers = [(b"content-type", TYPE_OF[encoding].encode()), (b"content-length", str(len(body)).encode())]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    if status == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
