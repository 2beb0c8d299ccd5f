"""The index of closed segments: a start reads it, not the records, and trusts it no further than it can be checked (fault 2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway_collector.spool import CorruptRecord, Spool, segments
from cutaway_collector.spool.index import index_path

MIB = 1024 * 1024


@pytest.fixture
def written(tmp_path: Path) -> dict[int, bytes]:
    """Number -> payload of a closed spool of several segments in `tmp_path`."""
    spool = Spool(tmp_path, bytes_max=MIB, segment_bytes=4096)
    payloads = {}
    for number in range(60):
        payload = f"{number}".encode() * 150
        payloads[spool.append(payload, "protobuf", "", 1)] = payload
    spool.close()
    return payloads


def reopened(folder: Path) -> Spool:
    return Spool(folder, bytes_max=MIB, segment_bytes=4096)


def logs(folder: Path) -> list[Path]:
    return sorted((folder / "segments").glob("*.log"))


def test_a_start_reads_only_the_last_segment(tmp_path: Path, written: dict[int, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """However much the spool holds: after a clean end nothing is read, after a crash the segment it left open."""
    read: list[Path] = []
    scan = segments.scan

    def watched(path: Path, seed: int) -> object:
        read.append(path)
        return scan(path, seed)

    monkeypatch.setattr(segments, "scan", watched)
    reopened(tmp_path).close()
    assert read == []
    index_path(logs(tmp_path)[-1]).unlink()  # a crash leaves none
    spool = reopened(tmp_path)
    assert read == logs(tmp_path)[-1:]
    assert len(logs(tmp_path)) > 3
    assert {number: spool.read(number).payload for number in spool.loose()} == written
    spool.close()


@pytest.mark.parametrize("damage", [
    lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:], lambda raw: raw + raw,
], ids=["cut", "empty", "flipped", "doubled"])
def test_a_damaged_index_is_made_again(tmp_path: Path, written: dict[int, bytes], damage: Callable[[bytes], bytes]) -> None:
    """The segment is read instead, nothing is lost, and the next start has an index again."""
    index = index_path(logs(tmp_path)[0])
    sound = index.read_bytes()
    index.write_bytes(damage(sound))
    spool = reopened(tmp_path)
    assert list(spool.loose()) == list(written)
    spool.close()
    assert index.read_bytes() == sound


def test_segments_without_an_index_are_read(tmp_path: Path, written: dict[int, bytes]) -> None:
    """A spool of a version that wrote none, or of a process that was killed (fault 21)."""
    for index in (tmp_path / "segments").glob("*.idx"):
        index.unlink()
    spool = reopened(tmp_path)
    assert {number: spool.read(number).payload for number in spool.loose()} == written
    spool.close()


def test_a_closed_segment_cut_short_is_noticed(tmp_path: Path, written: dict[int, bytes]) -> None:
    """Its index no longer fits it: the good prefix is kept, the rest set aside, later segments are unharmed."""
    first = logs(tmp_path)[0]
    os.truncate(first, first.stat().st_size - 10)
    spool = reopened(tmp_path)
    offered = list(spool.loose())
    assert len(offered) == len(written) - 1
    assert all(spool.read(number).payload == written[number] for number in offered)
    spool.close()
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_a_bit_flipped_in_a_closed_segment_costs_one_record(tmp_path: Path, written: dict[int, bytes]) -> None:
    """The checksum is looked at when the record is read, and its neighbours are read as they were written."""
    first = logs(tmp_path)[0]
    raw = bytearray(first.read_bytes())
    raw[600] ^= 1
    first.write_bytes(raw)
    spool = reopened(tmp_path)
    damaged = []
    for number in spool.loose():
        try:
            assert spool.read(number).payload == written[number]
        except CorruptRecord:
            damaged.append(number)
    assert len(damaged) == 1
    spool.close()


def test_indexes_go_with_their_segments(tmp_path: Path, written: dict[int, bytes]) -> None:
    """Nothing is left of finished segments, nor of an index whose segment is gone."""
    stray = tmp_path / "segments" / f"{9:020d}.idx"
    stray.write_bytes(b"stray")
    spool = reopened(tmp_path)
    spool.finish(spool.freeze(list(written)))
    spool.close()
    assert list((tmp_path / "segments").iterdir()) == []
