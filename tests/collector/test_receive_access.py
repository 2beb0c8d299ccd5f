"""Who may send: credentials of both receivers, checked before a body is read, and TLS with and without client certificates."""

from __future__ import annotations

import datetime
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from cutaway_collector.contracts import TlsFiles
from cutaway_collector.errors import SettingsError
from cutaway_collector.receive import GrpcReceiver, HttpReceiver, connection
from cutaway_collector.receive import http as http_module
from receive_helpers import HEAD, JSON, PROTOBUF, Keys, Recorder, eventually, post, request, until_closed

BODY = request(2).SerializeToString()


@pytest.fixture
def submit() -> Recorder:
    return Recorder()


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def http_receiver(submit: Recorder, keys: Keys) -> Iterator[HttpReceiver]:
    made = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, concurrency_max=8, threads=2, authenticate=keys)
    yield made
    made.close()


@pytest.fixture
def grpc_receiver(submit: Recorder, keys: Keys) -> Iterator[GrpcReceiver]:
    made = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, threads=2, authenticate=keys)
    yield made
    made.close()


def export(receiver: GrpcReceiver, metadata: list[tuple[str, str]], body: bytes = BODY) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{receiver.address[1]}") as channel:
        channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")(body, metadata=metadata, timeout=60)


# --- credentials ----------------------------------------------------------------------------------------------------------


def test_http_takes_the_tenant_from_the_key_alone(http_receiver: HttpReceiver, submit: Recorder, keys: Keys) -> None:
    """Headers that claim a tenant change nothing; the authenticator hears header, scope and address."""
    spoofed = {"X-Scope-OrgID": "team-b", "X-Tenant": "team-b", "X-Forwarded-For": "10.0.0.1"}
    assert post(http_receiver.address, BODY, {**PROTOBUF, "Authorization": "Bearer sender", **spoofed})[0] == 200
    assert submit.tenants == ["team-a"]
    assert keys.asked == [("Bearer sender", "ingest", "127.0.0.1")]


def test_grpc_takes_the_tenant_from_the_key_alone(grpc_receiver: GrpcReceiver, submit: Recorder, keys: Keys) -> None:
    """The same through metadata."""
    export(grpc_receiver, [("authorization", "Bearer sender"), ("x-scope-orgid", "team-b"), ("x-tenant", "team-b")])
    assert submit.tenants == ["team-a"]
    assert keys.asked == [("Bearer sender", "ingest", "127.0.0.1")]


@pytest.mark.parametrize(("key", "status", "code", "header"), [
    (None, 401, 16, ("www-authenticate", "Bearer")), ("Bearer guess", 401, 16, ("www-authenticate", "Bearer")),
    ("Bearer reader", 403, 7, None), ("Bearer busy", 429, 14, ("retry-after", "7")),
])
@pytest.mark.parametrize("media", [PROTOBUF, JSON])
def test_http_refusals(
    http_receiver: HttpReceiver, submit: Recorder, key: str | None, status: int, code: int, header: Any, media: dict[str, str]
) -> None:
    """Missing or unknown, not allowed, too often: each its status, header and Status body in the request's encoding."""
    answered, headers, body = post(http_receiver.address, BODY, {**media, **({"Authorization": key} if key else {})})
    said = json.loads(body)["code"] if media is JSON else status_pb2.Status.FromString(body).code
    assert (answered, headers["content-type"], said) == (status, media["Content-Type"], code)
    assert header is None or headers[header[0]] == header[1]
    assert submit.payloads == []


@pytest.mark.parametrize(("key", "code"), [
    ("", grpc.StatusCode.UNAUTHENTICATED), ("Bearer guess", grpc.StatusCode.UNAUTHENTICATED),
    ("Bearer reader", grpc.StatusCode.PERMISSION_DENIED), ("Bearer busy", grpc.StatusCode.UNAVAILABLE),
])
def test_grpc_refusals(grpc_receiver: GrpcReceiver, submit: Recorder, key: str, code: grpc.StatusCode) -> None:
    """The same by their gRPC names; whoever asks too often is told when to come back."""
    with pytest.raises(grpc.RpcError) as caught:
        export(grpc_receiver, [("authorization", key)] if key else [])
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert (caught.value.code(), status.code) == (code, code.value[0])
    assert (code is grpc.StatusCode.UNAVAILABLE) == any(detail.Unpack(info) for detail in status.details)
    assert submit.payloads == []


def test_two_keys_are_none(http_receiver: HttpReceiver, submit: Recorder, keys: Keys) -> None:
    """A proxy and the collector must not pick different ones of two Authorization headers."""
    with socket.create_connection(http_receiver.address, timeout=60) as raw:
        raw.sendall(HEAD + b"Authorization: Bearer sender\r\nAuthorization: Bearer guess\r\nContent-Length: 0\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 401")
    assert submit.payloads == []


