"""Score again what is stored, or what lacks a score, over a range of times, with a progress bar: token series and texts.

With --clickhouse this command does the work; with --data it does when no collector is running there, else it asks that collector.
The same command again goes on where it was cut short.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

from cutaway_collector import score
from cutaway_collector.backfill import Request, Run, begin, parts, sequences
from cutaway_collector.commands import running
from cutaway_collector.errors import CutawayError, DataDirectoryBusy, SettingsError
from cutaway_collector.judging import again
from cutaway_collector.settings import Settings
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import admin, times
from cutaway_collector.web.errors import BadParameter

_POLL_SECONDS: Final = 0.5
_LINE_SECONDS: Final = 5.0
_CELLS: Final = 30


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Flags of `cutaway backfill`, besides the settings that say where the store is."""
    to.add_argument("--from", dest="start", default="", metavar="TIME", help="start of the range: 2026-11-01, an ISO time, or -7d")
    to.add_argument("--to", dest="end", default="now", metavar="TIME", help="end of the range, not included (default: now)")
    to.add_argument("--scorer", action="append", default=[], metavar="NAME",
                    help="this scorer, of token series or of texts; may be repeated (default: all)")
    to.add_argument("--service", default="", help="generations of this service only")
    to.add_argument("--model", default="", help="generations of this model only")
    to.add_argument("--missing", action="store_true", help="only what lacks a score of the scorer's present version")
    to.add_argument("--resume", action="store_true", help="go on with the newest back-fill that was cut short, whatever its range")
    to.add_argument("--cancel", action="store_true", help="stop the one that a running collector is at")
    running.add_arguments(to)


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Exit 0 when all is scored, 1 when a scorer failed or the job was stopped before its end."""
    request = None if arguments.resume or arguments.cancel else _request(arguments)
    if arguments.url:
        return _remote(running.Collector(arguments.url, arguments), request, cancel=arguments.cancel)
    try:
        store = _open(settings)
    except DataDirectoryBusy:
        return _remote(running.find(settings, arguments), request, cancel=arguments.cancel)
    try:
        if arguments.cancel:
            raise SettingsError("no collector is running there, whose back-fill --cancel could stop: stop a command with Ctrl-C")
        return _local(store, settings, request)
    finally:
        store.close()


def _request(arguments: argparse.Namespace) -> Request:
    now_ns = time.time_ns()
    try:
        start_ns = times.parse(arguments.start, now_ns, "--from")
        end_ns = times.parse(arguments.end, now_ns, "--to")
    except BadParameter as error:
        raise SettingsError(f"{error}: {error.hint}") from None
    if start_ns is None or end_ns is None:
        raise SettingsError("a back-fill needs the start of its range: --from 2026-11-01, --from -7d, or --resume")
    return Request(start_ns=start_ns, end_ns=end_ns, scorers=tuple(arguments.scorer), service=arguments.service,
                   model=arguments.model, missing=arguments.missing)


def _open(settings: Settings) -> ClickHouseStore:
    if settings.data and not (Path(settings.data) / "chdb").is_dir():
        raise SettingsError(f"there is no store in {settings.data}: name the directory that `cutaway serve` was given")
    return open_store(settings)


def _local(store: ClickHouseStore, settings: Settings, request: Request | None) -> int:
    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    bar = Bar(sys.stderr)
    try:
        scorers = score.scorers(settings.score_device, seconds_max=score.BACKFILL_SECONDS_MAX)
        offers = [sequences.offer(store, scorers), again.offer(store, settings)]
        job, chosen = begin(store, request, [one for offer in offers for one in offer.scorers])
        done = Run(store, job, parts(offers, job, chosen), rows_s_max=settings.backfill_rows_s_max, stop=stop,
                   on_progress=lambda job: bar.show(job.shown())).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return _verdict(bar, done.shown())


def _remote(collector: running.Collector, request: Request | None, *, cancel: bool) -> int:
    """Asks, then watches. Stopping the command lets the collector go on, as it says."""
    if cancel:
        if collector.ask(admin.CANCEL_ROUTE, {})["backfill"] is None:
            print("no back-fill is running")
            return 0
        status = _watch(collector, Bar(sys.stderr), "")
        print(f"back-fill {status['job']} is {status['state']}")
        return 0
    bar = Bar(sys.stderr)
    body = {"resume": True} if request is None else {**asdict(request), "scorers": list(request.scorers)}
    job = collector.ask(admin.ROUTE, body)["backfill"]
    try:
        status = _watch(collector, bar, job["job"])
    except KeyboardInterrupt:
        bar.end()
        print("the collector goes on with it: `cutaway backfill --cancel` stops it", file=sys.stderr)
        raise
    return _verdict(bar, status)


def _watch(collector: running.Collector, bar: Bar, job: str) -> Mapping[str, Any]:
    while True:
        status: Mapping[str, Any] | None = collector.ask(admin.ROUTE)["backfill"]
        if status is None or (job and status["job"] != job):
            raise CutawayError("the collector was restarted: run the same command again to go on")
        bar.show(status)
        if status["state"] != "running":
            return status
        time.sleep(_POLL_SECONDS)


def _verdict(bar: Bar, job: Mapping[str, Any]) -> int:
    bar.show(job, last=True)
    for name, count in job["failures"].items():
        print(f"cutaway: the scorer {name} failed on {count} pieces, their scores are missing", file=sys.stderr)
    if job["state"] != "done":
        why = f" ({job['message']})" if job["message"] else ""
        print(f"cutaway: stopped before the end{why}: the same command goes on from there", file=sys.stderr)
    print(f"{job['rows']} sequences read, {job['scores']} scores stored")
    return 0 if job["state"] == "done" and not job["failures"] else 1


class Bar:
    """Progress on a terminal as a bar that is drawn over, elsewhere as a line every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._next_s = 0.0
        self._began: tuple[float, int] | None = None
        self._drawn = False

    def show(self, job: Mapping[str, Any], *, last: bool = False) -> None:
        """job: as `Job.shown`."""
        now_s = time.monotonic()
        self._began = self._began or (now_s, job["rows"])
        if not last and not self._terminal and now_s < self._next_s:
            return
        self._next_s = now_s + _LINE_SECONDS
        words = self._words(job, now_s)
        print(f"\r\x1b[2K{words}" if self._terminal else words, end="" if self._terminal else "\n", file=self._stream, flush=True)
        self._drawn = self._terminal
        if last:
            self.end()

    def end(self) -> None:
        """Leaves the bar's line."""
        if self._drawn:
            print(file=self._stream, flush=True)
            self._drawn = False

    def _words(self, job: Mapping[str, Any], now_s: float) -> str:
        began_s, first = self._began or (now_s, 0)
        rate = (job["rows"] - first) / max(now_s - began_s, 1e-9)
        total = max(job["rows_total"], job["rows"])
        share = 1.0 if job["state"] == "done" else job["rows"] / total if job["rows_total"] > 0 else 0.0
        bar = "█" * int(share * _CELLS) + "·" * (_CELLS - int(share * _CELLS)) if self._terminal else "back-fill"
        left = f", {_clock((total - job['rows']) / rate)} left" if job["state"] == "running" and rate > 0 and total > 0 else ""
        words = f"{bar} {share:4.0%}  {job['rows']:,} of {total:,} sequences, {job['scores']:,} scores{left}"
        return words + (f"  ({job['message'][:60]})" if job["message"] and job["state"] == "running" else "")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
