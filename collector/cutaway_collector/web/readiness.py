"""Whether this collector should be sent spans: what its pipeline says, where it is in its life, how long the store is away.

Not liveness (/healthz answers as long as the process does): whoever restarts a collector because its store is away gains nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError
from cutaway_collector.spool import FULL_SHARE

Status = Callable[[], tuple[bool, Mapping[str, Any]]]
LOOK_SECONDS: Final = 5.0
"""How often the store is asked for a sign of life: an idle pipeline would not notice that it is gone."""


class Readiness:
    """/readyz. Ready between `serving` and `draining`, while the pipeline takes requests and the store is not away for too long.

    status: Pipeline.status. away_s_max: seconds the store may be away while the spool takes its place. A thread of its own asks the
    store, so that a probe never waits for one that is away. spool_bytes_max: what `spool_bytes` of the status may grow to.
    """

    def __init__(self, status: Status, store: Store, *, away_s_max: float, spool_bytes_max: int,
                 look_s: float = LOOK_SECONDS) -> None:
        self._status = status
        self._store = store
        self._away_s_max = away_s_max
        self._look_s = look_s
        self._spool_bytes_max = spool_bytes_max
        self._phase = "starting"
        self._away_since_s: float | None = None
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="readiness", daemon=True)
        self._thread.start()

    def serving(self) -> None:
        """Every receiver listens."""
        self._phase = "serving"

    def draining(self) -> None:
        """No new requests are wanted: said before the receivers close, so that whoever asks first is sent elsewhere."""
        self._phase = "draining"

    def close(self) -> None:
        """Asks the store no more. Does not wait for an answer that is long in coming."""
        self._stop.set()
        self._thread.join(5)

    def __call__(self) -> tuple[bool, dict[str, Any]]:
        """(ready, the pipeline's details with `phase`, `store_away_s` and the `reasons` why not, [] when ready)."""
        taking, details = self._status()
        since_s = self._away_since_s
        away_s = 0.0 if since_s is None else time.monotonic() - since_s
        reasons: list[str] = []
        if self._phase != "serving":
            reasons.append(f"the collector is {self._phase}")
        if not taking:
            said = details.get("last_error") or "a limit is reached, or it is stopping: see the figures"
            reasons.append(f"requests are not taken: {said}")
        held = int(details.get("spool_bytes", 0))
        if held >= FULL_SHARE * self._spool_bytes_max:  # as the pipeline has it, which does not say why
            reasons.append(f"the spool is full: it holds {held} bytes, spool_bytes_max allows {self._spool_bytes_max}")
        if away_s > self._away_s_max:
            reasons.append(f"the store is away for {away_s:.0f} s, store_away_seconds_max allows {self._away_s_max:g}: "
                           f"{self._trouble}")
        more = {"phase": self._phase, "store_away_s": round(away_s, 1), "reasons": reasons}
        if since_s is not None:
            more |= {"store": "unreachable", "last_error": details.get("last_error") or self._trouble}
        return not reasons, {**details, **more}

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                self._store.query("SELECT 1")
            except StoreError as error:
                if self._away_since_s is None:
                    self._away_since_s = time.monotonic()
                self._trouble = str(error)
            else:
                self._away_since_s, self._trouble = None, ""
            self._stop.wait(self._look_s)
