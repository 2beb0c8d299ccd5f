"""The spool: what it has acknowledged is there after a crash, what it cannot trust is set aside, and it keeps within its limits."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway_collector.errors import DataDirectoryBusy, Overloaded
from cutaway_collector.settings import Settings
from cutaway_collector.spool import CorruptRecord, Spool, records
from cutaway_collector.spool.ledger import from_ranges, to_ranges
from cutaway_collector.spool.records import HEADER_BYTES
from store_helpers import wait_until

MIB = 1024 * 1024


def fill(spool: Spool, count: int, size: int = 100) -> list[int]:
    return [spool.append(bytes([number % 251]) * size, "protobuf", f"team-{number}", 1000 + number) for number in range(count)]


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "segments").glob("*.log"))


def test_a_record_comes_back_as_it_went(tmp_path: Path) -> None:
    """Payload, encoding, tenant and time, by sequence number, now and after a restart."""
    spool = Spool(tmp_path, bytes_max=MIB)
    first, second = spool.append(b"one", "json", "tenänt", 7), spool.append(b"", "protobuf", "", 8)
    spool.close()
    spool = Spool(tmp_path, bytes_max=MIB)
    record = spool.read(first)
    assert (record.payload, record.encoding, record.tenant, record.received_ns) == (b"one", "json", "tenänt", 7)
    assert spool.read(second).payload == b""
    assert list(spool.loose()) == [first, second]
    spool.close()


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """Sequence numbers rise over restarts, also when every record is gone: a token built on them cannot come back."""
    seen: list[int] = []
    for _ in range(4):
        spool = Spool(tmp_path, bytes_max=MIB)
        numbers = fill(spool, 3)
        spool.finish(spool.freeze(numbers))
        seen += numbers
        spool.close()
    assert seen == sorted(set(seen))


def test_tokens_differ_between_starts(tmp_path: Path) -> None:
    """A directory restored from a backup repeats its numbers; its tokens must differ all the same, or new rows would be dropped."""
    tokens = set()
    for copy in ("a", "b"):
        spool = Spool(tmp_path / copy, bytes_max=MIB)
        tokens.add(spool.freeze(fill(spool, 2)).token)
        spool.close()
    assert len(tokens) == 2


def test_a_frozen_batch_keeps_its_token(tmp_path: Path) -> None:
    """The next process finds the batch, its records and its token; the other records are loose."""
    spool = Spool(tmp_path, bytes_max=MIB)
    numbers = fill(spool, 6)
    batch = spool.freeze([numbers[4], numbers[1], numbers[0]])
    spool.close()
    spool = Spool(tmp_path, bytes_max=MIB)
    assert spool.frozen() == [batch]
    assert batch.sequences == (numbers[0], numbers[1], numbers[4])
    assert list(spool.loose()) == [numbers[2], numbers[3], numbers[5]]
    spool.close()


def test_finished_records_are_not_offered_again(tmp_path: Path) -> None:
    """Done is done, also when their segment still holds others."""
    spool = Spool(tmp_path, bytes_max=MIB)
    numbers = fill(spool, 4)
    spool.finish(spool.freeze(numbers[1:3]))
    spool.close()
    spool = Spool(tmp_path, bytes_max=MIB)
    assert spool.frozen() == []
    assert list(spool.loose()) == [numbers[0], numbers[3]]
    spool.close()


def test_finished_segments_are_deleted(tmp_path: Path) -> None:
    """Disk is given back segment by segment, and the ledger forgets with it."""
    spool = Spool(tmp_path, bytes_max=MIB, segment_bytes=4096)
    numbers = fill(spool, 100, 300)
    before = len(segments(tmp_path))
    assert before > 5
    for number in numbers:
        spool.finish(spool.freeze([number]))
    assert len(segments(tmp_path)) <= 1
    assert spool.size_bytes < 4096
    spool.close()
    with sqlite3.connect(tmp_path / "ledger.db") as ledger:
        assert ledger.execute("SELECT count(*) FROM batches").fetchone()[0] <= 15
    ledger.close()


@pytest.mark.parametrize("cut", [1, 3, 50, 99, 100, 130])
def test_a_torn_tail_costs_only_the_record_it_tears(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    """A file cut short in its last record: the records before it are kept, the rest is set aside and logged."""
    spool = Spool(tmp_path, bytes_max=MIB)
    numbers = fill(spool, 3)
    spool.close()
    crashed(tmp_path)
    path = segments(tmp_path)[0]
    os.truncate(path, path.stat().st_size - cut)
    spool = Spool(tmp_path, bytes_max=MIB)
    assert list(spool.loose()) == numbers[:2]
    assert spool.read(numbers[1]).tenant == "team-1"
    assert "were moved to" in caplog.text
    assert fill(spool, 1)[0] > numbers[1]
    spool.close()
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def crashed(folder: Path) -> None:
    """What a kill leaves of a spool that was closed: segments without an index."""
    for index in (folder / "segments").glob("*.idx"):
        index.unlink()


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_fault_2_a_flipped_bit_is_never_passed_over(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    """Wherever the disk changes one bit, what is offered is what was written or is told to be unreadable, and nothing is silent.

    In a body it costs that record, in a head that one and those behind it, for which one number stands.
    """
    folder = tmp_path_factory.mktemp("flip")
    spool = Spool(folder, bytes_max=MIB)
    written = {number: spool.read(number) for number in fill(spool, 4)}
    spool.close()
    crashed(folder)
    path = segments(folder)[0]
    raw = bytearray(path.read_bytes())
    at %= len(raw)
    raw[at] ^= 1 << bit
    path.write_bytes(raw)
    for _ in range(2):  # the next start, too, if the first one died at once
        spool = Spool(folder, bytes_max=MIB)
        offered = list(spool.loose())
        readable = []
        for number in offered:
            try:
                assert spool.read(number) == written[number]
                readable.append(number)
            except CorruptRecord:
                continue
        assert len(offered) == len(readable) + 1
        record_bytes = len(raw) // 4
        damaged = list(written)[at // record_bytes]
        in_head = at % record_bytes < HEADER_BYTES
        assert readable == [number for number in written if (number < damaged if in_head else number != damaged)]
        assert damaged in offered
        spool.close()
        if not in_head:
            crashed(folder)
    assert len(list((folder / "quarantine").iterdir())) == 1


def test_fault_2_zeros_after_a_power_cut_are_no_loss(tmp_path: Path) -> None:
    """A file's length was on disk and its last blocks were not: nothing acknowledged is missing, and nothing is made up."""
    spool = Spool(tmp_path, bytes_max=MIB)
    numbers = fill(spool, 3)
    spool.close()
    crashed(tmp_path)
    with segments(tmp_path)[0].open("ab") as file:
        file.write(bytes(5000))
    spool = Spool(tmp_path, bytes_max=MIB)
    assert list(spool.loose()) == numbers
    spool.close()


