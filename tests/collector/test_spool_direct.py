"""Large requests are written past the page cache: the file holds the same bytes, and what fails or is cut short harms nothing."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cutaway_collector.errors import Overloaded
from cutaway_collector.spool import Spool, direct
from cutaway_collector.spool.records import BLOCK, HEADER_BYTES, body_checksum, header

MIB = 1024 * 1024
LEAST = direct.BYTES_MIN - HEADER_BYTES
SIZES = (10, LEAST, 5, LEAST + 1, LEAST + 1, 3 * MIB + 4095, LEAST - 1, 2 * MIB - HEADER_BYTES, 7)
"""Of requests one after another: small and large, ending and beginning anywhere in a block, or with one."""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each write past the cache, in a file system that has such writes."""
    counts: list[int] = []
    write = os.pwrite

    def counted(handle: int, data: bytes, offset: int) -> int:
        counts.append(write(handle, data, offset))
        return counts[-1]

    monkeypatch.setattr(os, "pwrite", counted)
    return counts


def _payloads() -> list[bytes]:
    chance = random.Random(7)
    return [chance.randbytes(size) for size in SIZES]


def _kept(folder: Path) -> bytes:
    """What the segment holds after the sizes above were appended to an empty spool."""
    spool = Spool(folder, bytes_max=64 * MIB)
    numbers = [spool.append(payload, "protobuf", "", 7) for payload in _payloads()]
    assert [spool.read(number).payload for number in numbers] == _payloads()
    spool.close()
    return next((folder / "segments").glob("*.log")).read_bytes()


def _record(number: int, payload: bytes, *, filled: bool = False) -> bytes:
    return header(number, 7, "protobuf", b"", len(payload), body_checksum(b"", payload), filled=filled) + payload


def _expected(filled: int = len(SIZES)) -> bytes:
    """Small records end where they end; large ones, of the first `filled`, take the rest of their last block, if there is one."""
    file = b""
    for number, payload in enumerate(_payloads(), 1):
        large = len(payload) >= LEAST and number <= filled
        lacks = -(len(file) + HEADER_BYTES + len(payload)) % BLOCK if large else 0
        file += _record(number, payload, filled=lacks > 0) + bytes(lacks)
    return file


def test_large_records_go_past_the_cache_and_end_with_a_block(tmp_path: Path, written: list[int]) -> None:
    """Records stand one behind the other; behind a large one the rest of its last block is zeros. Only whole blocks are written."""
    assert _kept(tmp_path) == _expected()
    if not written:
        pytest.skip("this file system has no writes past the cache")
    assert sum(written) > 5 * MIB
    assert {count % BLOCK for count in written} == {0}


def test_a_start_without_indexes_finds_every_record(tmp_path: Path) -> None:
    """What is between two records is passed over, whatever a disk has made of it."""
    file = bytearray(_kept(tmp_path))
    second = HEADER_BYTES + SIZES[0] + HEADER_BYTES + SIZES[1]
    assert file[second] == 0
    file[second] = 1
    next((tmp_path / "segments").glob("*.log")).write_bytes(file)
    next((tmp_path / "segments").glob("*.idx")).unlink()
    spool = Spool(tmp_path, bytes_max=64 * MIB)
    assert [spool.read(number).payload for number in spool.loose()] == _payloads()
    assert not list((tmp_path / "quarantine").iterdir())
    spool.close()


def test_a_spool_without_filled_blocks_is_read(tmp_path: Path) -> None:
    """One of an earlier version, whose large records stand one right behind the other."""
    Spool(tmp_path, bytes_max=64 * MIB).close()
    (tmp_path / "segments" / f"{1:020d}.log").write_bytes(b"".join(_record(at, one) for at, one in enumerate(_payloads(), 1)))
    spool = Spool(tmp_path, bytes_max=64 * MIB)
    assert [spool.read(number).payload for number in spool.loose()] == _payloads()
    spool.close()


