"""Judges what was generated: numbers a sequence, from its token series. Not a place for rules or alerts.

On the ingest road, one file a family, one `contracts.Scorer` each (what the scores mean is in `catalogue`):

    surprisal      how unlikely was it, where least sure?   perplexity, quantiles, worst window, bursts, quarters
    trend          did it rise or fall on the way?          surprisal, entropy, lookback ratio
    repetition     did it go round in circles?              seq-rep-4, distinct-n, loop period
    attention      which heads stopped working?             collapsed share, sink share
    rauq           did doubt spread from token to token?    RAUQ

For windows of many generations, plain functions that flows call:

    embedding      pairwise_cosine, rbf_mmd2                 histogram    histogram: counts that add up
    length         length_adjusted: residuals (LINE)         tdigest      digest, merge: quantiles that add up

Every file holds its kernels three times: `reference` (readable NumPy), `on_cpu` and `on_cuda`. `device` chooses between the two and
falls back, `ragged` is their food, `registry` finds plug-ins, `rows` turns scores into rows of gen_ai_scores.
"""

from cutaway_collector.score.device import Device
from cutaway_collector.score.registry import BACKFILL_SECONDS_MAX, ENTRY_POINT_GROUP, scorers, warm_up
from cutaway_collector.score.rows import score_block

__all__ = ["BACKFILL_SECONDS_MAX", "ENTRY_POINT_GROUP", "Device", "score_block", "scorers", "warm_up"]
