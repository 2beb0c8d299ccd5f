"""Comparing: two sides of spans, what differs between them, and whether chance would do that; for the pages and their twins.

    sides         both samples, the header's metrics, and all the rest in one answer
    attributes    every attribute scored and ranked          inside    what only a look into the model sees
    pairs         one trace or generation against another    changes   what is new since a day ago, by model

Joins the search verb (samples), the drift verb (statistics) and the align verb. Draws nothing and keeps nothing.
"""

from __future__ import annotations

from cutaway_collector.comparison.sides import Comparison, compare

__all__ = ["Comparison", "compare"]
