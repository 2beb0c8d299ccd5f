"""Runs the scorers of texts beside ingest: reads stored spans as they come, judges what they say, stores the scores.

    spans          stored spans with text, in the order in which they were stored     conversation   a span as texts, one a sequence
    rows           what scorers answer, checked, as rows of gen_ai_scores             notes          how far it came, in the store
    budget         how long to rest after work                                        service        the thread
    again          the part of a back-fill that judges what was missed

Not on the way of fresh spans: it may stop, fail or fall behind, and goes on where it was.
"""

from cutaway_collector.judging.service import Judging

__all__ = ["Judging"]
