"""Collector settings as one table: name, environment variable, default with its reason, help. CLI flags and docs derive from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from dataclasses import field as _field
from typing import Any, Final, Literal

from cutaway_collector.errors import SettingsError

MIB: Final = 1024 * 1024


def _setting(default: Any, help: str, reason: str) -> Any:
    return _field(default=default, metadata={"help": help, "reason": reason})


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
    insecure_bind: bool = _setting(False, "allow listening beyond loopback without credentials", "spans hold prompts: exposure is a decision")
    request_bytes_max: int = _setting(64 * MIB, "largest OTLP request, before and after decompression", "OTLP's recommended limit")
    queue_bytes_max: int = _setting(256 * MIB, "decoded bytes waiting to be stored before senders are asked to come back",
                                    "a few seconds of full speed; well under a small container's memory")
    spool_bytes_max: int = _setting(4096 * MIB, "bytes of the spool before senders are asked to come back",
                                    "an outage of hours at a moderate rate, without filling a disk")
    batch_rows_max: int = _setting(100_000, "spans an insert", "ClickHouse wants few large parts")
    batch_bytes_max: int = _setting(64 * MIB, "decoded bytes an insert", "bounds the encoder's memory")
    batch_age_ms_max: int = _setting(200, "longest wait before an insert", "search finds a span within two seconds of its flush")
    grpc_threads: int = _setting(8, "threads of the gRPC receiver", "they wait for the disk, not for the processor")
    http_concurrency_max: int = _setting(256, "OTLP/HTTP requests at once before 503", "bounds memory together with request_bytes_max")
    ui_threads: int = _setting(8, "threads of the UI", "a slow query must not hold the others")
    attribute_depth_max: int = _setting(32, "nesting of attribute values", "deeper is an attack or a mistake; the span is rejected")
    attributes_max: int = _setting(4096, "attributes a span, resource, event or link", "deeper maps belong in a log")
    sequence_tokens_max: int = _setting(1_000_000, "tokens a sequence", "longer than any context window in use")
    retention_days: int = _setting(30, "days spans are kept", "a month of search")
    tokens_retention_days: int = _setting(14, "days token series are kept", "they are the bulk of the bytes")
    scores_retention_days: int = _setting(90, "days scores are kept", "small, and the basis of comparisons")
    query_seconds_max: int = _setting(10, "seconds a UI query may run", "a page that takes longer is not read")
    query_rows_read_max: int = _setting(200_000_000, "rows a UI query may read", "bounds the cost of a careless search")
    query_bytes_memory_max: int = _setting(2048 * MIB, "memory a UI query may take", "the engine shares the collector's process")
    page_rows_max: int = _setting(500, "rows a search page may hold", "more is an export, not a page")
    trace_spans_max: int = _setting(20_000, "spans a trace page reads", "shown as a limit when it bites")
    score_device: Literal["auto", "cpu", "cuda"] = _setting("auto", "where scores are computed: auto, cpu or cuda", "auto takes a GPU when numba sees one")
    drain_seconds_max: int = _setting(20, "seconds to store what is queued when asked to stop", "under Kubernetes' default grace of 30")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int) and not isinstance(value, bool) and value < 0:
                raise SettingsError(f"{item.name} must not be negative, it is {value}: leave it out for {item.default}")
        for name in ("otlp_grpc", "otlp_http", "ui"):
            host, port = split_address(name, getattr(self, name))
            if host not in ("127.0.0.1", "localhost", "::1") and not self.insecure_bind:
                raise SettingsError(
                    f"{name} may only listen on loopback, it is {host}:{port}: spans hold prompts and there is no sign-in yet. "
                    "Put an authenticating proxy in front, or say --insecure-bind if the network itself is closed."
                )
        if self.score_device not in ("auto", "cpu", "cuda"):
            raise SettingsError(f"score_device is auto, cpu or cuda, it is {self.score_device!r}")


def split_address(name: str, value: str) -> tuple[str, int]:
    """"host:port" -> (host, port); [::1]:4317 too. Raises SettingsError naming the setting."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{name} is host:port with a port from 0 to 65535, it is {value!r}: try 127.0.0.1:4317")
    return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One row of the table, for flags and documentation."""

    name: str
    flag: str
    env: str
    default: Any
    help: str
    reason: str


def table() -> tuple[SettingRow, ...]:
    """Every setting in order."""
    return tuple(
        SettingRow(item.name, "--" + item.name.replace("_", "-"), "CUTAWAY_" + item.name.upper(), item.default,
                   item.metadata["help"], item.metadata["reason"])
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
