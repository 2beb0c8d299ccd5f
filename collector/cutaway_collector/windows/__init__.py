"""Window scores: what only many answers together show, of one model, route and prompt template.

    answers (units, grams) <- diversity, duplicates, slope, memory <- scores (one group -> values)      corpora (files)

Pure functions but for `corpora`, which keeps registered documents on disk. Not a clock and not a query: that is the flow's.
"""

from __future__ import annotations

from cutaway_collector.windows import corpora
from cutaway_collector.windows.answers import Answer, Floats
from cutaway_collector.windows.memory import Index
from cutaway_collector.windows.scores import KINDS, VERSION, Embed, Kind, WindowScore, window_scores

__all__ = ["KINDS", "VERSION", "Answer", "Embed", "Floats", "Index", "Kind", "WindowScore", "corpora", "window_scores"]
