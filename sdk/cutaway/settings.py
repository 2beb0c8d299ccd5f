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
ATTENTIONS: Final = ("off", "layers", "heads", "full")
PROTOCOLS: Final = ("", "grpc", "http/protobuf")
EVALUATIONS: Final = ("span", "off")
EXPORTERS: Final = ("otlp", "console", "none")
METRICS_EXPORTERS: Final = ("none", "otlp", "console", "prometheus")
SECONDS_MAX: Final = 86_400
FEW_MAX: Final = 64
INT_MAX: Final = 2**40
LATEST_CONVENTIONS: Final = "gen_ai_latest_experimental"
REST_BYTES: Final = 64 * 1024
"""What a span may hold besides series and text: counts, statuses, one value a sequence, the user's own attributes."""

CONTENT_MODES: Final = ("NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT")


def _setting(default: Any, env: str, help: str, reason: str, kind: str = "") -> Any:
    kind = kind or type(default).__name__
    return _field(default=default, metadata={"variables": tuple(env.split()), "help": help, "reason": reason, "kind": kind})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every knob of the SDK. An argument of `configure` wins over the environment, which wins over the default."""

    endpoint: str = _setting("", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT",
                             "where spans go: http://host:4317 (gRPC) or http://host:4318 (HTTP; /v1/traces is added)",
                             "empty means OTLP's registered port on this machine")
    protocol: str = _setting("", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL OTEL_EXPORTER_OTLP_PROTOCOL", "`grpc` or `http/protobuf`",
                             "empty means grpc when the endpoint's port is 4317, else http/protobuf: OpenTelemetry's default, and "
                             "safe in programs that fork (data loaders), where gRPC's threads are lost")
    headers: str | tuple[tuple[str, str], ...] = _setting("", "OTEL_EXPORTER_OTLP_TRACES_HEADERS OTEL_EXPORTER_OTLP_HEADERS", "headers of every request, `name=value,name=value`, or a dict",
                            "none")
    service_name: str = _setting("", "OTEL_SERVICE_NAME", "`service.name` of the resource", "empty means what OpenTelemetry chooses")
    exporter: str = _setting("otlp", "OTEL_TRACES_EXPORTER", "`otlp`, `console` (standard output) or `none`", "spans are made to be sent")
    metrics_exporter: str = _setting("none", "OTEL_METRICS_EXPORTER", "a MeterProvider of our own: `otlp`, `console` (standard output) or `none`; `prometheus` is as `none`",
                                     "the program's own MeterProvider gets the metrics; one of ours only when asked")
    disabled: bool = _setting(False, "OTEL_SDK_DISABLED", "true: no span is made, nothing is measured", "tracing is what it is installed for")
    capture: str = _setting("ids", "CUTAWAY_CAPTURE", "`numbers` (no token ids), `ids`, or `text` (prompts and answers too); once chosen, no scope sends more",
                            "content is never sent unasked; ids are needed to line tokens up, but they can be decoded: "
                            "choose `numbers` where that matters")
    content: str = _setting("", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
                            "where text goes when captured: `SPAN_ONLY`, `EVENT_ONLY` or `SPAN_AND_EVENT` (each turns capture of text on); "
                            "`true` is SPAN_ONLY", "empty: `capture` decides, and text goes on the span")
    text_characters_max: int = _setting(200_000, "CUTAWAY_TEXT_CHARACTERS_MAX", "characters of one captured prompt or answer",
                                        "longer texts are cut: a request stays under 4 MiB")
    text_bytes_max: int = _setting(MIB, "CUTAWAY_TEXT_BYTES_MAX", "bytes of all text on one span: prompts, answers, token texts, arguments, exceptions",
                                   "as above; it is less where the series leave less of `request_bytes_max`")
    semconv: str = _setting("", "OTEL_SEMCONV_STABILITY_OPT_IN", "with `gen_ai_latest_experimental` in this comma-separated list, names and types of the unreleased GenAI conventions",
                            "empty means v1.41, the last released text")
    attention: str = _setting("heads", "CUTAWAY_ATTENTION",
                              "`off`, `layers` (every signal, mean over heads), `heads` (and entropy of every head) or `full` (every signal of every head of every layer, and RAUQ)",
                              "every head's entropy costs only bytes, and only where they fit `series_bytes_max`")
    attention_layers_max: int = _setting(6, "CUTAWAY_ATTENTION_LAYERS_MAX",
                                         "layers whose attention is recorded, evenly from the first to the last; 0: every layer, as `full` always does",
                                         "each layer costs time; with six, watching costs about 2 % of the generation, however deep the model")
    alternatives: int = _setting(0, "CUTAWAY_ALTERNATIVES", "most likely tokens to keep beside each chosen one, at most 64",
                                 "eight bytes each, and a second look at every logit: asked for when choices are to be compared", "few")
    attention_sources: int = _setting(0, "CUTAWAY_ATTENTION_SOURCES", "strongest attended positions to keep a token, in 4 layers from the first to the last, at most 64",
                                      "a map to look at, not a measurement; it repeats the work of attention signals for those layers", "few")
    prompt_surprisal: bool = _setting(False, "CUTAWAY_PROMPT_SURPRISAL", "surprisal of the prompt's tokens too",
                                      "transformers computes only the last logits of a prompt: this runs the prompt through the model once more")
    rauq_alpha: float = _setting(0.2, "CUTAWAY_RAUQ_ALPHA", "weight of a token's own probability in RAUQ, 0 to 1",
                                 "the paper's value for base models; it uses 0.5 for tuned ones", "share")
    evaluations: str = _setting("span", "CUTAWAY_EVALUATIONS", "`span`: scores of each sequence as `gen_ai.evaluation.result` events of the span; or `off`",
                                "what reads the conventions finds the scores; about 100 bytes each")
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
    timeout_seconds: float = _setting(10, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT OTEL_EXPORTER_OTLP_TIMEOUT",
                                    "longest export request, retries included, in seconds", "OpenTelemetry's default", "seconds")
    flush_seconds_max: float = _setting(5, "CUTAWAY_FLUSH_SECONDS_MAX", "longest wait of `flush` and `shutdown`, in seconds",
                                      "a program must be able to end while its collector is away", "seconds")

    capture_given: bool = True
    """Not a setting: whether somebody chose `capture`. A chosen one is the most that any scope may send."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.metadata and item.name != "headers":
                _check_type(item.name, item.metadata["kind"], getattr(self, item.name), item.default)
        for name, allowed in (("protocol", PROTOCOLS), ("capture", CAPTURES), ("attention", ATTENTIONS), ("exporter", EXPORTERS),
                              ("metrics_exporter", METRICS_EXPORTERS), ("evaluations", EVALUATIONS)):
            value = getattr(self, name)
            if value not in allowed:
                words = ", ".join(repr(word) for word in allowed if word)
                raise ConfigurationError(f"{name} is one of {words}; it is {value!r}: leave it out for the default")
        if self.content not in ("", *CONTENT_MODES):
            raise ConfigurationError(f"content is one of {', '.join(CONTENT_MODES)}; it is {self.content!r}: leave it out for no content")
        _check_endpoint(self.endpoint)
        _check_headers(self.headers)

    @property
    def latest_conventions(self) -> bool:
        """Whether names and types of the unreleased GenAI conventions are asked for; other words of the list are not ours."""
        return LATEST_CONVENTIONS in (word.strip() for word in self.semconv.split(","))

    def text_room_bytes(self, series_bytes: int = 0) -> int:
        """Bytes that text may take on a span which holds `series_bytes` of series, so that it fits `request_bytes_max` alone."""
        return max(0, min(self.text_bytes_max, self.request_bytes_max - series_bytes - REST_BYTES))

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


