"""TLS of the two listeners out of PEM files: 1.2 or newer, client certificates where a CA for them is named. Opens no sockets."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from cutaway_collector.contracts import TlsFiles
from cutaway_collector.errors import SettingsError


def http_context(files: TlsFiles) -> ssl.SSLContext:
    """Context of OTLP/HTTP. Raises SettingsError when the files cannot be read or do not belong together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(files.certificate, files.key)
        if files.client_ca:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise _unusable(files, error) from None
    return context


def grpc_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of OTLP/gRPC (gRPC takes nothing below TLS 1.2). Raises SettingsError as `http_context` does."""
    http_context(files)  # gRPC would say nothing about a wrong file and fail every handshake
    try:
        authority = Path(files.client_ca).read_bytes() if files.client_ca else None
        pair = (Path(files.key).read_bytes(), Path(files.certificate).read_bytes())
    except OSError as error:
        raise _unusable(files, error) from None
    return grpc.ssl_server_credentials([pair], root_certificates=authority, require_client_auth=authority is not None)


def _unusable(files: TlsFiles, error: Exception) -> SettingsError:
    return SettingsError(
        f"TLS needs a certificate and its key as PEM files{' and the PEM file of the client CA' if files.client_ca else ''}: "
        f"{files.certificate} and {files.key} cannot be used ({error})"
    )
