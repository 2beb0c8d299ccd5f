"""THE field registry: every name a search may use, with its aliases, SQL expression, kind, unit and description.

Not a parser and not a query: the language resolves names here, and the SQL it writes is made of these constants. Columns, types,
attribute names and descriptions come from `columns.py`, so a new column needs one line here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final, Literal

from cutaway import conventions as c
from cutaway_collector.columns import TRACES

Kind = Literal["text", "number", "list"]

GENERATION_OPERATIONS: Final = ("chat", "generate_content", "text_completion")
"""`gen_ai.operation.name` values of spans in which a model generates; tools, agents and embeddings carry others."""


WHOLE_UNITS: Final = frozenset({"ns", "tokens", "bytes", "steps"})
"""Units counted in whole numbers: their columns are UInt64, all other numbers Float64."""


SORT_CHARACTERS_MAX: Final = 200
"""Characters of a text that count when rows are sorted by it."""


@dataclass(frozen=True, slots=True)
class Field:
    """One searchable name.

    expression: ClickHouse expression over otel_traces; "text" is never NULL ("" means absent), "number" may be NULL, "list" is
    Array(String). unit: of the expression's numbers (see `values.py`). values: the stored spellings
    when they are a closed set, matched without regard to case. phrase: how an explanation calls it.
    """

    name: str
    aliases: tuple[str, ...]
    expression: str
    kind: Kind
    unit: str
    description: str
    phrase: str
    nullable: bool = False
    values: tuple[str, ...] = ()

    @property
    def present(self) -> str:
        """SQL condition: this span has the field."""
        if self.kind == "list":
            return f"notEmpty({self.expression})"
        if self.kind == "text":
            return f"{self.expression} != ''"
        return f"{self.expression} IS NOT NULL" if self.nullable else "1"

    @property
    def sort_expression(self) -> str:
        """SQL expression to order by: NULL where the field is absent or not a finite number. Raises ValueError for lists."""
        if self.kind == "list":
            raise ValueError(f"a list has no order: {self.name}")
        if self.kind == "text":
            # Cut, so that the sort key of any row fits into a page cursor.
            return f"nullIf(substringUTF8(toString({self.expression}), 1, {SORT_CHARACTERS_MAX}), '')"
        if not self.nullable:
            return f"toNullable({self.expression})"
        return f"if(isFinite({self.expression}), {self.expression}, NULL)"


@dataclass(frozen=True, slots=True)
class Flag:
    """One `is:` word: its condition, and how an explanation says that a span has it or has it not ("that are generations")."""

    name: str
    condition: str
    phrase: str
    negated: str


def _column(name: str, column: str, *aliases: str, unit: str = "", phrase: str = "", values: tuple[str, ...] = ()) -> Field:
    """A field that is one column: kind, description and the attribute names that fill it come from the column table."""
    entry = TRACES.column(column)
    kind: Kind = "text" if "String" in entry.type else "number"
    return Field(name, (*aliases, *entry.attributes), entry.name, kind, unit, entry.reason, phrase or name,
                 entry.type.startswith("Nullable("), values)


_FINISH: Final = f"SpanAttributes['{c.RESPONSE_FINISH_REASONS}']"
_ENERGY: Final = f"SpanAttributes['{c.MACHINE_GPU_ENERGY}']"
"""One number a GPU. Summed, for it is what the call cost; no column, since few senders count energy."""
_ENVIRONMENT: Final = "deployment.environment"
_TPS: Final = ("(multiIf(TimePerOutputTokenS > 0, 1 / TimePerOutputTokenS, "
               "OutputTokens > 1 AND TimeToFirstTokenS > 0 AND Duration / 1000000000. > TimeToFirstTokenS, "
               "(OutputTokens - 1) / (Duration / 1000000000. - TimeToFirstTokenS), "
               "OutputTokens / nullIf(Duration / 1000000000., 0.)))")
"""The pace of decoding: waiting for the first token is no slowness of the others. Whoever says no times has the span's duration."""