def _check_type(name: str, kind: str, value: Any, default: Any) -> None:
    if kind == "bool":
        right, rule = isinstance(value, bool), "true or false"
    elif kind == "share":
        right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        rule = "a number from 0 to 1"
    elif kind == "few":
        right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= FEW_MAX
        rule = f"a whole number from 0 to {FEW_MAX}"
    elif kind == "seconds":
        right = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= SECONDS_MAX
        rule = f"a number of seconds above 0, at most {SECONDS_MAX}"
    elif kind == "int":
        right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INT_MAX
        rule = "a whole number from 0 up" if not isinstance(value, int) or value < 0 else f"a whole number of at most {INT_MAX}"
    else:
        right, rule = isinstance(value, str), "a string"
    if not right:
        raise ConfigurationError(f"{name} is {rule}; it is {value!r}: leave it out for {default!r}")


def _check_endpoint(endpoint: str) -> None:
    """`http://host:port`; the scheme may be left out."""
    if not endpoint:
        return
    remedy = "try http://localhost:4318"
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"endpoint has a port from 1 to 65535; it is {endpoint!r}: {remedy}") from None
    if parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"endpoint begins with http:// or https://; it is {endpoint!r}: {remedy}")
    if not parts.hostname or any(character.isspace() for character in endpoint):
        raise ConfigurationError(f"endpoint has a host and no spaces; it is {endpoint!r}: {remedy}")
    if port == 0:
        raise ConfigurationError(f"endpoint has a port from 1 to 65535; it is {endpoint!r}: {remedy}")


