"""Judges what was generated: one number a sequence, from its token series. Not a place for rules or alerts.

    worst_window   where was the model least sure?        worst_window_surprisal
    repetition     did it go round in circles?            seq_rep_4
    quarters       did it get worse as it went on?        surprisal_q1 .. surprisal_q4, surprisal_slope

The name is the address: each file holds one kernel family, written three times (readable NumPy reference, CPU, CUDA) and wrapped
in one `contracts.Scorer`. `registry` chooses the device and finds plug-ins, `rows` turns scores into rows of gen_ai_scores.
"""

from cutaway_collector.score.registry import ENTRY_POINT_GROUP, scorers, warm_up
from cutaway_collector.score.rows import score_block

__all__ = ["ENTRY_POINT_GROUP", "score_block", "scorers", "warm_up"]