def test_fault_2_no_record_is_found_inside_another(tmp_path: Path) -> None:
    """A sender can write what looks like a record of another tenant: behind a damaged head nothing is taken for one."""
    decoy = tmp_path / "decoy"
    spool = Spool(decoy, bytes_max=MIB)
    fill(spool, 3)
    spool.append(b"forged", "protobuf", "somebody-else", 1)
    spool.close()
    spool = Spool(tmp_path / "real", bytes_max=MIB)
    number = spool.append(segments(decoy)[0].read_bytes(), "protobuf", "sender", 1)
    spool.close()
    crashed(tmp_path / "real")
    path = segments(tmp_path / "real")[0]
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.write_bytes(raw)
    spool = Spool(tmp_path / "real", bytes_max=MIB)
    assert list(spool.loose()) == [number]
    with pytest.raises(CorruptRecord):
        spool.read(number)
    spool.close()


def test_fault_21_a_record_of_a_newer_version_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a downgrade an encoding may be unknown: that is told, its neighbours are offered."""
    monkeypatch.setattr(records, "_ENCODINGS", (*records._ENCODINGS, "newer"))
    spool = Spool(tmp_path, bytes_max=MIB)
    numbers = [*fill(spool, 1), spool.append(b"x", "newer", "", 1), *fill(spool, 1)]  # type: ignore[arg-type]  # not one of ours
    spool.close()
    crashed(tmp_path)
    monkeypatch.undo()
    spool = Spool(tmp_path, bytes_max=MIB)
    assert list(spool.loose()) == numbers
    with pytest.raises(CorruptRecord, match="newer version"):
        spool.read(numbers[1])
    assert spool.read(numbers[2]).payload
    spool.close()


def test_the_quarantine_is_bounded_in_bytes_and_days(tmp_path: Path) -> None:
    """It holds prompts as everything else does: the oldest pieces go, the newest one stays whatever its size."""
    place = tmp_path / "quarantine"
    Spool(tmp_path, bytes_max=MIB).close()
    for age_s, name in enumerate(("new.bin", "big.bin", "old.bin")):
        (place / name).write_bytes(bytes(1000))
        os.utime(place / name, (time.time() - age_s * 40,) * 2)
    Spool(tmp_path, bytes_max=MIB, dead_s_max=60).close()
    assert sorted(path.name for path in place.iterdir()) == ["big.bin", "new.bin"]
    Spool(tmp_path, bytes_max=MIB, dead_bytes_max=10).close()
    assert [path.name for path in place.iterdir()] == ["new.bin"]


def test_a_record_damaged_while_open_is_refused(tmp_path: Path) -> None:
    """Reading checks again: damage after the start is noticed."""
    spool = Spool(tmp_path, bytes_max=MIB)
    number = fill(spool, 1)[0]
    path = segments(tmp_path)[0]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptRecord):
        spool.read(number)
    spool.close()


_FULL = """
import resource, signal, sys
from cutaway_collector.spool import Spool
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    Spool(sys.argv[1], bytes_max=2**20)
except OSError as error:
    print(error)