def _check_headers(headers: Any) -> None:
    """Values may be secrets: a message never holds one."""
    remedy = "write name=value,name=value or pass a dict"
    if isinstance(headers, str):
        if any("=" not in item for item in headers.split(",") if item.strip()):
            raise ConfigurationError(f"headers are pairs of name and value; one has no '=': {remedy}")
        return
    if not isinstance(headers, tuple):
        raise ConfigurationError(f"headers are pairs of name and value; they are of type {type(headers).__name__}: {remedy}")
    for name, value in headers:
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigurationError(f"names and values of headers are strings; {name!r} is not or has another: {remedy}")
        if not name or not name.isascii() or not name.isprintable() or any(sign in name for sign in " =:,"):
            raise ConfigurationError(f"a header's name is made of letters, digits and hyphens; it is {name!r}: {remedy}")
        if not value.isprintable():
            raise ConfigurationError(f"a header's value is one printable line; that of {name!r} is not: {remedy}")


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One row of the table, for documentation: `env` names the `variables`, the first one set wins. `kind`: how a text is read."""

    name: str
    env: str
    variables: tuple[str, ...]
    kind: str
    default: Any
    help: str
    reason: str


def table() -> tuple[SettingRow, ...]:
    """Every setting in order."""
    return tuple(
        SettingRow(name=item.name, env=", ".join(item.metadata["variables"]), default=item.default, **item.metadata)
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
            for env in row.variables:
                if environ.get(env, "").strip():
                    chosen[row.name] = _parse(row, environ[env].strip(), env)
                    break
        elif row.kind == "bool" and isinstance(chosen[row.name], str):
            chosen[row.name] = _parse(row, chosen[row.name].strip(), row.name)
    if isinstance(chosen.get("headers"), Mapping):
        chosen["headers"] = tuple(chosen["headers"].items())
    if isinstance(chosen.get("content"), str | bool):
        content = str(chosen["content"]).strip().upper()
        chosen["content"] = {"TRUE": "SPAN_ONLY", "FALSE": "NO_CONTENT"}.get(content, content)
    return Settings(**chosen, capture_given="capture" in chosen)


def _parse(row: SettingRow, text: str, source: str) -> Any:
    """The value of a text that came from `source`, a variable or an argument."""
    if row.kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ConfigurationError(f"{source} is true or false; it is {text!r}: the default is {str(row.default).lower()}")
        return text.lower() == "true"
    if row.kind in ("int", "few", "seconds", "share"):
        rule = {"seconds": "a number of seconds", "share": "a number from 0 to 1"}.get(row.kind, "a whole number")
        try:
            number = float(text)
            if row.kind in ("seconds", "share"):
                return number
            if number.is_integer():
                return int(number)
        except ValueError:
            pass
        raise ConfigurationError(f"{source} is {rule}; it is {text!r}: the default is {row.default}")
    return text
