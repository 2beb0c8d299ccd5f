"""A collector beyond loopback, as a process: TLS and keys on all three listeners, and what it leaves on disk and in logs."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from cutaway_collector import credentials
from cutaway_collector.errors import SettingsError
from cutaway_collector.settings import Settings
from serving import Serving
from tenants_helpers import ACME, WORDS, ZOO, request_of

SECRET = "correct-horse-battery-staple"
BEYOND = ("--otlp-grpc", "0.0.0.0:0", "--otlp-http", "0.0.0.0:0", "--ui", "0.0.0.0:0")


@dataclass(frozen=True)
class World:
    """A running collector with TLS, its keys by name and what a client must trust."""

    serving: Serving
    keys: dict[str, str]
    authority: bytes

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.decode())

    def port(self, listener: str) -> int:
        return int(self.serving.addresses[listener].rpartition(":")[2])

    def ask(self, listener: str, method: str, path: str, *, key: str = "", body: bytes = b"", **headers: str) -> tuple[int, Any]:
        """Status and JSON (None for other bodies) over TLS."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port(listener), timeout=60, context=self.trust)
        try:
            shown = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {**shown, **({"Authorization": f"Bearer {self.keys[key]}"} if key else {})})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(raw) if raw[:1] in (b"{", b"[") else None

    def send(self, request: ExportTraceServiceRequest, key: str = "") -> None:
        """Over gRPC. Raises grpc.RpcError."""
        credential = grpc.ssl_channel_credentials(self.authority)
        with grpc.secure_channel(f"127.0.0.1:{self.port('otlp_grpc')}", credential) as channel:
            metadata = (("authorization", f"Bearer {self.keys[key]}"),) if key else ()
            TraceServiceStub(channel).Export(request, timeout=60, metadata=metadata)


def _secret_request(tenant: str) -> ExportTraceServiceRequest:
    request, _ = request_of(tenant)
    for span in request.resource_spans[0].scope_spans[0].spans:
        span.attributes.add(key="user.password").value.string_value = SECRET
        span.attributes.add(key="tenant").value.string_value = ZOO  # what a payload says of its tenant counts for nothing
    return request


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("serve")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    keys = {
        name: credentials.add(folder / "data" / "keys.json", name, scopes, tenant)
        for name, scopes, tenant in (("acme-send", ["ingest"], ACME), ("acme-read", ["read"], ACME), ("zoo-read", ["read"], ZOO),
                                     ("zoo-send", ["ingest"], ZOO), ("admin", ["admin"], ""))
    }
    flags = ("--tls-certificate", str(folder / "certificate.pem"), "--tls-key", str(folder / "key.pem"),
             "--redact-attributes", "user.*")
    with Serving(folder / "data", *BEYOND, *flags) as serving:
        found = World(serving, keys, authority.cert_pem.bytes())
        found.send(_secret_request(ACME), "acme-send")
        body = _secret_request(ZOO).SerializeToString()
        assert 200 == found.ask("otlp_http", "POST", "/v1/traces", key="zoo-send", body=body, Content_Type="application/x-protobuf",
                                X_Scope_OrgID=ACME, X_Tenant=ACME)[0]
        deadline = time.monotonic() + 60
        while len(_rows(found, "admin")) < 59:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield found


def _rows(world: World, key: str) -> list[dict[str, Any]]:
    status, answer = world.ask("ui", "GET", "/search.json?limit=500", key=key)
    assert 200 == status
    return list(answer["rows"])


@pytest.mark.parametrize(("key", "tenant"), [("acme-read", ACME), ("zoo-read", ZOO)])
def test_the_credential_alone_says_whose_spans_they_are(world: World, key: str, tenant: str) -> None:
    """Neither attributes nor headers of the sender change the tenant; each reads what its own keys sent."""
    rows = _rows(world, key)

    assert 30 == len([row for row in rows if row["service"] == f"{WORDS[tenant]}-service"])
    others = {f"{word}-service" for other, word in WORDS.items() if other != tenant}
    assert not others & {row["service"] for row in rows}


@pytest.mark.parametrize(("key", "code"), [("", grpc.StatusCode.UNAUTHENTICATED), ("acme-read", grpc.StatusCode.PERMISSION_DENIED)])
def test_grpc_asks_for_a_key_that_may_send(world: World, key: str, code: grpc.StatusCode) -> None:
    """Neither code is one that exporters retry."""
    with pytest.raises(grpc.RpcError) as refused:
        world.send(_secret_request(ACME), key)
    assert code is refused.value.code()


@pytest.mark.parametrize(("key", "status"), [("", 401), ("acme-read", 403)])
def test_http_asks_for_a_key_that_may_send(world: World, key: str, status: int) -> None:
    """As gRPC, in HTTP's words, and as a google.rpc.Status."""
    found, answer = world.ask("otlp_http", "POST", "/v1/traces", key=key, body=b"{}", Content_Type="application/json")
    assert status == found
    assert answer["message"]


