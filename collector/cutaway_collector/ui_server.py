"""The server in front of the UI: waitress, with TLS when there is a certificate.

Not the pages. Waitress reads every connection in one loop and gives only whole requests to its threads, so a client that is slow or
silent, also in the middle of a TLS handshake, costs a socket and no thread; limits on heads, bodies, connections and silence are
its own. It has no TLS, which is added here at the one place where it touches a socket.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from contextlib import ExitStack
from typing import Any, Final

from waitress import create_server
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, MultiSocketServer

from cutaway_collector.contracts import TlsFiles
from cutaway_collector.errors import SettingsError

logger = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 1000
"""Idle browsers and half-open connections must not keep a liveness probe out; each costs a few kilobytes, with TLS some tens."""
IDLE_SECONDS_MAX: Final = 15
"""How long a connection may say nothing before it is closed."""
HEAD_BYTES_MAX: Final = 32 * 1024
BODY_BYTES_MAX: Final = 1024 * 1024
_RECORD_BYTES_MAX: Final = 16 * 1024
"""Largest piece TLS hands over at once. Reading whole ones leaves nothing behind that select cannot see."""


class Certificate:
    """The certificate of a listener, read again when its files have changed. Raises SettingsError when it cannot be used."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._looked = time.monotonic()
        self._seen = self._signature()
        self._context = self._load()

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection: TLS 1.2 or newer."""
        if time.monotonic() - self._looked >= 1:
            self._looked = time.monotonic()
            seen = self._signature()
            if seen != self._seen:
                self._seen = seen
                try:
                    self._context = self._load()
                    logger.info("the UI shows the certificate that was put in place")
                except SettingsError as error:
                    logger.error("%s: the one before stays in use", error)
        return self._context

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(self._files.certificate, self._files.key, password=_no_password)
        except (OSError, ValueError) as error:
            trouble = getattr(error, "reason", None) or error
            files = f"tls_certificate {self._files.certificate} and tls_key {self._files.key}"
            raise SettingsError(f"{files} cannot be used ({trouble}): both are PEM files, and the key has no passphrase") from None
        return context

    def _signature(self) -> tuple[int, ...]:
        try:
            return tuple(os.stat(path).st_mtime_ns for path in (self._files.certificate, self._files.key))
        except OSError:
            return ()


def _no_password() -> str:
    raise ValueError("it has a passphrase")


class _TlsChannel(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection of waitress whose bytes go through TLS. The handshake is part of the first reads, and never blocks."""

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        self._tls_lock = threading.Lock()  # the loop reads while a thread may write; OpenSSL allows one at a time
        try:
            wrapped = server.certificate.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:  # gone already
            sock.close()
            return
        super().__init__(server, wrapped, addr, adj, map=map)

    def recv(self, buffer_size: int) -> bytes:
        """Whole records. "Nothing yet" is told apart from "the end": the loop's caller is made to wait."""
        try:
            with self._tls_lock:
                data: bytes = self.socket.recv(max(buffer_size, _RECORD_BYTES_MAX))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLError:  # not TLS, or a client that does not trust us: its business, not worth our log
            data = b""
        if not data:
            self.handle_close()
        return data

    def handle_read(self) -> None:
        """As waitress's, which does not expect a readable socket to have nothing for it."""
        try:
            data = self.recv(self.adj.recv_bytes)
        except BlockingIOError:
            return
        except OSError:
            self.handle_close()
            return
        if data:
            self.last_activity = time.time()
            self.received(data)
        else:
            self.connected = False

    def send(self, data: bytes, do_close: bool = True) -> int:
        """As many bytes as TLS takes now."""
        try:
            with self._tls_lock:
                return int(self.socket.send(data))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError:
            if do_close:
                self.handle_close()
            return 0


def serve(
    app: object, host: str, port: int, *, threads: int, certificate: Certificate | None, stack: ExitStack
) -> tuple[str, int]:
    """Serves in a thread until the stack unwinds; returns the bound (host, port). Raises OSError."""
    try:
        server: BaseWSGIServer | MultiSocketServer = create_server(
            app, host=host, port=port, threads=threads, ident=None, connection_limit=CONNECTIONS_MAX,
            channel_timeout=IDLE_SECONDS_MAX, cleanup_interval=5, max_request_header_size=HEAD_BYTES_MAX,
            max_request_body_size=BODY_BYTES_MAX, clear_untrusted_proxy_headers=True, url_scheme="https" if certificate else "http",
            channel_request_lookahead=1,  # a stream learns that its reader has gone
            asyncore_use_poll=True,  # select() knows no descriptor above 1023, and the receivers' connections count too
        )
    except (OSError, ValueError) as error:
        raise OSError(f"the UI cannot listen on {host}:{port}: {error}") from None
    if certificate:
        listeners = [part for part in server.map.values() if isinstance(part, BaseWSGIServer)] \
            if isinstance(server, MultiSocketServer) else [server]
        for listener in listeners:
            listener.certificate = certificate
            listener.channel_class = _TlsChannel
    stopping = threading.Event()

    def run() -> None:
        try:
            server.run()
        except OSError:
            if not stopping.is_set():
                logger.exception("the UI stopped serving")

    thread = threading.Thread(target=run, name="ui", daemon=True)
    thread.start()

    def stop() -> None:
        stopping.set()
        server.close()
        thread.join(timeout=5)

    stack.callback(stop)
    port = server.effective_listen[0][1] if isinstance(server, MultiSocketServer) else server.effective_port
    return host, int(port)