"""


def test_fault_8_a_disk_that_is_full_at_the_start_costs_no_ledger(tmp_path: Path) -> None:
    """Nothing can be written when the spool is opened: that is said, and the next start finds the batch and its token again."""
    spool = Spool(tmp_path, bytes_max=MIB)
    batch = spool.freeze(fill(spool, 3))
    spool.close()
    said = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "ledger.db cannot be opened" in said.stdout, said
    assert not list((tmp_path / "quarantine").iterdir())
    spool = Spool(tmp_path, bytes_max=MIB)
    assert spool.frozen() == [batch]
    spool.close()


def test_a_damaged_ledger_does_not_stop_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The ledger is set aside, the records are offered again, and the log says what that means."""
    spool = Spool(tmp_path, bytes_max=MIB)
    numbers = fill(spool, 2)
    spool.freeze(numbers)
    spool.close()
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 1000)
    spool = Spool(tmp_path, bytes_max=MIB)
    assert list(spool.loose()) == numbers
    assert "may be stored twice" in caplog.text
    spool.close()


def test_the_limit_refuses_and_names_itself(tmp_path: Path) -> None:
    """At spool_bytes_max a request is refused as a whole; when records are finished there is room again."""
    spool = Spool(tmp_path, bytes_max=64 * 1024)
    numbers = fill(spool, 6, 10_000)
    with pytest.raises(Overloaded, match="spool_bytes_max"):
        fill(spool, 1, 10_000)
    assert spool.size_bytes <= 64 * 1024
    spool.finish(spool.freeze(numbers))
    fill(spool, 5, 10_000)
    spool.close()


