"""Dead letters as rows of cutaway_dead_letters. Not the payloads: those lie in the spool's dead folder."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from cutaway_collector.blocks import Block, Strings
from cutaway_collector.columns import DEAD_LETTERS
from cutaway_collector.spool import Letter


def letter_block(letters: Sequence[Letter]) -> Block:
    """One row a letter, in the table's column order."""
    count = len(letters)
    return Block(DEAD_LETTERS.name, count, {
        "TenantId": Strings.of([letter.tenant for letter in letters]),
        "IngestedAt": np.full(count, time.time_ns() // 1_000_000, np.int64),
        "ReceivedAt": np.array([letter.received_ns // 1_000_000 for letter in letters], np.int64),
        "Session": Strings.of([letter.session for letter in letters]),
        "Sequence": np.array([letter.sequence for letter in letters], np.uint64),
        "Encoding": Strings.of([letter.encoding for letter in letters]),
        "Reason": Strings.of([letter.reason for letter in letters]),
        "Spans": np.array([letter.spans for letter in letters], np.uint64),
        "Bytes": np.array([letter.nbytes for letter in letters], np.uint64),
    })
