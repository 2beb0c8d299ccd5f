"""THE schema: every stored column, once. DDL, insert lists, the decoder's lifted attributes, migrations and docs derive from it.

`otel_traces` begins with the columns of the OpenTelemetry ClickHouse exporter, same names, order and value spellings, so that
Grafana and ClickStack read it and otelcol can write it; our columns follow, each with a default computed from the attributes, so
that a foreign INSERT which does not name them still fills them. Token series have a table of their own, so span lists never read
them; scores have another, so that re-scoring replaces rows without touching spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cutaway import conventions as c

DATABASE: Final = "otel"


@dataclass(frozen=True, slots=True)
class Column:
    """One stored column.

    type: ClickHouse type. codec: its CODEC arguments, "" for the server's default. attributes: span attributes that fill it, the
    first one present wins. series: the packed series that fills it. default: DEFAULT expression where no attribute gives one.
    reason: what it is for.
    """

    name: str
    type: str
    codec: str
    reason: str
    attributes: tuple[str, ...] = ()
    series: str = ""
    default: str = ""

    @property
    def default_expression(self) -> str:
        """The DEFAULT expression, derived from `attributes` when there are any, else `default`; "" for none."""
        if not self.attributes:
            return self.default
        parts = [_from_map(self.type, name) for name in self.attributes]
        if len(parts) == 1:
            return parts[0]
        return f"coalesce({', '.join(parts)})" if self.type.startswith("Nullable") else _first_non_empty(parts)


def _from_map(type: str, attribute: str) -> str:
    value = f"SpanAttributes['{attribute}']"
    if type.startswith("Nullable("):
        return f"to{type.removeprefix('Nullable(').removesuffix(')')}OrNull({value})"
    return value


def _first_non_empty(parts: list[str]) -> str:
    tail = parts[-1]
    for part in reversed(parts[:-1]):
        tail = f"if({part} != '', {part}, {tail})"
    return tail


@dataclass(frozen=True, slots=True)
class Index:
    """One data-skipping index: name, expression, type, granularity."""

    name: str
    expression: str
    type: str
    granularity: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    """One table: columns in order, engine and keys. `retention` names the setting that holds its days.

    Days are counted from IngestedAt, not from the span's own time: what arrives late, a back-fill say, is kept as long as anything
    else, and a sender's wrong clock neither hides a span at once nor keeps it for ever.
    """

    name: str
    columns: tuple[Column, ...]
    engine: str
    partition_by: str
    order_by: str
    primary_key: str = ""
    indexes: tuple[Index, ...] = ()
    aliases: tuple[tuple[str, str, str], ...] = ()
    retention: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    def column(self, name: str) -> Column:
        """The column of that name. Raises KeyError."""
        return {column.name: column for column in self.columns}[name]


_Z: Final = "ZSTD(1)"
_MAP: Final = "Map(LowCardinality(String), String)"
_LC: Final = "LowCardinality(String)"
_NF: Final = "Nullable(Float64)"
_NU: Final = "Nullable(UInt64)"

UPSTREAM_COLUMNS: Final[tuple[Column, ...]] = (
    Column("Timestamp", "DateTime64(9)", f"Delta(8), {_Z}", "start of the span, UTC"),
    Column("TraceId", "String", _Z, "32 lower-case hex digits"),
    Column("SpanId", "String", _Z, "16 lower-case hex digits"),
    Column("ParentSpanId", "String", _Z, "16 lower-case hex digits, empty for a root span"),
    Column("TraceState", "String", _Z, "W3C tracestate as sent"),
    Column("SpanName", _LC, _Z, "name of the operation"),
    Column("SpanKind", _LC, _Z, "Unspecified, Internal, Server, Client, Producer or Consumer"),
    Column("ServiceName", _LC, _Z, "resource attribute service.name"),
    Column("ResourceAttributes", _MAP, _Z, "attributes of the sender; values as text, arrays and maps as JSON, bytes as base64"),
    Column("ScopeName", "String", _Z, "instrumentation scope"),
    Column("ScopeVersion", "String", _Z, "its version"),
    Column("SpanAttributes", _MAP, _Z, "attributes of the span, without the packed series, which are lifted out"),
    Column("Duration", "UInt64", f"T64, {_Z}", "nanoseconds; 0 when the sender's end lies before its start"),
    Column("StatusCode", _LC, _Z, "Unset, Ok or Error"),
    Column("StatusMessage", "String", _Z, "what the sender says went wrong"),
    Column("Events.Timestamp", "Array(DateTime64(9))", _Z, "time of each event"),
    Column("Events.Name", f"Array({_LC})", _Z, "name of each event"),
    Column("Events.Attributes", f"Array({_MAP})", _Z, "attributes of each event"),
    Column("Links.TraceId", "Array(String)", _Z, "trace each link points to"),
    Column("Links.SpanId", "Array(String)", _Z, "span each link points to"),
    Column("Links.TraceState", "Array(String)", _Z, "tracestate of each link"),
    Column("Links.Attributes", f"Array({_MAP})", _Z, "attributes of each link"),
)
"""As opentelemetry-collector-contrib/exporter/clickhouseexporter creates them; Events and Links are its Nested columns, flat."""

_INGESTED_AT: Final = Column("IngestedAt", "DateTime64(3)", f"Delta(8), {_Z}", "when the collector received it", default="now64(3)")

OWN_COLUMNS: Final[tuple[Column, ...]] = (
    Column("TenantId", _LC, _Z, "from the credential, never from the payload", default="''"),
    _INGESTED_AT,
    Column("GenAiOperation", _LC, _Z, "tells generations from other spans", attributes=(c.OPERATION_NAME,)),
    Column("GenAiProvider", _LC, _Z, "who runs the model", attributes=(c.PROVIDER_NAME,)),
    Column("GenAiModel", _LC, _Z, "the model asked for", attributes=(c.REQUEST_MODEL,)),
    Column("ConversationId", "String", _Z, "groups the turns of one conversation", attributes=(c.CONVERSATION_ID,)),
    Column("InputTokens", _NU, f"T64, {_Z}", "prompt tokens, NULL when not reported", attributes=(c.USAGE_INPUT_TOKENS,)),
    Column("OutputTokens", _NU, f"T64, {_Z}", "generated tokens, NULL when not reported", attributes=(c.USAGE_OUTPUT_TOKENS,)),
    Column("TimeToFirstTokenS", _NF, _Z, "seconds from call to first token",
           attributes=(c.TIME_TO_FIRST_TOKEN, c.RESPONSE_TIME_TO_FIRST_CHUNK)),
    Column("TimePerOutputTokenS", _NF, _Z, "seconds a token while decoding", attributes=(c.TIME_PER_OUTPUT_TOKEN,)),
    Column("Perplexity", _NF, _Z, "exp(mean surprisal)", attributes=(c.OUTPUT_PERPLEXITY,)),
    Column("SurprisalMean", _NF, _Z, "nats", attributes=(c.OUTPUT_SURPRISAL_MEAN,)),
    Column("SurprisalMax", _NF, _Z, "nats: the least expected token", attributes=(c.OUTPUT_SURPRISAL_MAX,)),
    Column("EntropyMean", _NF, _Z, "nats", attributes=(c.OUTPUT_ENTROPY_MEAN,)),
    Column("AttentionEntropyMean", _NF, _Z, "nats, over tokens, layers and heads", attributes=(c.ATTENTION_ENTROPY_MEAN,)),
    Column("AttentionEntropyMin", _NF, _Z, "nats, narrowest layer of any token", attributes=(c.ATTENTION_ENTROPY_MIN,)),
)

_DEDUPLICATION: Final = ("non_replicated_deduplication_window", "10000")
"""A replayed batch carries the same token; the window is how many inserts ago a token is still known."""
_ON_DISK: Final = (("fsync_after_insert", "1"), ("fsync_part_directory", "1"))
"""An insert that has returned has reached the disk: only then may the spool forget the records."""
_DROP_PARTS: Final = ("ttl_only_drop_parts", "1")

TRACES: Final = Table(
    name="otel_traces",
    columns=UPSTREAM_COLUMNS + OWN_COLUMNS,
    aliases=tuple(
        (f"{prefix}Items", "Array(String)",
         f"arrayMap(kv -> concat(kv.1, '=', kv.2), CAST({prefix}s, 'Array(Tuple(String, String))'))")
        for prefix in ("ResourceAttribute", "SpanAttribute")
    ),
    indexes=(
        Index("idx_trace_id", "TraceId", "bloom_filter(0.001)"),
        Index("idx_span_id", "SpanId", "bloom_filter(0.001)"),
        Index("idx_res_attr_key", "mapKeys(ResourceAttributes)", "bloom_filter(0.01)"),
        Index("idx_span_attr_key", "mapKeys(SpanAttributes)", "bloom_filter(0.01)"),
        Index("idx_res_attr_items", "ResourceAttributeItems", "bloom_filter(0.01)"),
        Index("idx_span_attr_items", "SpanAttributeItems", "bloom_filter(0.01)"),
        Index("idx_duration", "Duration", "minmax"),
        Index("idx_perplexity", "Perplexity", "minmax"),
        Index("idx_conversation", "ConversationId", "bloom_filter(0.01)"),
    ),
    engine="MergeTree",
    partition_by="toDate(Timestamp)",
    primary_key="(ServiceName, SpanName, toDateTime(Timestamp))",
    order_by="(ServiceName, SpanName, toDateTime(Timestamp), Timestamp)",
    retention="retention_days",
    settings=(("index_granularity", "8192"), _DROP_PARTS, _DEDUPLICATION, *_ON_DISK),
    reason="one row a span",
)

TRACE_TIMES: Final = Table(
    name="otel_traces_trace_id_ts",
    columns=(
        Column("TraceId", "String", _Z, "trace"),
        Column("Start", "SimpleAggregateFunction(min, DateTime)", _Z, "first second of the trace"),
        Column("End", "SimpleAggregateFunction(max, DateTime)", _Z, "last second in which a span of it starts"),
        Column("IngestedAt", "SimpleAggregateFunction(max, DateTime)", _Z, "when its last span arrived", default="now()"),
    ),
    engine="AggregatingMergeTree",
    partition_by="toStartOfWeek(Start)",
    order_by="(TraceId)",
    retention="retention_days",
    settings=(_DROP_PARTS, _DEDUPLICATION, *_ON_DISK),
    reason="when a trace happened, so that a look-up by id reads minutes, not everything; Grafana probes for it by name",
)

TRACE_TIMES_VIEW: Final = (
    "otel_traces_trace_id_ts_mv", TRACE_TIMES.name,
    "SELECT TraceId, min(Timestamp) AS Start, max(Timestamp) AS End, max(IngestedAt) AS IngestedAt FROM {database}.otel_traces WHERE TraceId != '' GROUP BY TraceId",
)
"""Materialised view: name, target table, SELECT with `{database}` to fill in."""

_IDENTITY: Final[tuple[Column, ...]] = (
    Column("Timestamp", "DateTime64(9)", f"Delta(8), {_Z}", "start of the span, UTC"),
    Column("TenantId", _LC, _Z, "as in otel_traces", default="''"),
    Column("ServiceName", _LC, _Z, "as in otel_traces"),
    Column("GenAiModel", _LC, _Z, "as in otel_traces"),
    Column("TraceId", "String", _Z, "the generation's trace"),
    Column("SpanId", "String", _Z, "the generation's span"),
    Column("SeqIndex", "UInt16", _Z, "which sequence of the generation, from 0"),
    _INGESTED_AT,
)

TOKENS: Final = Table(
    name="gen_ai_tokens",
    columns=(
        *_IDENTITY,
        Column("InputTokens", "UInt32", f"T64, {_Z}", "prompt tokens of this sequence"),
        Column("OutputTokens", "UInt32", f"T64, {_Z}", "generated tokens: the length of every series that is not empty"),
        Column("TokenIds", "Array(UInt32)", f"T64, {_Z}", "token ids; empty when the sender captures numbers only", series=c.TOKEN_ID),
        Column("TokenTexts", "Array(String)", _Z, "text pieces; empty unless the sender captures text", series=c.TOKEN_TEXT),
        Column("Surprisals", "Array(Float32)", _Z, "nats", series=c.TOKEN_SURPRISAL),
        Column("Entropies", "Array(Float32)", _Z, "nats", series=c.TOKEN_ENTROPY),
        Column("Margins", "Array(Float32)", _Z, "nats", series=c.TOKEN_MARGIN),
        Column("Ranks", "Array(UInt32)", f"T64, {_Z}", "0 is the model's first choice", series=c.TOKEN_RANK),
        Column("InterTokenS", "Array(Float32)", _Z, "seconds since the previous token; first: since the call",
               series=c.TOKEN_INTER_TOKEN_TIME),
        Column("AttentionLayers", "UInt16", _Z, "layers in AttentionEntropies and AttentionEntropyHeads; 0 when neither is there"),
        Column("AttentionHeads", "UInt16", _Z, "heads in AttentionEntropyHeads; 0 when it is not there"),
        Column("AttentionEntropies", "Array(Float32)", _Z, "nats, [token x layer] row-major, mean over heads", series=c.ATTENTION_ENTROPY),
        Column("AttentionEntropyHeads", "Array(Float32)", _Z, "nats, [token x layer x head] row-major", series=c.ATTENTION_ENTROPY_HEADS),
    ),
    indexes=(Index("idx_trace_id", "TraceId", "bloom_filter(0.001)"), Index("idx_span_id", "SpanId", "bloom_filter(0.001)")),
    engine="MergeTree",
    partition_by="toDate(Timestamp)",
    order_by="(ServiceName, GenAiModel, toDateTime(Timestamp), Timestamp, SpanId, SeqIndex)",
    retention="tokens_retention_days",
    settings=(("index_granularity", "1024"), ("index_granularity_bytes", "67108864"), _DROP_PARTS, _DEDUPLICATION, *_ON_DISK),
    reason="one row a generated sequence: the token series as arrays",
)

SCORES: Final = Table(
    name="gen_ai_scores",
    columns=(
        *_IDENTITY,
        Column("ScoreName", _LC, _Z, "what was scored"),
        Column("ScorerVersion", _LC, _Z, "version of the scorer that said so"),
        Column("Source", _LC, _Z, "`collector`, or who sent it"),
        Column("Value", "Float64", _Z, "the score"),
        Column("Label", _LC, _Z, "the score in a word, where it has one", default="''"),
        Column("Explanation", "String", "ZSTD(3)", "why, in words, where there is more to say", default="''"),
        Column("Version", "UInt64", _Z, "milliseconds since 1970: the newest of equal keys wins",
               default="toUnixTimestamp64Milli(now64(3))"),
        Column("IsDeleted", "UInt8", _Z, "1 hides the row", default="0"),
    ),
    indexes=(Index("idx_trace_id", "TraceId", "bloom_filter(0.001)"), Index("idx_span_id", "SpanId", "bloom_filter(0.001)")),
    engine="ReplacingMergeTree(Version, IsDeleted)",
    partition_by="toDate(Timestamp)",
    primary_key="(TenantId, ServiceName, ScoreName, toStartOfHour(Timestamp))",
    order_by="(TenantId, ServiceName, ScoreName, toStartOfHour(Timestamp), TraceId, SpanId, SeqIndex, ScorerVersion, Source)",
    retention="scores_retention_days",
    settings=(_DROP_PARTS, _DEDUPLICATION, *_ON_DISK),
    reason="one row a score; ReplacingMergeTree, so scoring again replaces",
)

MIGRATIONS: Final = Table(
    name="cutaway_migrations",
    columns=(
        Column("AppliedAt", "DateTime64(3)", "", "when", default="now64(3)"),
        Column("Version", "String", "", "cutaway version that applied it"),
        Column("Statement", "String", "", "the DDL that ran"),
    ),
    engine="MergeTree",
    partition_by="",
    order_by="AppliedAt",
    reason="what a start or `cutaway schema migrate` changed and when",
)

TABLES: Final[tuple[Table, ...]] = (TRACES, TRACE_TIMES, TOKENS, SCORES, MIGRATIONS)
"""In the order of their creation."""

LIFTED: Final[tuple[Column, ...]] = tuple(column for column in OWN_COLUMNS if column.attributes)
"""Columns of otel_traces that the decoder fills straight from the attribute, without a detour through text."""

SERIES: Final[tuple[Column, ...]] = tuple(column for column in TOKENS.columns if column.series)
"""Columns of gen_ai_tokens that the decoder cuts out of packed series (or double arrays) of the span."""
