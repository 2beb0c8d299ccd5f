"""Memorisation: does an answer repeat a registered document word for word, and which one?

Not the files of a corpus (see `corpora`) and not a judgement of meaning: a paraphrase does not count. MinHash is kept local: of
every WINDOW shingles in a row the one of least hash stands in the index (winnowing, Schleimer, Wilkerson and Aiken 2003), for a
signature of a whole document cannot see a short passage in it. No text is kept. A passage repeated word for word is always found
from RUN_SEEN words on; its length is understated by at most 2 * (WINDOW - 1) words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from cutaway_collector.windows.answers import Ids, shingles, word_hashes

SHINGLE: Final = 8
"""Words of a shingle: eight in a row are rarely the same by chance."""
WINDOW: Final = 4
"""Shingles of which one is kept: two fifths of them stand in the index."""
RUN_SEEN: Final = SHINGLE + WINDOW - 1
"""Words in a row that cannot be repeated unseen."""
RUN_WORDS: Final = 25
"""Words in a row from which an answer counts as memorised: what a reader would call copied, and three times what chance and common
phrases give. Carlini et al. (2022, arXiv 2202.07646) take 50 tokens, some 38 words."""
PLACES_MAX: Final = 64
"""Places of one shingle that are looked at, the first ones: a passage that stands more often is found in these."""


class Fingerprints(NamedTuple):
    """hashes: uint64 [f]; positions: the first word of each shingle in its text [f], rising; words: how many the text has."""

    hashes: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.uint32]
    words: int


@dataclass(frozen=True, slots=True)
class Index:
    """The fingerprints of a corpus, sorted by hash. hashes: uint64 [f]; owners, positions: uint32, document and word of each [f].

    documents: their names. tenant: whose answers are compared with it, "" for everybody's.
    """

    name: str
    tenant: str
    documents: tuple[str, ...]
    hashes: npt.NDArray[np.uint64]
    owners: npt.NDArray[np.uint32]
    positions: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Match:
    """The longest run of words that an answer shares with a document. words: at least so many; position: its first word there."""

    words: int
    corpus: str
    document: str
    position: int


def winnowed(text: str) -> Fingerprints:
    """A document -> its shingles of least hash, the last of equal ones. Empty for fewer than SHINGLE words."""
    found = word_hashes(text)
    hashes = shingles(found, SHINGLE)
    if not hashes.size:
        return Fingerprints(hashes, np.zeros(0, np.uint32), found.size)
    span = min(WINDOW, hashes.size)
    windows = np.lib.stride_tricks.sliding_window_view(hashes[::-1], span)
    kept = np.unique(hashes.size - 1 - (np.argmin(windows, axis=1) + np.arange(windows.shape[0])))
    return Fingerprints(hashes[kept], kept.astype(np.uint32), found.size)


def longest_run(text: str, index: Index) -> Match | None:
    """The longest run of the answer's words in one document, None when none is seen.

    Shingles that follow one another at the same distance in both are one run; a gap of more than WINDOW ends it.
    """
    hashes = shingles(word_hashes(text), SHINGLE)
    first = np.searchsorted(index.hashes, hashes, "left")
    count = np.searchsorted(index.hashes, hashes, "right") - first
    count = np.minimum(count, PLACES_MAX)
    if not count.any():
        return None
    mine: Ids = np.repeat(np.arange(hashes.size), count)
    found = np.repeat(first, count) + np.arange(mine.size) - np.repeat(np.cumsum(count) - count, count)
    owners, places = index.owners[found].astype(np.int64), index.positions[found].astype(np.int64)
    order = np.lexsort((mine, places - mine, owners))
    mine, owners, places = mine[order], owners[order], places[order]
    distance = places - mine
    begins = np.concatenate([[True], (owners[1:] != owners[:-1]) | (distance[1:] != distance[:-1]) | (np.diff(mine) > WINDOW)])
    starts = np.flatnonzero(begins)
    ends = np.concatenate([starts[1:], [mine.size]]) - 1
    lengths = mine[ends] - mine[starts] + SHINGLE
    best = int(np.argmax(lengths))
    at = int(starts[best])
    return Match(int(lengths[best]), index.name, index.documents[int(owners[at])], int(places[at]))