FIELDS: Final[tuple[Field, ...]] = (
    _column("trace", "TraceId", "trace_id", "traceid", phrase="trace id"),
    _column("span", "SpanId", "span_id", "spanid", phrase="span id"),
    _column("parent", "ParentSpanId", "parent_span_id", phrase="parent span id"),
    _column("name", "SpanName", "span_name", phrase="span name"),
    _column("kind", "SpanKind", phrase="span kind",
            values=("Unspecified", "Internal", "Server", "Client", "Producer", "Consumer")),
    _column("service", "ServiceName", "service.name", "service_name"),
    _column("status", "StatusCode", values=("Unset", "Ok", "Error")),
    _column("status.message", "StatusMessage", "message", "status_message", phrase="status message"),
    _column("scope", "ScopeName", "scope.name", phrase="instrumentation scope"),
    _column("duration", "Duration", "latency", unit="ns"),
    _column("operation", "GenAiOperation", "op"),
    _column("provider", "GenAiProvider"),
    _column("model", "GenAiModel"),
    _column("conversation", "ConversationId", "session"),
    _column("tokens.in", "InputTokens", "input_tokens", "prompt_tokens", unit="tokens", phrase="input tokens"),
    _column("tokens.out", "OutputTokens", "output_tokens", "completion_tokens", unit="tokens", phrase="output tokens"),
    Field("tokens", ("tokens.total",), "(InputTokens + OutputTokens)", "number", "tokens", "input and output tokens together",
          "total tokens", True),
    _column("ttft", "TimeToFirstTokenS", "ttft_s", unit="s", phrase="time to first token"),
    _column("tpot", "TimePerOutputTokenS", "tpot_s", unit="s", phrase="time per output token"),
    Field("tps", ("tok/s", "throughput"), _TPS, "number", "tokens/s",
          "output tokens a second while decoding; by the duration of the span where no token has a time",
          "output tokens a second", True),
    _column("perplexity", "Perplexity", "ppl"),
    _column("surprisal", "SurprisalMean", "surprisal.mean", "surprisal_mean", unit="nats", phrase="mean surprisal"),
    _column("surprisal.max", "SurprisalMax", "surprisal_max", unit="nats", phrase="largest surprisal"),
    _column("entropy", "EntropyMean", "entropy.mean", "entropy_mean", unit="nats", phrase="mean entropy"),
    _column("attn", "AttentionEntropyMean", "attn.mean", "attn.entropy", "attn.entropy.mean", "attention", "attention_entropy_mean",
            unit="nats", phrase="mean attention entropy"),
    _column("attn.min", "AttentionEntropyMin", "attn.entropy.min", "attention.min", "attention_entropy_min", unit="nats",
            phrase="smallest attention entropy"),
    _column("nll", "Nll", "output.nll", unit="nats", phrase="negative log-likelihood"),
    _column("bpb", "BitsPerByte", "bits_per_byte", unit="bits/byte", phrase="bits per byte"),
    _column("window", "WorstWindow", "worst_window", unit="nats", phrase="worst window"),
    _column("surprisal.slope", "SurprisalSlope", "surprisal_slope", "slope", unit="nats", phrase="surprisal slope"),
    _column("rauq", "Rauq", unit="nats", phrase="RAUQ"),
    _column("repetition", "Repetition", "rep"),
    _column("loop", "LoopPeriod", "loop_period", unit="tokens", phrase="loop period"),
    _column("compression", "CompressionRatio", "compression_ratio", phrase="compression ratio"),
    _column("attn.norm", "AttentionNormalizedEntropyMean", "attn.normalized", "attention.normalized",
            phrase="mean normalized attention entropy"),
    _column("attn.sink", "AttentionSinkMean", "attention.sink", "sink", phrase="mean sink mass"),
    _column("attn.last", "AttentionLastKeyMean", "attn.last_key", "attention.last_key", phrase="mean last-key mass"),
    _column("attn.lookback", "AttentionLookbackMean", "attention.lookback", "lookback", phrase="mean lookback ratio"),
    _column("attn.cross", "CrossAttentionEntropyMean", "attention.cross", unit="nats", phrase="mean cross-attention entropy"),
    _column("prompt.perplexity", "PromptPerplexity", "prompt.ppl", phrase="prompt perplexity"),
    _column("acceptance", "AcceptanceRate", "acceptance_rate", phrase="acceptance rate"),
    _column("cpu", "CpuTimeS", "cpu_time", unit="s", phrase="CPU time"),
    _column("memory", "MemoryRssBytes", "rss", unit="bytes", phrase="resident memory"),
    Field("energy", ("gpu.energy", c.MACHINE_GPU_ENERGY),
          f"if({_ENERGY} = '', NULL, arraySum(JSONExtract({_ENERGY}, 'Array(Float64)')))",
          "number", "J", "joules that all GPUs of the call took while it ran", "GPU energy", True),
    _column("steps", "DiffusionSteps", "diffusion.steps", unit="steps", phrase="denoising steps"),
    _column("nonfinite", "NonfiniteStep", "nonfinite_step", unit="steps", phrase="first step that was not finite"),
    Field("finish", ("finish_reason", "finish_reasons", c.RESPONSE_FINISH_REASONS),
          f"if(startsWith({_FINISH}, '['), JSONExtract({_FINISH}, 'Array(String)'), if({_FINISH} = '', [], [{_FINISH}]))",
          "list", "", "why each sequence ended: stop, length or error", "finish reason"),
    Field("error", (c.ERROR_TYPE,), f"SpanAttributes['{c.ERROR_TYPE}']", "text", "", "class of the error that ended the span",
          "error type"),
    Field("env", ("environment", _ENVIRONMENT, f"{_ENVIRONMENT}.name"),
          f"if(ResourceAttributes['{_ENVIRONMENT}.name'] != '', ResourceAttributes['{_ENVIRONMENT}.name'], "
          f"ResourceAttributes['{_ENVIRONMENT}'])",
          "text", "", "deployment environment of the sender", "environment"),
    Field("event", ("events", "event.name"), "`Events.Name`", "list", "", "names of the span's events", "event"),
)
"""In the order of the documentation."""

