"""Window scores beside ingest: every closed window is read from the store, judged and stored, once, by one thread.

    reader (groups and their answers) -> windows.window_scores -> rows (a block) -> service (when, and how often)

Not the formulas, which are the verb `windows`, and never on the road of a span: it may stop, fail and catch up unnoticed.
"""

from __future__ import annotations

from cutaway_collector.windowing.service import CATCH_UP_WINDOWS, LATENESS_SECONDS, Windows

__all__ = ["CATCH_UP_WINDOWS", "LATENESS_SECONDS", "Windows"]
