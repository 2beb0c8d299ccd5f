"""Which words are more frequent on one side than on the other: log-odds ratios with an informative Dirichlet prior.

Not a count: rare words have large ratios by chance, and the prior, made of how frequent each word is altogether, takes them back.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PRIOR_WORDS: Final = 500.0
"""Words that the prior counts for, all together: as if so many had been seen on either side."""


def log_odds(a: Floats, b: Floats, background: Floats, *, prior_words: float = PRIOR_WORDS) -> tuple[Floats, Floats]:
    """(log-odds ratio of a against b [k], its z-value [k]) of counts [k] of the same words.

    Monroe, Colaresi, Quinn 2008, "Fightin' Words", sections 3.3.1 to 3.5.1. background [k]: how frequent each word is at large; it
    is positive wherever a or b is. A word on which the sides agree has 0. With fewer than two words there is nothing to be odd.
    """
    if a.size < 2 or not a.sum() or not b.sum():
        return np.zeros(a.size), np.zeros(a.size)
    prior = prior_words * background / background.sum()
    whole = prior.sum()
    first, second = ((side + prior) / (side.sum() + whole - side - prior) for side in (a, b))
    ratio: Floats = np.log(first) - np.log(second)
    spread: Floats = np.sqrt(1 / (a + prior) + 1 / (b + prior))
    return ratio, ratio / spread
