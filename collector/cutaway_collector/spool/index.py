"""What a scan of a closed segment found, kept beside it, so that a start need not read the segment again.

    magic 4 | records u32 | segment bytes u64 | seed u64 | sequences u64[n] | offsets u64[n] | keys 16[n] | CRC32 u32

All little-endian. Not a source of truth: one that is missing, damaged, of another length or another seed is made again from the
segment. A body that the disk has changed since is noticed by its checksum when the record is read.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
import zlib
from array import array
from pathlib import Path
from typing import Final

from cutaway_collector.spool.records import KEY_BYTES, Scan

_LOG: Final = logging.getLogger(__name__)
_MAGIC: Final = b"CTI1"
_HEADER: Final = struct.Struct("<4sIQQ")
_CHECK: Final = struct.Struct("<I")
_NUMBER_BYTES: Final = 8


def index_path(segment: Path) -> Path:
    """Where the index of a segment lies."""
    return segment.with_suffix(".idx")


def write_index(segment: Path, found: Scan, seed: int) -> None:
    """Best effort: without an index the next start reads the segment itself."""
    head = _HEADER.pack(_MAGIC, len(found.sequences), found.good_bytes, seed)
    body = b"".join((head, _little(found.sequences), _little(found.offsets), found.keys))
    path = index_path(segment)
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(body)
            file.write(_CHECK.pack(zlib.crc32(body)))
    except OSError as error:
        _LOG.debug("no index for the spool segment %s: %s", segment.name, error.strerror)


def read_index(segment: Path, seed: int) -> Scan | None:
    """The scan of a segment that has not changed its length since, None when only reading it can tell."""
    try:
        raw = index_path(segment).read_bytes()
        size = segment.stat().st_size
    except OSError:
        return None
    end = len(raw) - _CHECK.size
    if end < _HEADER.size or _CHECK.unpack_from(raw, end)[0] != zlib.crc32(raw[:end]):
        return None
    magic, count, good_bytes, sown = _HEADER.unpack_from(raw)
    offsets, keys = _HEADER.size + count * _NUMBER_BYTES, _HEADER.size + count * 2 * _NUMBER_BYTES
    if (magic, good_bytes, sown, keys + count * KEY_BYTES) != (_MAGIC, size, seed, end):
        return None
    return Scan(_numbers(raw[offsets:keys]), _numbers(raw[_HEADER.size : offsets]), bytearray(raw[keys:end]), good_bytes)


def _numbers(raw: bytes) -> array[int]:
    numbers = array("Q", raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _little(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers.tobytes()
