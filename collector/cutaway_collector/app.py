"""The wiring: which store, which scorers, which receivers, started and stopped in order, once. Decides; does nothing itself.

Start: store, kernels warm, spool replayed, UI, receivers last. Stop: receivers first, then what is queued is stored, then the rest.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from waitress import create_server
from waitress.server import BaseWSGIServer, MultiSocketServer

from cutaway_collector import decode, score
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.receive import GrpcReceiver, HttpReceiver
from cutaway_collector.settings import Settings, split_address
from cutaway_collector.spool import Spool
from cutaway_collector.store import open_store
from cutaway_collector.web import create_app

logger = logging.getLogger(__name__)

UI_CONNECTIONS_MAX: Final = 1000
"""Idle browsers and half-open connections must not keep a liveness probe out; each costs a few kilobytes."""
UI_IDLE_SECONDS_MAX: Final = 15
"""How long a connection may say nothing before it is closed."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running collector answers, as host:port."""

    otlp_grpc: str
    otlp_http: str
    ui: str


class Collector:
    """A running collector. Making one starts everything; when it is made, everything answers.

    Raises SettingsError, StoreError, OSError (a port is taken).
    """

    def __init__(self, settings: Settings) -> None:
        self._stack = ExitStack()
        try:
            self.addresses = self._start(settings)
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Refuses new spans, stores what is queued within drain_seconds_max, then lets go of everything. Idempotent."""
        self._stack.close()

    def _start(self, settings: Settings) -> Addresses:
        store = open_store(settings)
        self._stack.callback(store.close)
        decode.warm_up()
        score.warm_up()
        spool = Spool.of(settings)
        self._stack.callback(spool.close)
        pipeline = Pipeline(store, spool, settings, scorers=score.scorers(settings.score_device))
        self._stack.callback(pipeline.close, settings.drain_seconds_max)
        web = _serve_web(create_app(store, settings, registry=pipeline.registry, status=pipeline.status), settings, self._stack)
        host, port = split_address("otlp_http", settings.otlp_http)
        http = HttpReceiver(pipeline.submit, host, port, body_bytes_max=settings.request_bytes_max,
                            concurrency_max=settings.http_concurrency_max, threads=settings.receiver_threads,
                            connections_max=settings.receiver_connections_max, receive_bytes_max=settings.receive_bytes_max,
                            cors_origins=settings.cors_origins)
        self._stack.callback(http.close)
        host, port = split_address("otlp_grpc", settings.otlp_grpc)
        grpc = GrpcReceiver(pipeline.submit, host, port, body_bytes_max=settings.request_bytes_max,
                            threads=settings.receiver_threads, connections_max=settings.receiver_connections_max)
        self._stack.callback(grpc.close)
        return Addresses(_shown(grpc.address), _shown(http.address), web)


def _serve_web(app: object, settings: Settings, stack: ExitStack) -> str:
    host, port = split_address("ui", settings.ui)
    try:
        server: BaseWSGIServer | MultiSocketServer = create_server(
            app, host=host, port=port, threads=settings.ui_threads, ident=None, connection_limit=UI_CONNECTIONS_MAX,
            channel_timeout=UI_IDLE_SECONDS_MAX, cleanup_interval=5, max_request_header_size=32 * 1024,
            max_request_body_size=1024 * 1024, clear_untrusted_proxy_headers=True,
        )
    except (OSError, ValueError) as error:
        raise OSError(f"the UI cannot listen on {settings.ui}: {error}") from None
    stopping = threading.Event()

    def serve() -> None:
        try:
            server.run()
        except OSError:
            if not stopping.is_set():
                logger.exception("the UI stopped serving")

    thread = threading.Thread(target=serve, name="ui", daemon=True)
    thread.start()

    def stop() -> None:
        stopping.set()
        server.close()
        thread.join(timeout=5)

    stack.callback(stop)
    return _shown((host, server.effective_port))


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