def test_the_limit_counts_filled_blocks(tmp_path: Path) -> None:
    """The segments together never outgrow bytes_max."""
    spool = Spool(tmp_path, bytes_max=2 * MIB)
    with pytest.raises(Overloaded, match="spool_bytes_max"):
        spool.append(bytes(2 * MIB - HEADER_BYTES - 1), "protobuf", "", 1)
    for _ in range(2 * MIB // (direct.BYTES_MIN + BLOCK)):
        spool.append(bytes(LEAST + 1), "protobuf", "", 1)
    with pytest.raises(Overloaded, match="spool_bytes_max"):
        spool.append(bytes(LEAST + 1), "protobuf", "", 1)
    assert sum(path.stat().st_size for path in (tmp_path / "segments").glob("*.log")) == spool.size_bytes <= 2 * MIB
    spool.close()


@pytest.mark.parametrize("refused", ["open", "write"])
def test_a_file_system_without_such_writes_gets_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """Where they are refused, at once or only when tried, everything goes through the cache, with no more blocks filled."""
    open_, write = os.open, os.pwrite

    def no_open(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return open_(path, flags, *mode)

    def no_write(handle: int, data: bytes, offset: int) -> int:
        if len(data) % BLOCK == 0:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(handle, data, offset)

    monkeypatch.setattr(os, *(("open", no_open) if refused == "open" else ("pwrite", no_write)))
    assert _kept(tmp_path) == _expected(filled=0 if refused == "open" else 2)


def test_a_write_that_takes_less_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk did not take at once, not even in whole blocks, is written behind it."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, offset: write(handle, data[: max(512, len(data) // 1024 * 512)], offset))
    assert _kept(tmp_path) == _expected()


def _half(write: Callable[..., int], failure: int) -> Callable[..., int]:
    """A write that fails at the second piece of a request."""
    def failing(handle: int, data: bytes, offset: int) -> int:
        if offset >= MIB:
            raise OSError(failure, os.strerror(failure))
        return write(handle, data, offset)

    return failing


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO])
def test_fault_8_a_disk_that_fails_within_a_large_request_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    """The sender is asked to come back, the next request lies where the failed one began, and a start finds just these."""
    spool = Spool(tmp_path, bytes_max=64 * MIB)
    numbers = [spool.append(b"before", "protobuf", "", 1)]
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", _half(os.pwrite, failure))
        with pytest.raises(Overloaded, match=os.strerror(failure)):
            spool.append(bytes(4 * MIB), "protobuf", "", 1)
    numbers.append(spool.append(bytes(4 * MIB), "protobuf", "", 1))
    spool.close()
    spool = Spool(tmp_path, bytes_max=64 * MIB)
    assert list(spool.loose()) == numbers
    assert spool.read(numbers[0]).payload == b"before"
    assert spool.read(numbers[1]).payload == bytes(4 * MIB)
    spool.close()


def test_fault_2_a_large_request_that_was_cut_short_is_no_loss(tmp_path: Path) -> None:
    """Wherever a crash ends its write, the requests before it are there and nobody is told that one was lost."""
    spool = Spool(tmp_path, bytes_max=64 * MIB)
    first = spool.append(b"before", "protobuf", "", 1)
    spool.append(bytes(range(256)) * (3 * MIB // 256), "protobuf", "", 1)
    spool.close()
    for index in (tmp_path / "segments").glob("*.idx"):
        index.unlink()
    segment = next((tmp_path / "segments").glob("*.log"))
    whole = segment.read_bytes()
    end = 2 * HEADER_BYTES + len(b"before") + 3 * MIB
    assert end < len(whole)
    for size in (BLOCK, MIB, MIB + BLOCK, end - 1, end, end + 1):
        segment.write_bytes(whole[:size])
        spool = Spool(tmp_path, bytes_max=64 * MIB)
        assert list(spool.loose()) == ([first] if size < end else [first, first + 1])
        assert not list((tmp_path / "dead").iterdir())
        spool.close()
        for index in (tmp_path / "segments").glob("*.idx"):
            index.unlink()
