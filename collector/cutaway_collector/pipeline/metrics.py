"""What the pipeline counts about itself, in a registry of its own. Not logging, and no label ever holds what a user sent."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_INSERT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The series of /metrics. Names end in their unit; counters of spans add up: accepted = stored + lost + waiting."""

    def __init__(
        self, *, queue_bytes: Callable[[], float], spool_bytes: Callable[[], float], waiting: Callable[[], float],
        dead_count: Callable[[], float], dead_bytes: Callable[[], float],
    ) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("cutaway_requests", "OTLP requests by what became of them", ["encoding", "outcome"],
                                registry=registry)
        self.duplicates = Counter("cutaway_requests_duplicate", "requests sent before, byte for byte: known, and stored once",
                                  ["encoding"], registry=registry)
        self.bytes = Counter("cutaway_received_bytes", "bytes of OTLP requests, uncompressed", registry=registry)
        self.accepted = Counter("cutaway_spans_accepted", "spans acknowledged: safe on disk", registry=registry)
        self.rejected = Counter("cutaway_spans_rejected", "spans turned away with an explanation to the sender", registry=registry)
        self.stored = Counter("cutaway_spans_stored", "spans the store has confirmed", registry=registry)
        self.lost = Counter("cutaway_spans_lost", "accepted spans the store will never take; their requests are dead letters",
                            registry=registry)
        self.sequences = Counter("cutaway_sequences_stored", "token series rows the store has confirmed", registry=registry)
        self.scores = Counter("cutaway_scores_stored", "score rows the store has confirmed", registry=registry)
        self.insert_seconds = Histogram("cutaway_insert_seconds", "time of one insert, failures included", ["table"],
                                        buckets=_INSERT_SECONDS, registry=registry)
        self.insert_failures = Counter("cutaway_insert_failures", "inserts that failed", ["table", "kind"], registry=registry)
        self.dead_letters = Counter("cutaway_dead_letters", "requests set aside, with their reason, in the spool's dead folder",
                                    registry=registry)
        self.dead_letters_removed = Counter("cutaway_dead_letters_removed", "dead letters removed from the folder, too old or too "
                                            "many; their rows in cutaway_dead_letters stay", registry=registry)
        self.scorer_failures = Counter("cutaway_scorer_failures", "scorers that raised; their scores are missing", ["scorer"],
                                       registry=registry)
        Gauge("cutaway_queue_bytes", "bytes being decoded or waiting to be stored", registry=registry).set_function(queue_bytes)
        Gauge("cutaway_spool_bytes", "bytes of the spool on disk", registry=registry).set_function(spool_bytes)
        Gauge("cutaway_waiting_requests", "acknowledged requests waiting to be stored", registry=registry).set_function(waiting)
        Gauge("cutaway_dead_letter_files", "dead letters in the folder", registry=registry).set_function(dead_count)
        Gauge("cutaway_dead_letter_bytes", "bytes of the dead-letter folder", registry=registry).set_function(dead_bytes)
