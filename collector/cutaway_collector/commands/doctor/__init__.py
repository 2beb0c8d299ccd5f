"""Look at what a collector needs, say what is wrong and how to put it right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

from cutaway_collector.commands.doctor.findings import Check, Finding, bad
from cutaway_collector.commands.doctor.live import collector
from cutaway_collector.commands.doctor.machine import contradictions, device, kernels, ports, versions
from cutaway_collector.commands.doctor.places import directories, keys, spool
from cutaway_collector.commands.doctor.stores import store
from cutaway_collector.commands.doctor.tls import files
from cutaway_collector.errors import CutawayError, SettingsError
from cutaway_collector.settings import Settings

CHECKS: tuple[Check, ...] = (
    versions, kernels, device, contradictions, ports, files, keys, directories, spool, store, collector,
)


def run(settings: Settings | Callable[[], Settings], *, as_json: bool = False) -> int:
    """Prints one line a finding, or one JSON object with all of them. Exit 1 when something is bad.

    settings: or how to read them, for settings that contradict each other are a finding like any other.
    """
    found = list(_findings(settings))
    wrong = sum(finding.level == "BAD" for finding in found)
    if as_json:
        print(json.dumps({"healthy": wrong == 0, "findings": [asdict(finding) for finding in found]}))
        return 1 if wrong else 0
    for finding in found:
        print(finding)
    print("everything a collector needs is there" if not wrong else f"{wrong} to put right")
    return 1 if wrong else 0


def _findings(settings: Settings | Callable[[], Settings]) -> Iterator[Finding]:
    try:
        settings = settings if isinstance(settings, Settings) else settings()
    except SettingsError as error:
        yield bad("settings", str(error), "the other checks wait for that")
        return
    for check in CHECKS:
        try:
            yield from check(settings)
        except (CutawayError, OSError) as error:
            yield bad(check.__name__, str(error), "put that right first")
        except Exception as error:  # a check that fails must not hide what the others see
            yield bad(check.__name__, f"the check itself failed ({type(error).__name__})", "please report it")
