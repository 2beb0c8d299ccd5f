"""The wiring: which store, which scorers, which receivers, started and stopped in order, once. Decides; does nothing itself.

Start: store, kernels warm, spool replayed, UI, receivers last. Stop: receivers first, then what is queued is stored, then the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector import amplification, decode, judge, score, ui_server
from cutaway_collector.alerts import Alerts
from cutaway_collector.backfill import Backfills
from cutaway_collector.baselines import Watch
from cutaway_collector.blocks import Block
from cutaway_collector.contracts import Encoding, Store, TlsFiles
from cutaway_collector.credentials import Credentials, keys_path
from cutaway_collector.directories import private_directory, state_directory
from cutaway_collector.errors import SettingsError
from cutaway_collector.judge import relevance
from cutaway_collector.judging import Judging, again
from cutaway_collector.pipeline import Pipeline
from cutaway_collector.process import (
    GivingBack,
    allow_open_files,
    keep_freed_memory,
    let_go_of_the_compiler,
    let_waiting_threads_sleep,
)
from cutaway_collector.receive import GrpcReceiver, HttpReceiver
from cutaway_collector.redact import Redactor, redacting
from cutaway_collector.scores_out import Forwarder, ScoresTold, Tally, tally
from cutaway_collector.settings import Settings, split_address
from cutaway_collector.spool import Spool
from cutaway_collector.store import ClickHouseStore, open_store
from cutaway_collector.web import create_app, live_routes, oidc, sessions
from cutaway_collector.web import warm_up as warm_up_pages
from cutaway_collector.web.gate import Gate
from cutaway_collector.web.map_vectors import Vectors
from cutaway_collector.web.pages.first_run import Intake
from cutaway_collector.web.readiness import Readiness
from cutaway_collector.windowing import Windows
from cutaway_collector.windows import Floats, corpora

INSPECTED_BYTES_MAX: Final = 256 * 1024 * 1024
"""Rows of a request that is to be redacted: python-protobuf takes about as much for it as its rows would."""

FIRST_READERS: Final = 2
"""A page asks two questions at once. A server's connections are opened when they are needed: it may be away."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running collector answers, as host:port."""

    otlp_grpc: str
    otlp_http: str
    ui: str


