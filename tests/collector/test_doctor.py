"""`cutaway doctor`: every fault that is planted is found, with a remedy, and nothing is found where nothing is wrong."""

from __future__ import annotations

import datetime
import json
import os
import socket
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509

from cutaway_collector import __main__, credentials
from cutaway_collector.commands import doctor, running
from cutaway_collector.commands.doctor import machine, places, stores
from cutaway_collector.commands.doctor.findings import Finding
from cutaway_collector.commands.doctor.tls import files
from cutaway_collector.contracts import Result
from cutaway_collector.errors import StoreError
from cutaway_collector.settings import MIB, Settings
from cutaway_collector.store import open_store
from pipeline_helpers import Tampered
from serving import Serving
from store_helpers import server

FREE = {"otlp_grpc": "127.0.0.1:0", "otlp_http": "127.0.0.1:0", "ui": "127.0.0.1:0"}


def healthy(tmp_path: Path, **more: Any) -> Settings:
    """Settings in which nothing is wrong."""
    return Settings(**{"data": str(tmp_path / "data"), **FREE, **more})


def examined(settings: Settings) -> list[Finding]:
    return [finding for check in doctor.CHECKS for finding in check(settings)]


def wrong(settings: Settings, level: str = "BAD") -> str:
    """All findings of a level as text; each must say what to do."""
    found = [finding for finding in examined(settings) if finding.level == level]
    assert all(finding.remedy for finding in found)
    return "\n".join(map(str, found))


def test_nothing_is_wrong_with_a_new_directory(tmp_path: Path) -> None:
    """Nothing there yet is nothing wrong."""
    assert wrong(healthy(tmp_path)) == ""


def test_nothing_is_wrong_with_one_that_was_used(tmp_path: Path) -> None:
    """After a clean run there is nothing to put right."""
    with Serving(tmp_path / "data") as running_one:
        assert running_one.stop() == 0
    assert wrong(healthy(tmp_path)) == ""


def test_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object: whether all is well, and each finding with its level and remedy; the exit code says the same."""
    flags = [word for name, value in FREE.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert __main__.main(["doctor", "--json", "--data", str(tmp_path / "data"), *flags]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True
    assert __main__.main(["doctor", "--json", *flags]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["healthy"] is False
    assert {"level", "what", "words", "remedy"} == set(said["findings"][0])


def test_settings_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that is refused outright is a finding, not a usage error."""
    assert __main__.main(["doctor", "--data", "x", "--tls-key", "only-half"]) == 1
    assert "BAD  settings: TLS needs both" in capsys.readouterr().out


@pytest.mark.parametrize(("more", "level", "words"), [
    ({"clickhouse": "http://127.0.0.1:1"}, "BAD", "both are given"),
    ({"data": ""}, "BAD", "neither is given"),
    ({"otlp_grpc": "127.0.0.1:4555", "otlp_http": "127.0.0.1:4555"}, "BAD", "both want 127.0.0.1:4555"),
    ({"request_bytes_max": 2**25, "spool_bytes_max": 2**20}, "BAD", "never fit into the spool"),
    ({"request_bytes_max": 2**25, "queue_bytes_max": 2**20}, "BAD", "never fit into the queue"),
    ({"batch_bytes_max": 2**29}, "BAD", "a batch would never be full"),
    ({"retention_days": 7, "tokens_retention_days": 14}, "note", "lower tokens_retention_days"),
    ({"otlp_grpc": "0.0.0.0:0", "insecure_bind": True}, "note", "without TLS and API keys"),
    ({"auth": "required"}, "BAD", "there is none in"),
    ({"score_device": "cuda"}, "BAD", "numba cannot use one (Error at driver init"),
])
def test_contradictions(tmp_path: Path, more: dict[str, Any], level: str, words: str) -> None:
    """Settings that are each possible and not together."""
    if "cuda" in more.values() and machine.cuda.is_available():
        pytest.skip("there is a GPU here")
    settings = healthy(tmp_path, **more)
    found = [str(finding) for check in (machine.contradictions, machine.device, places.keys) for finding in check(settings)]
    assert [line for line in found if line.startswith(level) and words in line]


@pytest.mark.slow
def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """By which process, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = wrong(healthy(tmp_path, ui=address))
    assert f"{address} cannot be used" in said
    assert f"by process {os.getpid()}" in said
    assert "--ui" in said


def test_compiled_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be written, and no compiler at all."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert "cannot be written" in wrong(healthy(tmp_path))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert "NUMBA_DISABLE_JIT is set" in wrong(healthy(tmp_path))


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    """It is named."""
    (tmp_path / "data").write_text("")
    assert f"{tmp_path / 'data'} is a file: choose a directory" in wrong(healthy(tmp_path))


def test_a_directory_that_others_may_enter(tmp_path: Path) -> None:
    """Worth knowing before the next start closes it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)  # whatever the umask
    assert "others may enter" in wrong(healthy(tmp_path), "note")