def test_http_asks_for_the_key_before_the_body(http_receiver: HttpReceiver) -> None:
    """The refusal comes while not a byte of the body has been sent."""
    with socket.create_connection(http_receiver.address, timeout=60) as raw:
        raw.sendall(HEAD + b"Content-Length: 99999\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 401")


def test_http_does_not_ask_for_a_body_it_will_not_take(http_receiver: HttpReceiver) -> None:
    """Expect: 100-continue is answered with the refusal at once, and the connection ends, for nobody knows what follows."""
    with socket.create_connection(http_receiver.address, timeout=60) as raw:
        raw.sendall(HEAD + b"Content-Length: 99999\r\nExpect: 100-continue\r\n\r\n")
        said = raw.recv(4096)
    assert said.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in said.lower()


def test_grpc_asks_for_the_key_before_the_message(grpc_receiver: GrpcReceiver) -> None:
    """A message that would be too large is not what a stranger is told: it was not read."""
    with pytest.raises(grpc.RpcError) as caught:
        export(grpc_receiver, [], bytes(1_000_000))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_refused_body_does_not_cost_the_connection(http_receiver: HttpReceiver, submit: Recorder) -> None:
    """A sender that sends its whole body before it reads the 401 can use the connection again."""
    connection = http.client.HTTPConnection(*http_receiver.address, timeout=60)
    for key, expected in (("Bearer guess", 401), ("Bearer sender", 200)):
        connection.request("POST", "/v1/traces", bytes(50_000), {**PROTOBUF, "Authorization": key})
        answer = connection.getresponse()
        assert (answer.status, len(answer.read()) > 0) == (expected, expected == 401)
    connection.close()
    assert len(submit.payloads) == 1


# --- TLS ------------------------------------------------------------------------------------------------------------------

OURS, THEIRS = trustme.CA(), trustme.CA()
SERVER = OURS.issue_cert("localhost", "127.0.0.1")
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
CLIENTS = {
    "right": OURS.issue_cert("sender@example.org"), "wrong CA": THEIRS.issue_cert("sender@example.org"), "none": None,
    "expired": OURS.issue_cert("sender@example.org", not_before=LONG_AGO, not_after=LONG_AGO + datetime.timedelta(days=1)),
}


def written(folder: Path, certificate: trustme.LeafCert, *, client_ca: bool) -> TlsFiles:
    pem, key, authority = folder / "server.pem", folder / "server.key", folder / "ca.pem"
    pem.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    OURS.cert_pem.write_to_path(authority)
    return TlsFiles(str(pem), str(key), str(authority) if client_ca else "")


def over_http(address: tuple[str, int], client: trustme.LeafCert | None, authority: trustme.CA = OURS, **limits: Any) -> int:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if limits:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or this client would not offer what the server is to refuse
    for name, value in limits.items():
        setattr(context, name, value)
    if client is not None:
        client.configure_cert(context)
    connection = http.client.HTTPSConnection("localhost", address[1], timeout=60, context=context)
    try:
        connection.request("POST", "/v1/traces", BODY, PROTOBUF)
        return connection.getresponse().status
    finally:
        connection.close()


def over_grpc(address: tuple[str, int], client: trustme.LeafCert | None, authority: trustme.CA = OURS) -> None:
    chain = None if client is None else b"".join(blob.bytes() for blob in client.cert_chain_pems)
    key = None if client is None else client.private_key_pem.bytes()
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), key, chain)
    with grpc.secure_channel(f"localhost:{address[1]}", credentials) as channel:
        TraceServiceStub(channel).Export(request(2), timeout=60)


@pytest.fixture(params=[False, True], ids=["TLS", "mutual TLS"])
def mutual(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("client", CLIENTS)
def test_http_over_tls(submit: Recorder, tmp_path: Path, mutual: bool, client: str) -> None:
    """Without a client CA any client that trusts us gets through; with one, only a valid certificate of that CA."""
    receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, concurrency_max=8, threads=2,
                            tls=written(tmp_path, SERVER, client_ca=mutual))
    try:
        if mutual and client != "right":
            with pytest.raises((ssl.SSLError, ConnectionError)):
                over_http(receiver.address, CLIENTS[client])
        else:
            assert over_http(receiver.address, CLIENTS[client]) == 200
    finally:
        receiver.close()
    assert len(submit.payloads) == (not mutual or client == "right")


