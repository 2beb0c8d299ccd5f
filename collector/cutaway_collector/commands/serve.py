"""Run the collector until it is asked to stop. The first line on stdout says, as JSON, where it answers."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict
from types import FrameType
from typing import NoReturn

from cutaway_collector import process
from cutaway_collector.app import Collector
from cutaway_collector.commands import running
from cutaway_collector.errors import CutawayError
from cutaway_collector.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
"""A signal that comes just before a wait, or to another thread, does not end the wait: the next one does."""


def run(settings: Settings) -> NoReturn:
    """Serves; ends the process with 0 after a drained stop. A second signal while draining ends it at once with 130."""
    os.umask(0o077)  # spans hold prompts: whatever this process writes, the engine's files included, is for its user alone
    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)
    try:
        collector = Collector(settings)
    except OSError as error:
        raise CutawayError(f"the collector cannot start: {error}") from None
    process.set_aside_what_stays()
    try:
        running.write_addresses(settings, asdict(collector.addresses))
        print(json.dumps({"ready": True, **asdict(collector.addresses)}), flush=True)
        logger.info("ready: %s", collector.addresses)
        while not stop.wait(_LOOK_S):
            pass
        print("draining", file=sys.stderr, flush=True)
    finally:
        running.forget_addresses(settings)
        collector.close()
    process.leave(0)
