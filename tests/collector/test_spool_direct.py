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
from cutaway_collector.spool.records import HEADER_BYTES, body_checksum, header

MIB = 1024 * 1024
SIZES = (10, direct.BYTES_MIN, 5, direct.BYTES_MIN + 1, 3 * MIB + 4095, direct.BYTES_MIN - 1, 2 * MIB - HEADER_BYTES)
"""Of requests one after another: small and large, ending and beginning anywhere in a block."""


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


def _expected() -> bytes:
    return b"".join(header(number, 7, "protobuf", b"", len(payload), body_checksum(b"", payload)) + payload
                    for number, payload in enumerate(_payloads(), 1))


def test_the_file_is_the_same_whatever_way_it_is_written(tmp_path: Path, written: list[int]) -> None:
    """Records stand one behind the other, without a gap, as small ones do; the large ones go past the cache in whole blocks."""
    assert _kept(tmp_path) == _expected()
    if not written:
        pytest.skip("this file system has no writes past the cache")
    assert sum(written) > 5 * MIB
    assert {count % direct.BLOCK for count in written} == {0}


@pytest.mark.parametrize("refused", ["open", "write"])
def test_a_file_system_without_such_writes_gets_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """Where they are refused, at once or only when tried, everything goes through the cache, and to the same places."""
    open_, write = os.open, os.pwrite

    def no_open(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return open_(path, flags, *mode)

    def no_write(handle: int, data: bytes, offset: int) -> int:
        if len(data) % direct.BLOCK == 0:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(handle, data, offset)

    monkeypatch.setattr(os, *(("open", no_open) if refused == "open" else ("pwrite", no_write)))
    assert _kept(tmp_path) == _expected()


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
    for size in (direct.BLOCK, MIB, MIB + direct.BLOCK, len(whole) // direct.BLOCK * direct.BLOCK, len(whole) - 1):
        segment.write_bytes(whole[:size])
        spool = Spool(tmp_path, bytes_max=64 * MIB)
        assert list(spool.loose()) == [first]
        spool.close()
        for index in (tmp_path / "segments").glob("*.idx"):
            index.unlink()
