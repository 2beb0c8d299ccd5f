"""Listens to one generation and keeps what it hears on the device, to be copied once at the end.

Not the hooks (tap/), not the formulas (measure/): it is told what happens and calls the functions it was given.
"""

from cutaway.record.batches import BatchRecorder
from cutaway.record.clocks import clock_for
from cutaway.record.recorder import Options, Recorder

__all__ = ["BatchRecorder", "Options", "Recorder", "clock_for"]