def test_a_directory_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by their numbers, with the command that helps."""
    (tmp_path / "data").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert f"chown -R 54321 {tmp_path / 'data'}" in wrong(healthy(tmp_path))


def test_a_disk_that_does_not_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that refuses fsync keeps no promise."""
    def refuse(handle: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(places.os, "fsync", refuse)
    assert "cannot be written and synced (Invalid argument)" in wrong(healthy(tmp_path))


def test_a_disk_that_is_almost_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes and files are counted."""
    monkeypatch.setattr(places, "FREE_BYTES_MIN", 2**60)
    monkeypatch.setattr(places, "FREE_FILES_MIN", 2**60)
    said = wrong(healthy(tmp_path))
    assert "make room or shorten the retention" in said
    assert "runs out of inodes" in said or not os.statvfs(tmp_path).f_files


def test_a_file_system_in_memory(tmp_path: Path) -> None:
    """What a restart of the machine empties is said."""
    if places._file_system(Path("/dev/shm")) != "tmpfs":
        pytest.skip("no tmpfs here")
    assert "which a restart of the machine empties" in wrong(healthy(tmp_path, data="/dev/shm/cutaway-doctor"), "note")


def test_what_the_spool_holds(tmp_path: Path) -> None:
    """A spool near its limit, a damaged ledger, pieces set aside and dead letters with the first reason."""
    spool = tmp_path / "data" / "spool"
    for name in ("segments", "quarantine", "dead"):
        (spool / name).mkdir(parents=True)
    (spool / "segments" / "1.log").write_bytes(bytes(MIB))
    (spool / "quarantine" / "torn.log").write_bytes(b"x")
    (spool / "dead" / "1.json").write_text(json.dumps({"reason": "a year the store does not know"}))
    (spool / "ledger.db").write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    said = wrong(healthy(tmp_path, spool_bytes_max=MIB + MIB // 8, request_bytes_max=MIB))
    for words in ("1 of 1 MiB", "torn.log", "a year the store does not know", "is damaged"):
        assert words in said


def test_a_whole_ledger_is_left_as_it_is(tmp_path: Path) -> None:
    """Looking changes no byte."""
    spool = tmp_path / "data" / "spool"
    spool.mkdir(parents=True)
    with sqlite3.connect(spool / "ledger.db") as database:
        database.execute("CREATE TABLE batches (first INTEGER)")
    database.close()
    before = (spool / "ledger.db").read_bytes()
    assert "its ledger is whole" in "\n".join(map(str, places.spool(healthy(tmp_path))))
    assert (spool / "ledger.db").read_bytes() == before


def test_a_damaged_keys_file(tmp_path: Path) -> None:
    """Nobody would be let in: the doctor says so before they find out."""
    settings = healthy(tmp_path)
    credentials.add(credentials.keys_path(settings), "one", ["ingest"], "")
    assert "1 in" in "\n".join(map(str, places.keys(settings)))
    credentials.keys_path(settings).write_text("{")
    assert "is damaged" in wrong(settings)


class Pems:
    """Certificates on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.settings: dict[str, str] = {}

    def write(self, **validity: Any) -> Pems:
        leaf = self.ca.issue_cert("localhost", **validity)
        leaf.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")
        leaf.private_key_pem.write_to_path(self.folder / "key.pem")
        (self.folder / "key.pem").chmod(0o600)
        self.settings = {"tls_certificate": str(self.folder / "cert.pem"), "tls_key": str(self.folder / "key.pem")}
        return self

    def said(self, **more: str) -> str:
        return "\n".join(map(str, files(Settings(data="x", **{**self.settings, **more}))))  # type: ignore[arg-type]  # names of settings


@pytest.fixture
def pems(tmp_path: Path) -> Pems:
    return Pems(tmp_path).write()


def days_from_now(days: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


def test_tls_files_that_fit(pems: Pems) -> None:
    """Until when the certificate is valid is read from it."""
    assert isinstance(x509.load_pem_x509_certificate((pems.folder / "cert.pem").read_bytes()), x509.Certificate)
    said = pems.write(not_after=days_from_now(100.5)).said()
    assert said == f"ok   tls: the certificate {pems.folder / 'cert.pem'} is valid for 100 more days"


@pytest.mark.parametrize(("validity", "words"), [
    ({"not_before": -20, "not_after": -1}, "has expired: renew it"),
    ({"not_before": 2, "not_after": 50}, "is not valid yet"),
    ({"not_before": -2, "not_after": 3.5}, "valid for 3 more days: renew it"),
])
def test_a_certificate_out_of_date(pems: Pems, validity: Mapping[str, float], words: str) -> None:
    """Expired, not valid yet, or not for long."""
    said = pems.write(**{name: days_from_now(days) for name, days in validity.items()}).said()
    assert said.startswith("BAD")
    assert words in said


def test_tls_files_that_do_not_fit(pems: Pems) -> None:
    """Missing, of another pair, not PEM, and a key that others may read."""
    assert "cannot be read (No such file" in pems.said(tls_key="/nowhere/key.pem")
    other = pems.folder / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    other.chmod(0o600)
    assert "the key is not the certificate's" in pems.said(tls_key=str(other))
    other.write_text("no PEM at all")
    assert "one of them is not PEM" in pems.said(tls_certificate=str(other))
    assert "holds no PEM certificate" in pems.said(tls_client_ca=str(other))
    (pems.folder / "key.pem").chmod(0o644)
    assert "others may read the private key" in pems.said()


def test_a_store_that_is_older_or_newer(tmp_path: Path) -> None:
    """A missing column is BAD with the command; tables that a later version changed are worth knowing."""
    settings = healthy(tmp_path)
    opened = open_store(settings)
    opened.command("ALTER TABLE otel.gen_ai_tokens DROP COLUMN Margins")
    opened.command("INSERT INTO otel.cutaway_migrations (Version, Statement) VALUES ('99.1.0', 'x')")
    opened.close()
    assert "column gen_ai_tokens.Margins is missing" in wrong(settings)
    assert "cutaway schema migrate" in wrong(settings)
    assert "cutaway 99.1.0 has changed these tables" in wrong(settings, "note")


class Pretending(Tampered):
    """A real store that says another version or time, or forbids statements."""

    said: tuple[str, float] | None = None
    forbids: str = "nothing"

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Result:
        found = super().query(sql, parameters)
        if self.said is None or not sql.startswith("SELECT version()"):
            return found
        return Result(found.columns, [(self.said[0], found.rows[0][1] + self.said[1] * 1000)], 0)

    def command(self, sql: str) -> None:
        if sql.startswith(self.forbids):
            raise StoreError("the store refused a schema statement: Not enough privileges (ACCESS_DENIED)", retryable=False)
        super().command(sql)


def test_a_server_that_does_not_fit(tmp_path: Path) -> None:
    """Too old, another time of day, or without rights for us; one that fits is fine, and unchanged by having been asked."""
    with server(tmp_path) as found:
        settings = Settings(clickhouse=found.url, **FREE)
        assert wrong(settings) == ""
        opened = open_store(settings)
        before = opened.query("SELECT count() FROM otel.cutaway_migrations").rows
        pretending = Pretending(opened)
        for said, words in ((("23.3.1.1", 0.0), "24.8 is the oldest that fits"),
                            (("26.1.1.1", -600.0), "its clock is -600 s from ours")):
            pretending.said = said
            assert words in "\n".join(str(line) for line in stores.judge(pretending, settings) if line.level == "BAD")
        pretending.said = None
        for forbidden in ("ALTER", "INSERT", "CREATE"):
            pretending.forbids = forbidden
            assert f"our user may not {forbidden} in otel" in "\n".join(map(str, stores.judge(pretending, settings)))
        assert opened.query("SELECT count() FROM otel.cutaway_migrations").rows == before
        opened.close()
    assert "cannot be reached" in wrong(settings)


@pytest.mark.slow
def test_a_running_collector_is_asked(tmp_path: Path) -> None:
    """Found by its directory alone; ready is fine, and so are its ports."""
    data = tmp_path / "data"
    with Serving(data) as served:
        settings = Settings(data=str(data), **served_at(served))
        said = "\n".join(map(str, examined(settings)))
        assert wrong(settings) == ""
        assert "is the running collector's" in said
        assert f"the one at http://{served.addresses['ui']} is ready" in said


def served_at(served: Serving) -> dict[str, str]:
    return {name: served.addresses[name] for name in ("otlp_grpc", "otlp_http", "ui")}


def test_a_directory_whose_owner_does_not_answer(tmp_path: Path) -> None:
    """A process holds it and nobody listens: say so."""
    settings = healthy(tmp_path)
    opened = open_store(settings)
    try:
        running.write_addresses(settings, {"ui": "127.0.0.1:1"})
        assert f"a process owns {settings.data}" in wrong(settings)
    finally:
        opened.close()


def test_a_collector_that_is_not_ready(tmp_path: Path) -> None:
    """Its own reasons are passed on."""
    settings = healthy(tmp_path)
    opened = open_store(settings)
    try:
        from cutaway_collector.web import create_app
        from flask_serving import serving

        app = create_app(opened, settings, status=lambda: (False, {"phase": "draining", "reasons": ["the collector is draining"],
                                                                   "dead_letters": 2}))
        with serving(app) as address:
            running.write_addresses(settings, {"ui": str(address).removeprefix("http://").rstrip("/")})
            said = wrong(settings)
    finally:
        opened.close()
    assert "is not ready (status 503): the collector is draining" in said
    assert "2 dead letters" in said


def test_a_check_that_fails_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, and the rest is still looked at."""
    def broken(settings: Settings) -> Any:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(doctor, "CHECKS", (broken, machine.versions))
    assert doctor.run(healthy(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "the check itself failed (RuntimeError)" in printed
    assert "ok   packages" in printed
