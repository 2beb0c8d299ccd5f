"""SDK settings as one table: name, environment variable, default with its reason, help. Keyword arguments and docs derive from it.

Not the collector's settings (cutaway_collector.settings). Standard `OTEL_*` variables keep their standard meaning; variables that
OpenTelemetry's own classes read by themselves (samplers, span limits, certificates) are not repeated here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from dataclasses import field as _field
from typing import Any, Final
from urllib.parse import urlsplit

from cutaway.errors import ConfigurationError

MIB: Final = 1024 * 1024
CAPTURES: Final = ("numbers", "ids", "text")
ATTENTIONS: Final = ("off", "layers", "heads")
PROTOCOLS: Final = ("", "grpc", "http/protobuf")
EXPORTERS: Final = ("otlp", "console", "none")
CONTENT_MODES: Final = ("NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT")


def _setting(default: Any, env: str, help: str, reason: str) -> Any:
    return _field(default=default, metadata={"env": tuple(env.split()), "help": help, "reason": reason})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every knob of the SDK. An argument of `configure` wins over the environment, which wins over the default."""

    endpoint: str = _setting("", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT",
                             "where spans go: http://host:4317 (gRPC) or http://host:4318 (HTTP; /v1/traces is added)",
                             "empty means OTLP's registered port on this machine")
    protocol: str = _setting("", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL OTEL_EXPORTER_OTLP_PROTOCOL", "`grpc` or `http/protobuf`",
                             "empty means grpc when the endpoint's port is 4317, else http/protobuf: OpenTelemetry's default, and "
                             "safe in programs that fork (data loaders), where gRPC's threads are lost")
    headers: str = _setting("", "OTEL_EXPORTER_OTLP_TRACES_HEADERS OTEL_EXPORTER_OTLP_HEADERS", "headers of every request, `name=value,name=value`",
                            "none")
    service_name: str = _setting("", "OTEL_SERVICE_NAME", "`service.name` of the resource", "empty means what OpenTelemetry chooses")
    exporter: str = _setting("otlp", "OTEL_TRACES_EXPORTER", "`otlp`, `console` (standard output) or `none`", "spans are made to be sent")
    disabled: bool = _setting(False, "OTEL_SDK_DISABLED", "true: no span is made, nothing is measured", "tracing is what it is installed for")
    capture: str = _setting("ids", "CUTAWAY_CAPTURE", "`numbers` (no token ids), `ids`, or `text` (prompts and answers too); once chosen, no scope sends more",
                            "content is never sent unasked; ids are needed to line tokens up, but they can be decoded: "
                            "choose `numbers` where that matters")
    content: str = _setting("", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
                            "where text goes when captured: `SPAN_ONLY`, `EVENT_ONLY` or `SPAN_AND_EVENT` (each turns capture of text on); "
                            "`true` is SPAN_ONLY", "empty: `capture` decides, and text goes on the span")
    text_characters_max: int = _setting(200_000, "CUTAWAY_TEXT_CHARACTERS_MAX", "characters of one captured prompt or answer",
                                        "longer texts are cut: a request stays under 4 MiB")
    attention: str = _setting("heads", "CUTAWAY_ATTENTION", "`off`, `layers` (mean over heads) or `heads` (every head, float16)",
                              "heads cost only bytes, and only where they fit `series_bytes_max`")
    series_bytes_max: int = _setting(2 * MIB, "CUTAWAY_SERIES_BYTES_MAX", "bytes of packed series on one span",
                                     "a request stays under 4 MiB, the message limit of most gRPC receivers")
    request_bytes_max: int = _setting(3 * MIB, "CUTAWAY_REQUEST_BYTES_MAX", "estimated bytes of one export request",
                                      "as above, with room for what the estimate does not count")
    queue_bytes_max: int = _setting(64 * MIB, "CUTAWAY_QUEUE_BYTES_MAX", "estimated bytes of spans waiting to be sent; the oldest are dropped",
                                    "an outage must not take the host's memory")
    queue_spans_max: int = _setting(2048, "OTEL_BSP_MAX_QUEUE_SIZE", "spans waiting to be sent; the oldest are dropped", "OpenTelemetry's default")
    batch_spans_max: int = _setting(512, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "spans of one export request", "OpenTelemetry's default")
    delay_ms: int = _setting(1000, "OTEL_BSP_SCHEDULE_DELAY", "longest wait before spans are sent, in milliseconds",
                             "OpenTelemetry's 5000 is long for somebody who waits for a trace")
    timeout_seconds: int = _setting(10, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT OTEL_EXPORTER_OTLP_TIMEOUT",
                                    "longest export request, retries included, in seconds", "OpenTelemetry's default")
    flush_seconds_max: int = _setting(5, "CUTAWAY_FLUSH_SECONDS_MAX", "longest wait of `flush` and `shutdown`, in seconds",
                                      "a program must be able to end while its collector is away")

    capture_given: bool = True
    """Not a setting: whether somebody chose `capture`. A chosen one is the most that any scope may send."""

    def __post_init__(self) -> None:
        for name, allowed in (("protocol", PROTOCOLS), ("capture", CAPTURES), ("attention", ATTENTIONS), ("exporter", EXPORTERS)):
            value = getattr(self, name)
            if value not in allowed:
                words = ", ".join(repr(word) for word in allowed if word)
                raise ConfigurationError(f"{name} is one of {words}; it is {value!r}: leave it out for the default")
        if self.content not in ("", *CONTENT_MODES):
            raise ConfigurationError(f"content is one of {', '.join(CONTENT_MODES)}; it is {self.content!r}: leave it out for no content")
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(item.default, int) and not isinstance(item.default, bool) and (not isinstance(value, int) or value < 0):
                raise ConfigurationError(f"{item.name} is a whole number from 0 up; it is {value!r}: leave it out for {item.default}")
        if self.endpoint and "://" in self.endpoint and urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise ConfigurationError(f"endpoint begins with http:// or https://; it is {self.endpoint!r}: try http://localhost:4318")

    def capture_within(self, override: str | None) -> str:
        """The capture in force inside a scope that asks for `override`: the strictest of what was chosen.

        A chosen `capture` is a ceiling. Nobody chose one: `content` may have turned text on, and a scope may raise `ids` to `text`.
        An operator's NO_CONTENT holds text back from everything.
        """
        ceiling = self.capture if self.capture_given else "text"
        if self.content == "NO_CONTENT" and ceiling == "text":
            ceiling = "ids"
        wanted = override or ("text" if self.content in CONTENT_MODES[1:] else self.capture)
        return min(wanted, ceiling, key=CAPTURES.index)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One row of the table, for documentation: `env` names the variables, the first one set wins."""

    name: str
    env: tuple[str, ...]
    default: Any
    help: str
    reason: str


def table() -> tuple[SettingRow, ...]:
    """Every setting in order."""
    return tuple(
        SettingRow(item.name, item.metadata["env"], item.default, item.metadata["help"], item.metadata["reason"])
        for item in fields(Settings) if item.metadata
    )


def load(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Arguments win over the environment, which wins over the defaults. Raises ConfigurationError naming what is wrong."""
    environ = os.environ if environ is None else environ
    names = {row.name for row in table()}
    unknown = sorted(set(arguments) - names)
    if unknown:
        raise ConfigurationError(f"unknown setting {unknown[0]!r}: known are {', '.join(sorted(names))}")
    chosen = {name: value for name, value in arguments.items() if value is not None}
    for row in table():
        if row.name not in chosen:
            for env in row.env:
                if environ.get(env, "").strip():
                    chosen[row.name] = _parse(row, environ[env].strip(), env)
                    break
    if isinstance(chosen.get("headers"), Mapping):
        chosen["headers"] = ",".join(f"{name}={value}" for name, value in chosen["headers"].items())
    return Settings(**chosen, capture_given="capture" in chosen)


def _parse(row: SettingRow, text: str, env: str) -> Any:
    if row.name == "content":
        return {"TRUE": "SPAN_ONLY", "FALSE": "NO_CONTENT"}.get(text.upper(), text.upper())
    if isinstance(row.default, bool):
        return text.lower() == "true"
    if isinstance(row.default, int):
        try:
            return int(float(text))
        except ValueError:
            raise ConfigurationError(f"{env} is a whole number; it is {text!r}: the default is {row.default}") from None
    return text