@pytest.mark.parametrize("listener", ["otlp_grpc", "otlp_http", "ui"])
def test_a_listener_speaks_tls_only(world: World, listener: str) -> None:
    """Plain HTTP gets nothing, and a client that trusts another authority does not connect."""
    with socket.create_connection(("127.0.0.1", world.port(listener)), timeout=60) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            answer = plain.recv(100)
        except ConnectionError:
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 2")
    stranger = ssl.create_default_context(cadata=trustme.CA().cert_pem.bytes().decode())
    plain = socket.create_connection(("127.0.0.1", world.port(listener)), timeout=60)
    with plain, pytest.raises(ssl.SSLCertVerificationError):
        stranger.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("listener", ["otlp_grpc", "otlp_http", "ui"])
def test_old_tls_is_refused(world: World, listener: str) -> None:
    """1.1 and older have known holes."""
    old = world.trust
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", world.port(listener)), timeout=60) as plain, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.slow
def test_silent_and_half_spoken_clients_hold_no_thread(world: World) -> None:
    """Fifty sockets that say nothing and fifty that stop in the middle of a handshake or a request keep nobody out."""
    held = [socket.create_connection(("127.0.0.1", world.port("ui")), timeout=60) for _ in range(100)]
    try:
        for connection in held[:50]:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")  # the start of a ClientHello
        slow = [world.trust.wrap_socket(socket.create_connection(("127.0.0.1", world.port("ui")), timeout=60),
                                        server_hostname="127.0.0.1") for _ in range(20)]
        held += slow
        for connection in slow:
            connection.sendall(b"GET /search HTTP/1.1\r\nHost:")
        assert 200 == world.ask("ui", "GET", "/healthz")[0]
        assert _rows(world, "acme-read")
    finally:
        for connection in held:
            connection.close()


def test_large_answers_and_many_requests_come_through_tls_whole(world: World) -> None:
    """More than a TLS record and more than a socket's buffer, again and again over one connection."""
    connection = http.client.HTTPSConnection("127.0.0.1", world.port("ui"), timeout=60, context=world.trust)
    shown = {"Authorization": f"Bearer {world.keys['admin']}"}
    try:
        for _ in range(20):
            connection.request("GET", "/search.json?limit=500", headers=shown)
            answer = connection.getresponse()
            raw = answer.read()
            assert int(answer.headers["Content-Length"]) == len(raw) > 30_000
            assert len(json.loads(raw)["rows"]) >= 59
    finally:
        connection.close()


def test_a_head_or_body_that_is_too_large_is_refused_over_tls(world: World) -> None:
    """The limits of the server hold behind TLS as before it. A body is refused for what it announces, before it is sent."""
    assert world.ask("ui", "GET", "/healthz", X_Much="x" * 33_000)[0] in (400, 431)
    assert 413 == world.ask("ui", "POST", "/sign-in", Content_Length=str(1024 * 1024 + 1))[0]


def test_what_was_redacted_is_nowhere(world: World) -> None:
    """The word sent in every span is in no answer and in no file: spool, engine, log."""
    row = _rows(world, "acme-read")[0]
    _, trace = world.ask("ui", "GET", f"/trace/{row['trace_id']}.json", key="acme-read")
    assert "[redacted]" == trace["spans"][0]["attributes"]["user.password"]
    assert ZOO == trace["spans"][0]["attributes"]["tenant"]
    assert [] == _rows_for(world, SECRET)
    assert [] == [path for path in _files(world.serving) if SECRET.encode() in path.read_bytes()]


def _rows_for(world: World, query: str) -> list[Any]:
    return list(world.ask("ui", "GET", f"/search.json?q={query}", key="admin")[1]["rows"])


def _files(serving: Serving) -> list[Path]:
    """Every file of the data directory that is there to be read (the engine merges parts meanwhile), and the log."""
    return [path for path in serving.data.rglob("*") if path.is_file()] + [serving.log]


def test_no_key_is_on_disk_or_in_a_log(world: World) -> None:
    """After sending, reading and refusals: hashes only."""
    world.ask("ui", "GET", "/search.json?key=" + world.keys["admin"])
    for path in _files(world.serving):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        assert not any(key.encode() in content for key in world.keys.values()), path


def test_every_file_is_for_the_owner_alone(world: World) -> None:
    """Directories 0700, files 0600: spool, engine, keys, session secret and temporary files, whatever the umask was."""
    wrong = []
    for path in [world.serving.data, *world.serving.data.rglob("*")]:
        try:
            mode = stat.S_IMODE(path.lstat().st_mode)
        except FileNotFoundError:
            continue
        if mode & 0o077 and not path.is_symlink():
            wrong.append((path, oct(mode)))
    assert [] == wrong
    assert (world.serving.data / "session.secret").exists()