class Collector:
    """A running collector. Making one starts everything; when it is made, everything answers.

    Raises SettingsError, StoreError, OSError (a port is taken).
    """

    def __init__(self, settings: Settings) -> None:
        self._stack = ExitStack()
        try:
            self.addresses = self._start(settings)
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Refuses new spans, stores what is queued within drain_seconds_max, then lets go of everything. Idempotent.

        The UI goes last: until then /readyz says that the collector is draining.
        """
        self._readiness.draining()
        self._stack.close()

    def _start(self, settings: Settings) -> Addresses:
        credentials = _credentials(settings)
        redactor = Redactor.of(settings)
        tls = TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca) if settings.tls_certificate else None
        certificate = ui_server.Certificate(tls) if tls else None
        _ask_the_system()
        scores_listeners: list[Callable[[Block], None]] = []
        store = ScoresTold(_opened(settings), scores_listeners)
        self._stack.callback(store.close)
        decode.warm_up()
        score.warm_up(settings.score_device)
        tally.warm_up()
        spool = Spool.of(settings)
        self._stack.callback(spool.close)
        pipeline = Pipeline(store, spool, settings, scorers=score.scorers(settings.score_device))
        scores_listeners += _listeners(settings, pipeline, self._stack)
        self._stack.callback(GivingBack(lambda: pipeline.registry.get_sample_value("cutaway_received_bytes_total")).close)
        draining = ExitStack()
        draining.callback(pipeline.close, settings.drain_seconds_max)
        self._stack.callback(draining.close)
        submit = redacting(pipeline.submit, redactor, _inspect) if redactor else pipeline.submit

        models = judge.Models(device=settings.score_device, bytes_max=settings.judge_memory_bytes_max,
                              embedding=settings.judge_embedding_model, reference=settings.judge_reference_model)
        judging = _judging(store, settings, pipeline, models)

        def status() -> tuple[bool, dict[str, Any]]:
            ready, details = pipeline.status()
            details |= {"judging": judging.status()} if judging else {}
            return ready, {**details, "keys": credentials.trouble or f"{credentials.count} known"} if credentials else details

        self._readiness = Readiness(status, store, away_s_max=settings.store_away_seconds_max,
                                    spool_bytes_max=settings.spool_bytes_max)
        self._stack.callback(self._readiness.close)
        backfills = _backfills(store, settings, pipeline)
        listening = [settings.otlp_grpc, settings.otlp_http]
        streams = live_routes.Streams(settings.live_clients_max)
        vectors = _vectors(store, settings, pipeline)
        self._stack.callback(vectors.close)
        app = create_app(store, settings, registry=pipeline.registry, status=self._readiness, gate=_gate(settings, credentials),
                         backfills=backfills, streams=streams,
                         intake=Intake(submit, lambda: (listening[0], listening[1])), vectors=vectors)
        warm_up_pages(app)
        web = ui_server.serve(app, *split_address("ui", settings.ui), threads=settings.ui_threads + settings.live_clients_max,
                              certificate=certificate, stack=self._stack)
        self._stack.callback(streams.close)
        self._stack.callback(draining.close)  # before the UI closes; the earlier one is for a start that fails
        self._stack.callback(backfills.close)
        if judging:
            self._stack.callback(judging.close)
            judging.start()
        if settings.windows_minutes:
            windows = _windows(store, settings, pipeline, models)
            self._stack.callback(windows.close)
            windows.start()
        self._stack.callback(_watch(store, settings, pipeline).close)
        alerts = Alerts(store, settings, registry=pipeline.registry, caught_up=lambda: not _give_way(settings, pipeline)())
        self._stack.callback(alerts.close)
        alerts.start()
        host, port = split_address("otlp_http", settings.otlp_http)
        http = HttpReceiver(submit, host, port, body_bytes_max=settings.request_bytes_max,
                            concurrency_max=settings.http_concurrency_max, threads=settings.receiver_threads,
                            authenticate=credentials, tls=tls, connections_max=settings.receiver_connections_max,
                            receive_bytes_max=settings.receive_bytes_max, cors_origins=settings.cors_origins)
        self._stack.callback(http.close)
        host, port = split_address("otlp_grpc", settings.otlp_grpc)
        grpc = GrpcReceiver(submit, host, port, body_bytes_max=settings.request_bytes_max, threads=settings.receiver_threads,
                            authenticate=credentials, tls=tls, connections_max=settings.receiver_connections_max,
                            receive_bytes_max=settings.receive_bytes_max)
        self._stack.callback(grpc.close)
        listening[:] = _shown(grpc.address), _shown(http.address)
        let_go_of_the_compiler()
        self._readiness.serving()
        return Addresses(listening[0], listening[1], _shown(web))


def _listeners(settings: Settings, pipeline: Pipeline, stack: ExitStack) -> list[Callable[[Block], None]]:
    """Who is told of stored scores: the figures at /metrics, and whoever they are sent on to."""
    counted = Tally(series_max=settings.score_series_max)
    pipeline.registry.register(counted)
    forwarder = Forwarder.of(settings, pipeline.registry)
    if forwarder is None:
        return [counted.add]
    stack.callback(forwarder.close)
    return [counted.add, forwarder.put]


def _give_way(settings: Settings, pipeline: Pipeline) -> Callable[[], bool]:
    """True while fresh spans need the store: whoever reads it in the background then waits."""

    def give_way() -> bool:
        ready, details = pipeline.status()
        return not ready or details["store"] != "reachable" or details["queue_bytes"] > settings.queue_bytes_max // 4

    return give_way


def _inspect(payload: bytes, encoding: Encoding) -> None:
    """Whether a parser can be let at a request. Raises RequestError."""
    if encoding.endswith("json"):
        amplification.check_json(payload)
    elif encoding.startswith("logs/"):
        amplification.check_parsed(payload, "a request of logs")
    else:
        decode.check(payload, encoding, received_ns=0, tenant="", limits=decode.Limits(working_bytes_max=INSPECTED_BYTES_MAX))


def _backfills(store: Store, settings: Settings, pipeline: Pipeline) -> Backfills:
    return Backfills(store, lambda: score.scorers(settings.score_device, seconds_max=score.BACKFILL_SECONDS_MAX),
                     rows_s_max=settings.backfill_rows_s_max, registry=pipeline.registry, give_way=_give_way(settings, pipeline),
                     others=lambda: [again.offer(store, settings)])


def _watch(store: Store, settings: Settings, pipeline: Pipeline) -> Watch:
    return Watch(store, interval_minutes=settings.drift_interval_minutes, registry=pipeline.registry,
                 give_way=_give_way(settings, pipeline))


def _windows(store: Store, settings: Settings, pipeline: Pipeline, models: judge.Models) -> Windows:
    def embed(texts: Sequence[str]) -> Floats:
        return relevance.embed(models.embedding("windows_semantic"), texts)

    return Windows(store, minutes=settings.windows_minutes, answers_max=settings.windows_answers_max,
                   groups_max=settings.windows_groups_max, folder=state_directory(settings) / corpora.FOLDER,
                   registry=pipeline.registry, give_way=_give_way(settings, pipeline),
                   embed=embed if settings.windows_semantic else None)


def _vectors(store: Store, settings: Settings, pipeline: Pipeline) -> Vectors:
    """For the latent map. A copy of the embedder of its own, loaded when the map is first opened: one is used by one thread."""
    models = judge.Models(device=settings.score_device, bytes_max=settings.judge_memory_bytes_max,
                          embedding=settings.judge_embedding_model)

    def embed(texts: Sequence[str]) -> Floats:
        return relevance.embed(models.embedding("of the latent map"), texts)

    return Vectors(store, embed, _give_way(settings, pipeline))


def _judging(store: Store, settings: Settings, pipeline: Pipeline, models: judge.Models) -> Judging | None:
    """The thread that judges texts, not started; None where it is off. Raises SettingsError for a scorer that there is not."""
    broken: dict[str, Exception] = {}
    scorers = judge.text_scorers(settings.judge, models, on_failure=broken.__setitem__)
    if not scorers and not broken:
        return None
    return Judging(store, scorers, broken=broken, registry=pipeline.registry, batch_rows_max=settings.judge_batch_rows_max,
                   sample_per_mille=settings.judge_sample_per_mille, core_percent=settings.judge_core_percent_max,
                   give_way=_give_way(settings, pipeline))


def _gate(settings: Settings, credentials: Credentials | None) -> Gate | None:
    if credentials is None:
        return None
    secret = sessions.secret(private_directory(state_directory(settings)) / "session.secret")
    # Behind a proxy that speaks TLS the pages are reached by https though we speak http.
    secure = bool(settings.tls_certificate) or bool(settings.oidc_issuer and settings.ui_url.startswith("https://"))
    signed = sessions.Sessions(secret, secure=secure)
    return Gate(credentials, signed, oidc.provider(settings, signed) if settings.oidc_issuer else None)


def _ask_the_system() -> None:
    keep_freed_memory()
    let_waiting_threads_sleep()
    allow_open_files()


def _opened(settings: Settings) -> ClickHouseStore:
    store = open_store(settings)
    try:
        if settings.data:
            store.open_readers(FIRST_READERS)
    except BaseException:
        store.close()
        raise
    return store


def _credentials(settings: Settings) -> Credentials | None:
    """Who may come in; None where nobody is asked. Raises SettingsError when no key could ever be right."""
    if not settings.auth_required:
        return None
    found = Credentials(keys_path(settings))
    if not found.count and not settings.oidc_issuer:
        raise SettingsError(f"API keys are demanded and there is none in {keys_path(settings)}: make one with "
                            "`cutaway keys add --name NAME --scope admin`, or say --auth off on loopback")
    return found


def _shown(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
