"""What a span may hold before it is turned away alone. Not settings: the wiring copies the settings of the same names in here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """attribute_depth_max: arrays and maps inside one another in one value (1 is a flat array); attributes_max: a span, resource,
    event or link; sequence_tokens_max: tokens a sequence; sequences_max: sequences a span (stored as UInt16);
    working_bytes_max: memory of the rows of one request, and of the tables in between (minimal spans cost hundreds of bytes each).
    """

    attribute_depth_max: int = 32
    attributes_max: int = 4096
    sequence_tokens_max: int = 1_000_000
    sequences_max: int = 65_535
    working_bytes_max: int = 256 * 1024 * 1024
