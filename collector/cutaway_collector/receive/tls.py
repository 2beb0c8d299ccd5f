"""TLS of the two listeners out of PEM files: 1.2 or newer, client certificates where a CA for them is named. Opens no sockets.

The files are read again when they have changed. A connection keeps what it began with.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from typing import Final

import grpc

from cutaway_collector.contracts import TlsFiles
from cutaway_collector.errors import SettingsError

_LOG: Final = logging.getLogger(__name__)


class Renewals:
    """Tells when the files have changed and can be used. Not thread-safe: each listener has its own."""

    def __init__(self, files: TlsFiles, listener: str) -> None:
        self._files = files
        self._listener = listener
        self._seen = self._signature()

    def found(self) -> bool:
        """Whether there is something new since the last time. What cannot be used is logged once, and the files before stay."""
        seen = self._signature()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            http_context(self._files)
        except SettingsError as error:
            _LOG.error("%s: %s goes on with the one before", error, self._listener)
            return False
        _LOG.info("%s shows the certificate that was put in place", self._listener)
        return True

    def _signature(self) -> tuple[tuple[int, int, int], ...]:
        names = [self._files.certificate, self._files.key, *([self._files.client_ca] if self._files.client_ca else [])]
        try:
            return tuple((found.st_mtime_ns, found.st_size, found.st_ino) for found in map(os.stat, names))
        except OSError:
            return ()


def http_context(files: TlsFiles) -> ssl.SSLContext:
    """Context of OTLP/HTTP. Raises SettingsError when the files cannot be read or do not belong together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise _unusable(files, error) from None
    return context


def grpc_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of OTLP/gRPC (gRPC takes nothing below TLS 1.2), asked for at each connection. Raises as `http_context` does."""
    http_context(files)  # gRPC would say nothing about a wrong file and fail every handshake
    renewals = Renewals(files, "OTLP/gRPC")

    def fetch() -> grpc.ServerCertificateConfiguration | None:  # None keeps the one in use
        try:
            return _grpc_configuration(files) if renewals.found() else None
        except SettingsError:
            return None  # gone again meanwhile: the next change is looked at

    return grpc.dynamic_ssl_server_credentials(_grpc_configuration(files), fetch,  # type: ignore[arg-type]  # may return None
                                               require_client_authentication=bool(files.client_ca))


def _grpc_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    try:
        authority = Path(files.client_ca).read_bytes() if files.client_ca else None
        pair = (Path(files.key).read_bytes(), Path(files.certificate).read_bytes())
    except OSError as error:
        raise _unusable(files, error) from None
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)


def _no_password() -> str:
    raise ValueError("it has a passphrase")  # OpenSSL would ask the terminal for it, and wait


def _unusable(files: TlsFiles, error: Exception) -> SettingsError:
    return SettingsError(
        f"TLS needs a certificate and its key as PEM files{' and the PEM file of the client CA' if files.client_ca else ''}: "
        f"{files.certificate} and {files.key} cannot be used ({error})"
    )