FLAGS: Final[tuple[Flag, ...]] = (
    Flag("error", "StatusCode = 'Error'", "that ended in an error", "that did not end in an error"),
    Flag("ok", "StatusCode = 'Ok'", "that say they ended well", "that do not say they ended well"),
    Flag("root", "ParentSpanId = ''", "that are the root of their trace", "that have a parent"),
    Flag("generation", "GenAiOperation IN (" + ", ".join(f"'{name}'" for name in GENERATION_OPERATIONS) + ")",
         "that are generations", "that are not generations"),
)

TIME_SORTS: Final = ("start", "time")
"""Names of the sort that needs no field: start of the span."""

TIME_WORDS: Final = ("time", "start", "since", "until", "from", "to", "date", "timestamp")
"""What somebody may write who wants spans of some time. No field: attributes may be called so."""
TIME_REMEDY: Final = "when spans began is no condition: choose the time range above the results, or from= and to= in the address"

_BY_NAME: Final[dict[str, Field]] = {name.lower(): field for field in FIELDS for name in (field.name, *field.aliases)}
_FLAGS: Final[dict[str, Flag]] = {flag.name: flag for flag in FLAGS}
NAMES: Final = tuple(_BY_NAME)
"""Every name and alias, in lower case."""


def lookup(name: str) -> Field | None:
    """The field of that name or alias, without regard to case; None when there is none."""
    return _BY_NAME.get(name.lower())


def flag(name: str) -> Flag | None:
    """The `is:` word of that name; None when there is none."""
    return _FLAGS.get(name.lower())


def nearest(name: str, names: tuple[str, ...] = (), *, like: float | None = None) -> str:
    """The known name most like `name`, for "did you mean"; "" when none is close. `names` defaults to all fields and aliases.

    like: share of letters in common that is close enough.
    """
    # Short closed lists (units, flags) deserve a guess that the long list of names does not.
    close = difflib.get_close_matches(name.lower(), names or tuple(_BY_NAME), n=1, cutoff=like or (0.5 if names else 0.7))
    return close[0] if close else ""