@pytest.mark.parametrize("client", CLIENTS)
def test_grpc_over_tls(submit: Recorder, tmp_path: Path, mutual: bool, client: str) -> None:
    """The same."""
    receiver = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, threads=2,
                            tls=written(tmp_path, SERVER, client_ca=mutual))
    try:
        if mutual and client != "right":
            with pytest.raises(grpc.RpcError) as caught:
                over_grpc(receiver.address, CLIENTS[client])
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        else:
            over_grpc(receiver.address, CLIENTS[client])
    finally:
        receiver.close()
    assert len(submit.payloads) == (not mutual or client == "right")


def test_http_refuses_old_tls_and_plain_text(submit: Recorder, tmp_path: Path) -> None:
    """TLS 1.1 and no TLS at all get no answer; a client that does not know our CA gives up by itself."""
    receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, concurrency_max=8, threads=2,
                            tls=written(tmp_path, SERVER, client_ca=False))
    try:
        assert over_http(receiver.address, None, maximum_version=ssl.TLSVersion.TLSv1_2) == 200
        with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNEXPECTED_EOF"), pytest.warns(DeprecationWarning, match="TLSv1"):
            over_http(receiver.address, None, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            post(receiver.address, BODY, PROTOBUF)
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            over_http(receiver.address, None, THEIRS)
    finally:
        receiver.close()
    assert len(submit.payloads) == 1


def test_a_handshake_that_does_not_end_is_given_up(submit: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that never speaks TLS does not stay."""
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS_MAX", 2)
    receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, concurrency_max=8, threads=2,
                            tls=written(tmp_path, SERVER, client_ca=False))
    try:
        with socket.create_connection(receiver.address, timeout=60) as raw:
            assert until_closed(raw) == b""
        assert over_http(receiver.address, None) == 200
    finally:
        receiver.close()


def shown(address: tuple[str, int]) -> bytes:
    """The certificate a listener shows to a new connection."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(address, timeout=60)).strip()


def test_a_renewed_certificate_is_shown(submit: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New connections of both listeners get it; a pair that does not belong together is not taken, and the one before stays."""
    monkeypatch.setattr(http_module, "RENEWAL_SECONDS", 0.02)
    files = written(tmp_path, SERVER, client_ca=False)
    http_receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, concurrency_max=8, threads=2, tls=files)
    grpc_receiver = GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, threads=2, tls=files)
    listeners = (http_receiver.address, grpc_receiver.address)
    try:
        renewed, again = OURS.issue_cert("localhost", "127.0.0.1"), OURS.issue_cert("localhost", "127.0.0.1")
        for certificate in (renewed, again):
            der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode()).strip()
            Path(files.certificate).write_bytes(certificate.cert_chain_pems[0].bytes())
            for address in listeners:
                assert shown(address) != der  # its key is not there yet
            Path(files.key).write_bytes(certificate.private_key_pem.bytes())
            for address in listeners:
                eventually(lambda address=address, der=der: shown(address) == der)  # type: ignore[misc]  # bound at once
        assert over_http(http_receiver.address, None) == 200
        over_grpc(grpc_receiver.address, None)
    finally:
        http_receiver.close()
        grpc_receiver.close()


def test_another_client_ca_counts_from_the_next_connection_on(
    submit: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose clients were refused are let in, and the others are not any more."""
    monkeypatch.setattr(http_module, "RENEWAL_SECONDS", 0.02)
    files = written(tmp_path, SERVER, client_ca=True)
    receiver = HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=100_000, concurrency_max=8, threads=2, tls=files)

    def let_in(client: str) -> bool:
        try:
            return over_http(receiver.address, CLIENTS[client]) == 200
        except (ssl.SSLError, ConnectionError):
            return False

    try:
        assert [let_in(client) for client in ("right", "wrong CA")] == [True, False]
        Path(files.client_ca).write_bytes(THEIRS.cert_pem.bytes())
        eventually(lambda: let_in("wrong CA"))
        assert not let_in("right")
    finally:
        receiver.close()


def test_files_that_do_not_belong_together_are_an_error_at_start(submit: Recorder, tmp_path: Path) -> None:
    """Not a listener that fails every handshake."""
    files = written(tmp_path, SERVER, client_ca=False)
    CLIENTS["wrong CA"].private_key_pem.write_to_path(files.key)  # type: ignore[union-attr]  # that one is a certificate
    missing = TlsFiles(str(tmp_path / "nothing.pem"), files.key)
    for broken in (files, missing):
        with pytest.raises(SettingsError, match="TLS needs a certificate and its key"):
            HttpReceiver(submit, "127.0.0.1", 0, body_bytes_max=1, concurrency_max=1, threads=1, tls=broken)
        with pytest.raises(SettingsError, match="TLS needs a certificate and its key"):
            GrpcReceiver(submit, "127.0.0.1", 0, body_bytes_max=1, threads=1, tls=broken)
