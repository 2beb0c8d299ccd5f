"""One request on disk: the record format of a spool segment, its checksum, and a scan that stops where trust ends.

    magic 4 | sequence u64 | received_ns u64 | body length u32 | body CRC32 u32 | encoding u8 | tenant length u16 | header CRC32 u32
    tenant (UTF-8) | payload as received, uncompressed

All little-endian. Behind a record of the second magic, zeros or not, the rest of its last block is no one's: the next record begins
with a block (direct.py says why). Not a log library: it knows nothing of files being open, of batches or of rows.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import xxhash
from isal import isal_zlib

from cutaway_collector.contracts import Encoding

MAGIC: Final = b"CTW1"
FILLED: Final = b"CTW2"
"""Instead of MAGIC: the next record begins with the next block of the file."""
BLOCK: Final = 4096
"""Of a file: no disk asks for more, where whole ones are asked for."""
_HEADER: Final = struct.Struct("<4sQQIIBH")
_CHECK: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CHECK.size
_ENCODINGS: Final[tuple[Encoding, ...]] = ("protobuf", "json", "logs/protobuf", "logs/json", "scores/json")
"""A record holds the place in this line: new ones join its end."""
_KEY: Final = struct.Struct("<BH")
KEY_BYTES: Final = 16


class CorruptRecord(Exception):
    """The bytes at this place are not a whole record: a torn tail, or a disk that changed them."""


class CutShort(CorruptRecord):
    """The file ends before the record does."""


class _Head(NamedTuple):
    """A record's header, without what only proves that it is one."""

    magic: bytes
    sequence: int
    received_ns: int
    body_bytes: int
    checksum: int
    encoding: int
    tenant_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """One acknowledged request. sequence: its number in the spool; received_ns: since 1970."""

    sequence: int
    received_ns: int
    encoding: Encoding
    tenant: str
    payload: bytes


def request_key(payload: bytes, encoding: Encoding, tenant: str, seed: int) -> bytes:
    """What tells one request from another: 16 bytes, equal for equal (tenant, encoding, payload). seed: 0 to 2**64 - 1, secret.

    XXH3 (https://github.com/Cyan4973/xxHash) is not cryptographic: the seed keeps senders from making two requests that collide.
    """
    raw_tenant = tenant.encode()
    digest = xxhash.xxh3_128(_KEY.pack(_ENCODINGS.index(encoding), len(raw_tenant)) + raw_tenant, seed=seed)
    digest.update(payload)
    return digest.digest()


def body_checksum(tenant: bytes, payload: bytes) -> int:
    """CRC32 of what follows the header; computed apart, so that it needs no lock. isal gives zlib's, three times as fast."""
    return isal_zlib.crc32(payload, isal_zlib.crc32(tenant))


def header(
    sequence: int, received_ns: int, encoding: Encoding, tenant: bytes, payload_bytes: int, checksum: int, *, filled: bool = False
) -> bytes:
    """The header of a record, with its own checksum. filled: the record's last block is its own."""
    body_bytes = len(tenant) + payload_bytes
    magic = FILLED if filled else MAGIC
    head = _HEADER.pack(magic, sequence, received_ns, body_bytes, checksum, _ENCODINGS.index(encoding), len(tenant))
    return head + _CHECK.pack(zlib.crc32(head))


def read_record(file: BinaryIO, bytes_left: int) -> Record:
    """The record at the file's position. Raises CorruptRecord when fewer than `bytes_left` bytes make one."""
    return _read_body(file, _read_head(file, bytes_left))


def _read_head(file: BinaryIO, bytes_left: int) -> _Head:
    raw = file.read(HEADER_BYTES)
    if len(raw) < HEADER_BYTES:
        raise CutShort("the header is cut short")
    head = _Head(*_HEADER.unpack_from(raw))
    if head.magic not in (MAGIC, FILLED) or _CHECK.unpack_from(raw, _HEADER.size)[0] != zlib.crc32(raw[: _HEADER.size]):
        raise CorruptRecord("the header is damaged")
    if head.body_bytes > bytes_left - HEADER_BYTES:
        raise CutShort("the body is cut short")
    return head


def _read_body(file: BinaryIO, head: _Head) -> Record:
    body = file.read(head.body_bytes)
    if len(body) < head.body_bytes or isal_zlib.crc32(body) != head.checksum:
        raise CorruptRecord("the body is damaged")
    if head.encoding >= len(_ENCODINGS):
        raise CorruptRecord("a newer version of cutaway wrote it, in an encoding that this one does not know")
    raw_tenant = body[: head.tenant_bytes]
    return Record(head.sequence, head.received_ns, _ENCODINGS[head.encoding], raw_tenant.decode(), body[head.tenant_bytes :])


@dataclass(slots=True)
class Scan:
    """What a segment holds: where each record begins, its number and key, up to `good_bytes`, where trust ends.

    damage: why it ends before the file does, "" when it does not. torn: what follows `good_bytes` is what a write leaves that was
    never finished, and so never acknowledged. unreadable: [start, stop) of records whose head is whole and whose body is not: they
    have a number and stand in the arrays, for reading them tells what is wrong.
    """

    offsets: array[int]
    sequences: array[int]
    keys: bytearray
    good_bytes: int
    damage: str = ""
    torn: bool = False
    unreadable: list[tuple[int, int]] = field(default_factory=list)

    def add(self, offset: int, sequence: int, key: bytes = bytes(KEY_BYTES)) -> None:
        """One more record; the key of one that cannot be read is all zeros, and never that of a request."""
        self.offsets.append(offset)
        self.sequences.append(sequence)
        self.keys += key


def scan(path: Path, seed: int) -> Scan:
    """Reads a segment from its start to its end, or to the first bytes that are no record's head: where the next record begins is
    then unknown, and what looks like one further on may be part of what a sender wrote. Raises OSError.
    """
    found = Scan(array("Q"), array("Q"), bytearray(), 0)
    size = path.stat().st_size
    with path.open("rb") as file:
        while found.good_bytes < size:
            try:
                head = _read_head(file, size - found.good_bytes)
                if found.sequences and head.sequence <= found.sequences[-1]:
                    raise CorruptRecord("the sequence numbers do not rise")
            except CorruptRecord as error:
                found.damage = str(error)
                found.torn = isinstance(error, CutShort) or _only_zeros(file, found.good_bytes)
                break
            end = found.good_bytes + HEADER_BYTES + head.body_bytes
            if head.magic == FILLED:
                end = min(size, -(-end // BLOCK) * BLOCK)
            try:
                record = _read_body(file, head)
                found.add(found.good_bytes, head.sequence, request_key(record.payload, record.encoding, record.tenant, seed))
            except CorruptRecord:
                found.add(found.good_bytes, head.sequence)
                found.unreadable.append((found.good_bytes, end))
            file.seek(end)
            found.good_bytes = end
    return found


def _only_zeros(file: BinaryIO, start: int) -> bool:
    """Whether the file goes on with nothing but zeros, as after a power cut: its length was on disk, its contents were not."""
    file.seek(start)
    while piece := file.read(1 << 20):
        if piece.count(0) < len(piece):
            return False
    return True
