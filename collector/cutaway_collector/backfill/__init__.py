"""Scores what is already stored: reads token series back in bounded pieces and inserts their scores, which replace older ones.

    reader    pieces of gen_ai_tokens, as blocks          notes     how far a job came, kept in the store
    part      what a job goes through                     sequences   token series, the first part; texts are judging's
    job       one job, from wherever it is to its end     service   one job at a time inside a running collector

Not the way fresh spans are scored (that is the pipeline's), though the same scorers do it.
"""

from cutaway_collector.backfill.job import Run, begin, choose
from cutaway_collector.backfill.notes import Job, Request
from cutaway_collector.backfill.part import Offer, Part, parts
from cutaway_collector.backfill.service import Backfills

__all__ = ["Backfills", "Job", "Offer", "Part", "Request", "Run", "begin", "choose", "parts"]