def test_metrics_and_readiness_name_no_tenant_and_no_content(world: World) -> None:
    """Figures of the whole collector: no tenant, service, model, span or key is a label of them."""
    connection = http.client.HTTPSConnection("127.0.0.1", world.port("ui"), timeout=60, context=world.trust)
    try:
        for path in ("/metrics", "/readyz"):
            connection.request("GET", path, headers={"Authorization": f"Bearer {world.keys['acme-read']}"})
            text = connection.getresponse().read().decode()
            assert not any(word in text for word in (*WORDS.values(), ACME, ZOO, *world.keys))
    finally:
        connection.close()


def _run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cutaway_collector", *arguments], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **(environment or {})})


@pytest.mark.slow
def test_the_command_line_sends_its_key(world: World) -> None:
    """`query` and `load` reach a closed collector with a key and the authority's certificate, and say what is missing without."""
    ca, ui = ["--ca", str(_authority_file(world))], ["--url", f"https://127.0.0.1:{world.port('ui')}"]
    found = _run("query", f"service:{WORDS[ACME]}*", "--json", *ui, *ca, environment={"CUTAWAY_API_KEY": world.keys["acme-read"]})
    assert 0 == found.returncode, found.stderr
    assert 20 == len(found.stdout.splitlines())
    assert "API key" in _run("query", "x", *ui, *ca).stderr
    endpoint = ["--endpoint", f"127.0.0.1:{world.port('otlp_grpc')}", "--spans", "5", *ca]
    assert 0 == _run("load", *endpoint, environment={"CUTAWAY_API_KEY": world.keys["zoo-send"]}).returncode
    assert "UNAUTHENTICATED" in _run("load", *endpoint).stderr


def _authority_file(world: World) -> Path:
    path = world.serving.data.parent / "authority.pem"
    path.write_bytes(world.authority)
    return path


def test_beyond_loopback_nothing_starts_without_a_key(tmp_path: Path) -> None:
    """TLS alone lets strangers in over an encrypted line: the start fails, says what to do, and leaves no data behind."""
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    pem = str(tmp_path / "both.pem")
    done = _run("serve", "--data", str(tmp_path / "data"), *BEYOND, "--tls-certificate", pem, "--tls-key", pem)

    assert 2 == done.returncode
    assert "cutaway keys add" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["doctor", "serve", "schema"])
def test_the_password_of_the_server_is_never_shown(tmp_path: Path, command: str) -> None:
    """A server that cannot be reached is named without the user and password of its URL."""
    action = ["check"] if command == "schema" else []
    url = f"http://user:{SECRET}@127.0.0.1:1"
    more = ["--tls-certificate", "missing.pem", "--tls-key", "missing.pem"] if command == "serve" else []
    done = _run(command, *action, *more, environment={"CUTAWAY_CLICKHOUSE": url, "XDG_STATE_HOME": str(tmp_path)})

    assert 0 != done.returncode
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("url", [f"http://user:{SECRET}@host:8123", f"https://u:{SECRET}@x@host", f"http://user:{SECRET}@host\n:8123"])
def test_settings_show_no_password(url: str) -> None:
    """Whoever prints the settings, in a log or a crash report, prints no secret."""
    shown = repr(Settings(clickhouse=url))

    assert SECRET not in shown
    assert "host" in shown


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ui": "0.0.0.0:0"}, "TLS and API keys"),
        ({"ui": "0.0.0.0:0", "auth": "off", "tls_certificate": "c", "tls_key": "k"}, "TLS and API keys"),
        ({"auth": "perhaps"}, "auth is auto"), ({"tls_certificate": "c"}, "tls_key"), ({"tls_client_ca": "a"}, "tls_certificate"),
    ],
)
def test_contradictions_are_refused(values: dict[str, Any], words: str) -> None:
    """Before anything starts, naming what is missing."""
    with pytest.raises(SettingsError, match=words):
        Settings(**values)


@pytest.mark.parametrize(
    ("values", "required"),
    [
        ({}, False), ({"auth": "required"}, True), ({"ui": "0.0.0.0:0", "insecure_bind": True}, False),
        ({"ui": "0.0.0.0:0", "insecure_bind": True, "auth": "required"}, True), ({"ui": "[::1]:0"}, False),
        ({"otlp_grpc": "0.0.0.0:0", "tls_certificate": "c", "tls_key": "k"}, True),
        ({"tls_certificate": "c", "tls_key": "k"}, False),
        ({"otlp_http": "10.0.0.1:1", "insecure_bind": True, "auth": "off"}, False),
    ],
)
def test_when_keys_are_demanded(values: dict[str, Any], required: bool) -> None:
    """Beyond loopback, unless the operator says that the network is closed; on loopback when asked to."""
    assert required == Settings(**values).auth_required