def test_a_full_disk_refuses_and_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a write fails half-way, the sender is asked to come back, and the next record lies where the failed one began."""
    spool = Spool(tmp_path, bytes_max=MIB)
    numbers = fill(spool, 1)
    write = os.pwritev

    def full(handle: int, parts: list[bytes], offset: int) -> int:
        write(handle, [parts[0][:10]], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(Overloaded, match="No space left"):
        fill(spool, 1)
    monkeypatch.undo()
    numbers += fill(spool, 1)
    spool.close()
    spool = Spool(tmp_path, bytes_max=MIB)
    assert list(spool.loose()) == numbers
    spool.close()


def test_a_failed_sync_takes_the_records_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync nobody knows what is on disk: the request is refused, cut from the file, and never offered again."""
    spool = Spool(tmp_path, bytes_max=MIB)
    numbers = fill(spool, 2)

    def broken(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(Overloaded, match="disk reported an error"):
        fill(spool, 1)
    monkeypatch.undo()
    numbers += fill(spool, 2)
    assert numbers == sorted(set(numbers))
    spool.close()
    spool = Spool(tmp_path, bytes_max=MIB)
    assert list(spool.loose()) == numbers
    spool.close()


def _full(*arguments: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_disk_that_fails_is_told_once_and_so_is_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage of the disk is one warning and one line at its end, however many appends it refuses; the reason can be asked."""
    caplog.set_level("INFO", "cutaway_collector")
    spool = Spool(tmp_path, bytes_max=MIB)
    assert spool.failure == ""
    monkeypatch.setattr(os, "pwritev", _full)
    for _ in range(3):
        with pytest.raises(Overloaded):
            fill(spool, 1)
    assert "No space left" in spool.failure
    monkeypatch.undo()
    fill(spool, 1)
    assert spool.failure == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    spool.close()


def test_asking_finds_out_that_the_disk_is_well_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any further append the reason goes away once the disk takes bytes again, and not before; nothing is left behind."""
    spool = Spool(tmp_path, bytes_max=MIB)
    monkeypatch.setattr("cutaway_collector.spool.segments._TRIAL_S", 0.0)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", _full)
        with pytest.raises(Overloaded):
            fill(spool, 1)
        for _ in range(3):
            assert "No space left" in spool.failure
    assert spool.failure == ""
    assert list((tmp_path / "segments").glob("trial")) == []
    spool.close()


def test_concurrent_appends_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is busy, appends gather; one sync then acknowledges them all, and none before it is synced."""
    spool = Spool(tmp_path, bytes_max=MIB)
    sync, busy, go = os.fdatasync, threading.Event(), threading.Event()

    def slow(handle: int) -> None:
        busy.set()
        go.wait()
        sync(handle)

    monkeypatch.setattr(os, "fdatasync", slow)
    done: list[int] = []
    threads = [threading.Thread(target=lambda: done.extend(fill(spool, 1))) for _ in range(9)]
    threads[0].start()
    busy.wait()
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: spool.size_bytes >= 9 * 100)
    assert done == []
    go.set()
    for thread in threads:
        thread.join()
    assert len(set(done)) == 9
    assert spool.syncs == 2
    spool.close()


def test_many_threads_over_many_segments(tmp_path: Path) -> None:
    """Eight writers across rotations: every record is found under the number its writer was given."""
    spool = Spool(tmp_path, bytes_max=8 * MIB, segment_bytes=4096)
    given_out: dict[int, bytes] = {}

    def write(lane: int) -> None:
        for turn in range(40):
            payload = f"{lane}-{turn}".encode() * 20
            given_out[spool.append(payload, "protobuf", "", 1)] = payload

    threads = [threading.Thread(target=write, args=(lane,)) for lane in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spool.close()
    spool = Spool(tmp_path, bytes_max=8 * MIB)
    assert {number: spool.read(number).payload for number in spool.loose()} == given_out
    assert len(given_out) == 320
    spool.close()


def test_one_process_owns_a_spool(tmp_path: Path) -> None:
    """A second process is told whose directory it is; after close it is free."""
    spool = Spool(tmp_path, bytes_max=MIB)
    script = ("import sys\nfrom cutaway_collector.spool import Spool\n"
              "try: Spool(sys.argv[1], bytes_max=1000000)\nexcept Exception as error: print(type(error).__name__, error)")
    said = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert said.startswith("DataDirectoryBusy")
    with pytest.raises(DataDirectoryBusy):
        Spool(tmp_path, bytes_max=MIB)
    spool.close()
    Spool(tmp_path, bytes_max=MIB).close()


def test_prompts_on_disk_are_ours_alone(tmp_path: Path) -> None:
    """Directories 0700, files 0600: segments, ledger, dead letters."""
    spool = Spool(tmp_path / "spool", bytes_max=MIB)
    number = fill(spool, 1)[0]
    spool.freeze([number])
    spool.bury(number, "a reason")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").rglob("*")}
    spool.close()
    assert {mode for name, mode in modes.items() if "." not in name and name != "lock"} == {0o700}
    assert {mode for name, mode in modes.items() if "." in name} == {0o600}


def test_a_closed_spool_takes_nothing(tmp_path: Path) -> None:
    """A request that comes while the collector stops is sent back, not lost."""
    spool = Spool(tmp_path, bytes_max=MIB)
    spool.close()
    with pytest.raises(Overloaded, match="stopping"):
        fill(spool, 1)


@given(st.sets(st.integers(1, 200), min_size=1))
def test_ranges_hold_exactly_their_numbers(numbers: set[int]) -> None:
    """Numbers written as ranges come back as they were."""
    assert [number for part in from_ranges(to_ranges(sorted(numbers))) for number in part] == sorted(numbers)


def test_the_record_layout_is_fixed(tmp_path: Path) -> None:
    """The bytes on disk, spelled out: a spool outlives the version that wrote it."""
    spool = Spool(tmp_path, bytes_max=MIB)
    spool.append(b"payload", "json", "me", 0x0102030405060708)
    path = segments(tmp_path)[0]
    head = (b"CTW1" + (1).to_bytes(8, "little") + 0x0102030405060708.to_bytes(8, "little") + (9).to_bytes(4, "little")
            + zlib.crc32(b"mepayload").to_bytes(4, "little") + b"\x01" + (2).to_bytes(2, "little"))
    assert path.read_bytes() == head + zlib.crc32(head).to_bytes(4, "little") + b"mepayload"
    spool.close()


def test_the_place_follows_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--spool, else a folder of --data, else the user's state directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for settings_, place in ((Settings(spool=str(tmp_path / "s"), data="x"), tmp_path / "s"),
                             (Settings(data=str(tmp_path / "d")), tmp_path / "d" / "spool"),
                             (Settings(clickhouse="http://h"), tmp_path / "state" / "cutaway" / "spool")):
        Spool.of(settings_).close()
        assert (place / "ledger.db").exists()
