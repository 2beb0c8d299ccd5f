"""What is normal, pinned: reference windows kept as sketches that add up, and how far each new window is from them.

    attributes  what is watched of a generation, as SQL       pins      pin, list and remove baselines
    compare     one window against its baseline               changes   where a change begins, and which deployment that was
    service     every window once, in its own thread          stored    what was found, kept in gen_ai_drift
    together    all numbers at once, and which generations are the foreign ones
    embeddings  what prompts and answers mean, at once    deviation   a window's mean in standard errors, for charts

Reads the store beside ingest and never holds it up. The statistics are the drift verb's, alerts are another flow's.
"""

from cutaway_collector.baselines.compare import Drift, drift_of
from cutaway_collector.baselines.pins import Baseline, listed, pin, remove
from cutaway_collector.baselines.service import Watch

__all__ = ["Baseline", "Drift", "Watch", "drift_of", "listed", "pin", "remove"]
