"""One request on disk: the record format of a spool segment, its checksum, and a scan that stops where trust ends.

    magic 4 | sequence u64 | received_ns u64 | body length u32 | body CRC32 u32 | encoding u8 | tenant length u16 | header CRC32 u32
    tenant (UTF-8) | payload as received, uncompressed

All little-endian. Not a log library: it knows nothing of files being open, of batches or of rows.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import xxhash

from cutaway_collector.contracts import Encoding

MAGIC: Final = b"CTW1"
_HEADER: Final = struct.Struct("<4sQQIIBH")
_CHECK: Final = struct.Struct("<I")
HEADER_BYTES: Final = _HEADER.size + _CHECK.size
_ENCODINGS: Final[tuple[Encoding, ...]] = ("protobuf", "json", "logs/protobuf", "logs/json", "scores/json")
"""A record holds the place in this line: new ones join its end."""
_KEY: Final = struct.Struct("<BH")
KEY_BYTES: Final = 16


class CorruptRecord(Exception):
    """The bytes at this place are not a whole record: a torn tail, or a disk that changed them."""


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
    """CRC32 of what follows the header; computed apart, so that it needs no lock."""
    return zlib.crc32(payload, zlib.crc32(tenant))


def header(sequence: int, received_ns: int, encoding: Encoding, tenant: bytes, payload_bytes: int, checksum: int) -> bytes:
    """The header of a record, with its own checksum."""
    body_bytes = len(tenant) + payload_bytes
    head = _HEADER.pack(MAGIC, sequence, received_ns, body_bytes, checksum, _ENCODINGS.index(encoding), len(tenant))
    return head + _CHECK.pack(zlib.crc32(head))


def read_record(file: BinaryIO, bytes_left: int) -> Record:
    """The record at the file's position. Raises CorruptRecord when fewer than `bytes_left` bytes make one."""
    head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise CorruptRecord("the header is cut short")
    magic, sequence, received_ns, body_bytes, checksum, encoding, tenant_bytes = _HEADER.unpack_from(head)
    if magic != MAGIC or _CHECK.unpack_from(head, _HEADER.size)[0] != zlib.crc32(head[: _HEADER.size]):
        raise CorruptRecord("the header is damaged")
    if body_bytes > bytes_left - HEADER_BYTES or tenant_bytes > body_bytes or encoding >= len(_ENCODINGS):
        raise CorruptRecord("the body is cut short")
    body = file.read(body_bytes)
    if len(body) < body_bytes or zlib.crc32(body) != checksum:
        raise CorruptRecord("the body is damaged")
    return Record(sequence, received_ns, _ENCODINGS[encoding], body[:tenant_bytes].decode(), body[tenant_bytes:])


@dataclass(slots=True)
class Scan:
    """The good prefix of a segment: where each record begins, its number and key, and where trust ends ("" when at the end)."""

    offsets: array[int]
    sequences: array[int]
    keys: bytearray
    good_bytes: int
    damage: str


def scan(path: Path, seed: int) -> Scan:
    """Reads a segment from its start to its end or to the first bytes that are no record. Raises OSError."""
    found = Scan(array("Q"), array("Q"), bytearray(), 0, "")
    size = path.stat().st_size
    with path.open("rb") as file:
        while found.good_bytes < size:
            try:
                record = read_record(file, size - found.good_bytes)
                if found.sequences and record.sequence <= found.sequences[-1]:
                    raise CorruptRecord("the sequence numbers do not rise")
            except CorruptRecord as error:
                found.damage = str(error)
                break
            found.offsets.append(found.good_bytes)
            found.sequences.append(record.sequence)
            found.keys += request_key(record.payload, record.encoding, record.tenant, seed)
            found.good_bytes = file.tell()
    return found
