"""TLS files: there, readable, a pair, and in date. Finds that out by a handshake with itself, so that nothing is guessed."""

from __future__ import annotations

import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cutaway_collector.commands.doctor.findings import Finding, bad, note, ok
from cutaway_collector.settings import Settings

DAYS_MIN: Final = 14
_EXPIRED: Final = 10
_NOT_YET: Final = 9
"""OpenSSL's X509_V_ERR codes."""


def files(settings: Settings) -> Iterator[Finding]:
    """Every TLS file of the settings."""
    if not settings.tls_certificate:
        return
    fine = True
    for name in ("tls_certificate", "tls_key", "tls_client_ca"):
        value = getattr(settings, name)
        if not value:
            continue
        try:
            with Path(value).open("rb") as file:
                file.read(1)
        except OSError as error:
            fine = False
            yield bad("tls", f"{name} {value} cannot be read ({error.strerror})", "name a PEM file that this user may read")
    if not fine:
        return
    if Path(settings.tls_key).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield note("tls", f"others may read the private key {settings.tls_key}", "chmod 600 it")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except ssl.SSLError as error:
        why = "the key is not the certificate's" if error.reason == "KEY_VALUES_MISMATCH" else "one of them is not PEM"
        yield bad("tls", f"tls_certificate and tls_key cannot be used together, {why}",
                  "give the two files that were made for each other")
        return
    if settings.tls_client_ca:
        try:
            server.load_verify_locations(settings.tls_client_ca)
        except ssl.SSLError:
            yield bad("tls", f"tls_client_ca {settings.tls_client_ca} holds no PEM certificate",
                      "name the file of who signs client certificates")
    yield _validity(server, settings.tls_certificate)


def _validity(server: ssl.SSLContext, certificate: str) -> Finding:
    try:
        end = _end(server, certificate)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            return bad("tls", f"the certificate {certificate} has expired", "renew it: the collector reads it again by itself")
        if error.verify_code == _NOT_YET:
            return bad("tls", f"the certificate {certificate} is not valid yet", "set this machine's clock, or wait")
        return note("tls", f"the certificate {certificate} could not be judged ({error.verify_message})")
    days = (ssl.cert_time_to_seconds(end) - time.time()) / 86_400
    words = f"the certificate {certificate} is valid for {days:.0f} more days"
    return ok("tls", words) if days >= DAYS_MIN else bad("tls", words, "renew it in time: the collector reads it again by itself")


def _end(server: ssl.SSLContext, certificate: str) -> str:
    """Until when (notAfter): the certificate, as a client that trusts this one alone reads it. Raises SSLCertVerificationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificate)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there)
    listener = server.wrap_bio(there, back, server_side=True)
    for _ in range(8):
        for side in (client, listener):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        if client.version() and (found := client.getpeercert()):
            return str(found["notAfter"])
    raise ssl.SSLCertVerificationError("the handshake did not come to an end")
