"""Gets each event to its channels: tried again with growing pauses, each try noted, given up after so many. Sends nothing itself.

At least once: an event whose delivery was cut short by a crash is sent again, with the same id. One delivery at a time a channel,
so that a channel which hangs holds up nobody else. Of one alert a channel hears in order: had the end overtaken a beginning that is
to be tried again, the last word would be that it fires.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cutaway_collector.alerts.book import PENDING_MAX, Book, Delivery
from cutaway_collector.alerts.channels import Channel
from cutaway_collector.alerts.egress import Failed, Refused
from cutaway_collector.alerts.fields import NS
from cutaway_collector.errors import StoreError

_LOG: Final = logging.getLogger(__name__)
WORKERS: Final = 4
PAUSE_FIRST_S: Final = 5
PAUSE_LONGEST_S: Final = 900


class Send(Protocol):
    """Delivers one message; what is to be noted of it though it arrived, if anything. Raises Refused or Failed."""

    def __call__(self, channel: Channel, message: Mapping[str, Any]) -> str | None:
        """channel: to whom; message: as `messages.event` makes it."""
        ...


@dataclass(slots=True)
class _Waiting:
    """A delivery that is not done. about: channel and alert; moment: its place among all that is said of these."""

    one: Delivery
    about: tuple[str, ...]
    moment: tuple[str, bool]

    @classmethod
    def of(cls, one: Delivery) -> _Waiting:
        said = json.loads(one.body)
        about = (one.channel, one.tenant, str(said.get("rule")), json.dumps(said.get("group"), sort_keys=True))
        return cls(one, about, (str(said.get("window_end")), said.get("kind") == "resolved"))


def pause_s(attempts: int) -> int:
    """Seconds until the next try after so many: 5, 10, 20 ... 900."""
    return int(min(PAUSE_FIRST_S * 2 ** min(attempts - 1, 20), PAUSE_LONGEST_S))


class Deliveries:
    """Worker threads over what is pending. channels: the present ones by name. on_outcome: (channel, delivered or failed)."""

    def __init__(self, book: Book, send: Send, channels: Callable[[], Mapping[str, Channel]], *, attempts_max: int,
                 on_outcome: Callable[[str, bool], None] = lambda channel, fine: None,
                 may_send: Callable[[], bool] = lambda: True,
                 now_ns: Callable[[], int] = time.time_ns, pause: Callable[[int], float] = pause_s) -> None:
        self._book = book
        self._send = send
        self._channels = channels
        self._attempts_max = attempts_max
        self._on_outcome = on_outcome
        self._may_send = may_send
        self._now_ns = now_ns
        self._pause = pause
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str, str], _Waiting] = {}
        self._done: dict[tuple[str, str, str], None] = {}
        self._busy: set[str] = set()
        self._closing = False
        self._threads: list[threading.Thread] = []

    def take_up(self) -> None:
        """Takes up what an earlier run, or another collector, left. Raises StoreError."""
        self.add(self._book.pending())

    def forget(self) -> None:
        """Lets go of what waits: another collector delivers it."""
        with self._changed:
            self._waiting.clear()
            self._done.clear()

    def start(self) -> None:
        """Begins."""
        for number in range(WORKERS):
            thread = threading.Thread(target=self._work, name=f"alerts-delivery-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def waiting(self) -> int:
        """Deliveries that are not done."""
        return len(self._waiting)

    def room(self, count: int) -> bool:
        """Whether so many more may wait."""
        return len(self._waiting) + count <= PENDING_MAX

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Deliveries that are noted in the book."""
        with self._changed:
            for one in deliveries:
                # After a kill the same event is judged again while it is being delivered: what is done stays done.
                if (key := (one.tenant, one.event, one.channel)) not in self._done and key not in self._waiting:
                    self._waiting[key] = _Waiting.of(one)
            self._changed.notify_all()

    def close(self, deadline_s: float = 10.0) -> None:
        """Ends after the tries that are under way; the next start goes on with the rest."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until_s = time.monotonic() + deadline_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _work(self) -> None:
        while (one := self._next()) is not None:
            try:
                self._try(one)
            except Exception:
                _LOG.exception("the delivery to %s broke", one.channel)
                one.next_ns = self._now_ns() + PAUSE_LONGEST_S * NS
            finally:
                with self._changed:
                    self._busy.discard(one.channel)
                    self._changed.notify_all()

    def _next(self) -> Delivery | None:
        """Waits for a delivery that is due to a channel that nobody is busy with; None when closing."""
        with self._changed:
            while not self._closing:
                heads: dict[tuple[str, ...], _Waiting] = {}
                for waiting in self._waiting.values():
                    if waiting.one.channel not in self._busy:
                        head = heads.setdefault(waiting.about, waiting)
                        if waiting.moment < head.moment:
                            heads[waiting.about] = waiting
                first = min((head.one for head in heads.values()), key=lambda one: one.next_ns, default=None)
                if first is None:
                    self._changed.wait()
                    continue
                if not self._may_send():
                    self._changed.wait(1.0)
                    continue
                wait_s = (first.next_ns - self._now_ns()) / NS
                if wait_s <= 0:
                    self._busy.add(first.channel)
                    return first
                self._changed.wait(min(wait_s, 60.0))
            return None

    def _try(self, one: Delivery) -> None:
        channel = self._channels().get(one.channel)
        lasting, error, noted = False, "", ""
        try:
            if channel is None:
                raise Failed("there is no such channel any more", lasting=True)
            noted = self._send(channel, json.loads(one.body)) or ""
        except Refused as refusal:
            lasting, error = True, str(refusal)
        except Failed as failure:
            lasting, error = failure.lasting, str(failure)
        except Exception as fault:  # ours: it is a try like any other, so that it is recorded and ends
            _LOG.exception("the delivery to %s broke", one.channel)
            error = f"the collector itself broke: {type(fault).__name__}"
        one.attempts += 1
        one.version += 1
        one.error = (error or noted)[:300]
        if not error:
            one.state = "delivered"
        elif lasting or one.attempts >= self._attempts_max:
            one.state = "failed"
        else:
            one.next_ns = self._now_ns() + int(self._pause(one.attempts) * NS)
        if error:
            _LOG.warning("an alert did not reach the channel %s (try %d of %d): %s", one.channel, one.attempts,
                         self._attempts_max, one.error)
        elif noted:
            _LOG.warning("an alert reached the channel %s, but %s", one.channel, one.error)
        self._on_outcome(one.channel, not error)
        self._note(one)
        if one.state != "pending":
            with self._changed:
                key = (one.tenant, one.event, one.channel)
                self._waiting.pop(key, None)
                self._done[key] = None
                if len(self._done) > 2 * PENDING_MAX:
                    del self._done[next(iter(self._done))]

    def _note(self, one: Delivery) -> None:
        """A note that cannot be written now is tried for a while: without it a restart would send the same again."""
        for pause_s in (0.2, 1.0, 5.0, 0.0):
            try:
                self._book.save_deliveries([one])
                return
            except StoreError as error:
                if not error.retryable or self._closing or not pause_s:
                    _LOG.warning("a delivery to %s could not be noted: %s", one.channel, error)
                    return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, pause_s)
