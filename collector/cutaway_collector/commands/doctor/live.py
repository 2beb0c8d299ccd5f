"""A running collector, asked how it is. Looks at nothing that it does not say itself."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from cutaway_collector.commands import running
from cutaway_collector.commands.doctor.findings import Finding, bad, note, ok
from cutaway_collector.commands.doctor.places import in_use
from cutaway_collector.errors import CutawayError
from cutaway_collector.settings import Settings, split_address


def collector(settings: Settings) -> Iterator[Finding]:
    """The one that owns the data directory, else the one that answers at the address of the UI, if any."""
    owned = bool(settings.data) and in_use(Path(settings.data))
    if not owned and not _answers(settings):
        return
    asked = running.find(settings if owned else Settings(ui=settings.ui))
    try:
        status, said = asked.answer("/readyz")
    except CutawayError as error:
        if owned:
            yield bad("collector", f"a process owns {settings.data} and {error}", "look at its log; end it if it hangs")
        return
    if not isinstance(said, dict) or "ready" not in said:
        return  # something else listens there, which the check of the ports has said
    if said["ready"]:
        yield ok("collector", f"the one at {asked.url} is ready")
    else:
        reasons = "; ".join(said.get("reasons") or []) or f"it does not say why: give an API key in {running.KEY_VARIABLE}"
        yield bad("collector", f"the one at {asked.url} is not ready (status {status}): {reasons}",
                  "put the first reason right, it is ready again by itself")
    if said["ready"] and said.get("store") == "unreachable":
        yield bad("collector", f"its store is away for {said.get('store_away_s', 0):g} s ({said.get('last_error', '')})",
                  "start the store: the spool takes spans meanwhile")
    if said.get("dead_letters"):
        yield bad("collector", f"it has {said['dead_letters']} dead letters", "see the spool's dead folder for the reasons")
    if "phase" not in said:
        yield note("collector", "it says no more to strangers", f"give an API key in {running.KEY_VARIABLE}")


def _answers(settings: Settings) -> bool:
    host, port = split_address("ui", settings.ui)
    if not port:
        return False
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
