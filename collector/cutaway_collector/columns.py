"""THE schema: every stored column, once. DDL, insert lists, the decoder's lifted attributes, migrations and docs derive from it.

`otel_traces` begins with the columns of the OpenTelemetry ClickHouse exporter, same names, order and value spellings, so that
Grafana and ClickStack read it and otelcol can write it; our columns follow, each with a default computed from the attributes, so
that a foreign INSERT which does not name them still fills them. Token series have a table of their own, so span lists never read
them; scores have another, so that re-scoring replaces rows without touching spans.
"""

from __future__ import annotations

from typing import Final

from cutaway import conventions as c
from cutaway_collector import dialects
from cutaway_collector.alert_columns import ALERT_TABLES
from cutaway_collector.drift_columns import BASELINE_SKETCHES as BASELINE_SKETCHES
from cutaway_collector.drift_columns import BASELINES as BASELINES
from cutaway_collector.drift_columns import DRIFT as DRIFT
from cutaway_collector.saved_columns import SAVED_SEARCHES as SAVED_SEARCHES
from cutaway_collector.table_shapes import DEDUPLICATION as _DEDUPLICATION
from cutaway_collector.table_shapes import DROP_PARTS as _DROP_PARTS
from cutaway_collector.table_shapes import ON_DISK as _ON_DISK
from cutaway_collector.table_shapes import Axes as Axes
from cutaway_collector.table_shapes import Column as Column
from cutaway_collector.table_shapes import Index as Index
from cutaway_collector.table_shapes import Table as Table
from cutaway_collector.window_columns import WINDOW_SCORES as WINDOW_SCORES

DATABASE: Final = "otel"


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
    Column("GenAiOperation", _LC, _Z, "tells generations from other spans", attributes=(c.OPERATION_NAME,), foreign=dialects.OPERATION),
    Column("GenAiProvider", _LC, _Z, "who runs the model", attributes=(c.PROVIDER_NAME,), foreign=dialects.PROVIDER),
    Column("GenAiModel", _LC, _Z, "the model asked for; where a tool does not say it, the one that answered", attributes=(c.REQUEST_MODEL,), foreign=dialects.MODEL),
    Column("ConversationId", "String", _Z, "groups the turns of one conversation", attributes=(c.CONVERSATION_ID,), foreign=dialects.CONVERSATION),
    Column("InputTokens", _NU, f"T64, {_Z}", "prompt tokens, NULL when not reported", attributes=(c.USAGE_INPUT_TOKENS,), foreign=dialects.INPUT_TOKENS),
    Column("OutputTokens", _NU, f"T64, {_Z}", "generated tokens, NULL when not reported", attributes=(c.USAGE_OUTPUT_TOKENS,), foreign=dialects.OUTPUT_TOKENS),
    Column("TimeToFirstTokenS", _NF, _Z, "seconds from call to first token",
           attributes=(c.TIME_TO_FIRST_TOKEN, c.RESPONSE_TIME_TO_FIRST_CHUNK), foreign=dialects.TIME_TO_FIRST_TOKEN),
    Column("TimePerOutputTokenS", _NF, _Z, "seconds a token while decoding", attributes=(c.TIME_PER_OUTPUT_TOKEN,), foreign=dialects.TIME_PER_OUTPUT_TOKEN),
    Column("Perplexity", _NF, _Z, "exp(mean surprisal)", attributes=(c.OUTPUT_PERPLEXITY,)),
    Column("SurprisalMean", _NF, _Z, "nats", attributes=(c.OUTPUT_SURPRISAL_MEAN,)),
    Column("SurprisalMax", _NF, _Z, "nats: the least expected token", attributes=(c.OUTPUT_SURPRISAL_MAX,)),
    Column("EntropyMean", _NF, _Z, "nats", attributes=(c.OUTPUT_ENTROPY_MEAN,)),
    Column("AttentionEntropyMean", _NF, _Z, "nats, over tokens, layers and heads", attributes=(c.ATTENTION_ENTROPY_MEAN,)),
    Column("AttentionEntropyMin", _NF, _Z, "nats, narrowest layer of any token", attributes=(c.ATTENTION_ENTROPY_MIN,)),
    Column("Nll", _NF, _Z, "nats: the answer's negative log-likelihood", attributes=(c.OUTPUT_NLL,)),
    Column("BitsPerByte", _NF, _Z, "compares models with different tokenizers", attributes=(c.OUTPUT_BITS_PER_BYTE,)),
    Column("WorstWindow", _NF, _Z, "nats: the least expected 16 tokens in a row", attributes=(c.OUTPUT_WORST_WINDOW,)),
    Column("SurprisalSlope", _NF, _Z, "nats: last quarter less first, errors that feed on themselves",
           attributes=(c.OUTPUT_SURPRISAL_SLOPE,)),
    Column("Rauq", _NF, _Z, "nats: uncertainty weighed by attention", attributes=(c.OUTPUT_RAUQ,)),
    Column("Repetition", _NF, _Z, "share of repeated 4-grams", attributes=(c.OUTPUT_REPETITION,)),
    Column("LoopPeriod", _NU, f"T64, {_Z}", "tokens: how long the loop is in which the answer ends", attributes=(c.OUTPUT_LOOP_PERIOD,)),
    Column("CompressionRatio", _NF, _Z, "text over compressed text: large where it repeats", attributes=(c.OUTPUT_COMPRESSION_RATIO,)),
    Column("AttentionNormalizedEntropyMean", _NF, _Z, "1 is uniform attention at any length",
           attributes=(c.ATTENTION_NORMALIZED_ENTROPY_MEAN,)),
    Column("AttentionSinkMean", _NF, _Z, "attention that rests on the first key", attributes=(c.ATTENTION_SINK_MEAN,)),
    Column("AttentionLastKeyMean", _NF, _Z, "attention to the token just read", attributes=(c.ATTENTION_LAST_KEY_MEAN,)),
    Column("AttentionLookbackMean", _NF, _Z, "attention to the prompt against the answer: low where context is ignored",
           attributes=(c.ATTENTION_LOOKBACK_MEAN,)),
    Column("CrossAttentionEntropyMean", _NF, _Z, "nats, decoder to encoder", attributes=(c.CROSS_ATTENTION_ENTROPY_MEAN,)),
    Column("PromptPerplexity", _NF, _Z, "how foreign the prompt was to the model", attributes=(c.PROMPT_PERPLEXITY,)),
    Column("AcceptanceRate", _NF, _Z, "accepted draft tokens over drafted ones", attributes=(c.ACCEPTANCE_RATE,)),
    Column("CpuTimeS", _NF, _Z, "CPU seconds of the process during the call", attributes=(c.MACHINE_CPU_TIME,)),
    Column("MemoryRssBytes", _NU, f"T64, {_Z}", "resident memory of the process at the end", attributes=(c.MACHINE_MEMORY_RSS,)),
    Column("DiffusionSteps", _NU, f"T64, {_Z}", "denoising steps that ran", attributes=(c.DIFFUSION_STEPS,)),
    Column("NonfiniteStep", _NU, f"T64, {_Z}", "first step with NaN or infinity in the latents, NULL for none",
           attributes=(c.DIFFUSION_NONFINITE_STEP,)),
    Column("SpanNumbers", "Map(LowCardinality(String), Array(Float64))", _Z,
           "attributes of the span that are long arrays of numbers: as numbers, and not in SpanAttributes as text", default="map()"),
    Column("StoredAt", "DateTime64(3)", f"Delta(8), {_Z}", "when the store took it, by the store's clock: what was received long ago and stored late is "
           "behind what was read before", default="now64(3)"),
)
"""What people search and sort by. The rest stays in SpanAttributes, where any search finds it by its own name: values that are arrays
(one a GPU or sequence), that say little alone (drafted tokens, guidance scale), or that are words."""

TRACES: Final = Table(
    name="otel_traces",
    columns=UPSTREAM_COLUMNS + OWN_COLUMNS,
    aliases=(*(
        (f"{prefix}Items", "Array(String)",
         f"arrayMap(kv -> concat(kv.1, '=', kv.2), CAST({prefix}s, 'Array(Tuple(String, String))'))")
        for prefix in ("ResourceAttribute", "SpanAttribute")
    ),
        ("SpanText", "String",
         "concat(SpanName, '\\0', ServiceName, '\\0', GenAiModel, '\\0', StatusMessage, '\\0', arrayStringConcat(mapValues(SpanAttributes), '\\0'), "
         "'\\0', arrayStringConcat(mapValues(ResourceAttributes), '\\0'), '\\0', arrayStringConcat(Events.Name, '\\0'), '\\0', "
         "arrayStringConcat(arrayFlatten(Events.Attributes.values), '\\0'))"),
        ("SpanTextLower", "String", "lower(SpanText)"),
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
        Index("idx_stored_at", "StoredAt", "minmax"),
        Index("idx_text_lower", "SpanTextLower", "text(tokenizer = splitByNonAlpha)", 100_000_000, needs="enable_full_text_index"),
    ),
    retired_indexes=("idx_text",),
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
    engine="AggregatingMergeTree", partition_by="toStartOfWeek(Start)", order_by="(TraceId)",
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

_AF: Final = "Array(Float32)"
_TOKEN: Final = Axes("token")
_CHOICE: Final = Axes("token", "AlternativeCount")
_PROMPT: Final = Axes("prompt")
_LAYER: Final = Axes("token", "AttentionLayers")
_HEAD: Final = Axes("token", "AttentionLayers", "AttentionHeads")
_CROSS: Final = Axes("token", "CrossAttentionLayers")
_CROSS_HEAD: Final = Axes("token", "CrossAttentionLayers", "CrossAttentionHeads")
_SOURCE: Final = Axes("token", "SourceLayers", "SourceCount")
_STEP: Final = Axes("step")

TOKENS: Final = Table(
    name="gen_ai_tokens",
    columns=(
        *_IDENTITY,
        Column("InputTokens", "UInt32", f"T64, {_Z}", "prompt tokens of this sequence"),
        Column("OutputTokens", "UInt32", f"T64, {_Z}", "generated tokens: the length of every token series that is not empty"),
        Column("TokenIds", "Array(UInt32)", f"T64, {_Z}", "token ids; empty when the sender captures numbers only",
               series=c.TOKEN_ID, axes=_TOKEN),
        Column("TokenTexts", "Array(String)", _Z, "text pieces; empty unless the sender captures text", series=c.TOKEN_TEXT, axes=_TOKEN),
        Column("Surprisals", _AF, _Z, "nats", series=c.TOKEN_SURPRISAL, axes=_TOKEN),
        Column("Entropies", _AF, _Z, "nats", series=c.TOKEN_ENTROPY, axes=_TOKEN),
        Column("Margins", _AF, _Z, "nats", series=c.TOKEN_MARGIN, axes=_TOKEN),
        Column("Ranks", "Array(UInt32)", f"T64, {_Z}", "0 is the model's first choice", series=c.TOKEN_RANK, axes=_TOKEN),
        Column("InterTokenS", _AF, _Z, "seconds since the previous token; first: since the call", series=c.TOKEN_INTER_TOKEN_TIME,
               axes=_TOKEN),
        Column("AttentionLayers", "UInt16", _Z, "layers in the Attention series; 0 when none is there"),
        Column("AttentionHeads", "UInt16", _Z, "heads in the Attention series that end in Heads; 0 when none is there"),
        Column("AttentionModelLayers", "UInt16", _Z, "layers of the model: AttentionLayers where every one was recorded, else 0, not known"),
        Column("AttentionEntropies", _AF, _Z, "nats, [token x layer] row-major, mean over heads", series=c.ATTENTION_ENTROPY, axes=_LAYER),
        Column("AttentionEntropyHeads", _AF, _Z, "nats, [token x layer x head] row-major", series=c.ATTENTION_ENTROPY_HEADS, axes=_HEAD),
        Column("Varentropies", _AF, _Z, "nats^2", series=c.TOKEN_VARENTROPY, axes=_TOKEN),
        Column("MinPMasses", _AF, _Z, "probability of the tokens a tenth as likely as the first choice, or more",
               series=c.TOKEN_MIN_P_MASS, axes=_TOKEN),
        Column("SampledSurprisals", _AF, _Z, "nats, after every processor and warper", series=c.TOKEN_SAMPLED_SURPRISAL, axes=_TOKEN),
        Column("AlternativeCount", "UInt16", _Z, "choices in the Alternative series; 0 when none is there"),
        Column("AlternativeIds", "Array(UInt32)", f"T64, {_Z}", "[token x choice] row-major, best first", series=c.ALTERNATIVE_ID,
               axes=_CHOICE),
        Column("AlternativeSurprisals", _AF, _Z, "nats, [token x choice] row-major", series=c.ALTERNATIVE_SURPRISAL, axes=_CHOICE),
        Column("PromptSequence", "UInt16", _Z, "SeqIndex of the row that holds this sequence's prompt series: the choices of one "
               "prompt share those of the first"),
        Column("PromptTokenIds", "Array(UInt32)", f"T64, {_Z}", "prompt token ids", series=c.PROMPT_TOKEN_ID, axes=_PROMPT),
        Column("PromptSurprisals", _AF, _Z, "nats; NaN for the first", series=c.PROMPT_SURPRISAL, axes=_PROMPT),
        Column("AttentionNormalizedEntropies", _AF, _Z, "[token x layer], 1 is uniform", series=c.ATTENTION_NORMALIZED_ENTROPY, axes=_LAYER),
        Column("AttentionSinks", _AF, _Z, "[token x layer], mass of the first key", series=c.ATTENTION_SINK, axes=_LAYER),
        Column("AttentionLastKeys", _AF, _Z, "[token x layer], mass of the last key", series=c.ATTENTION_LAST_KEY, axes=_LAYER),
        Column("AttentionLookbacks", _AF, _Z, "[token x layer], prompt against prompt and answer", series=c.ATTENTION_LOOKBACK, axes=_LAYER),
        Column("AttentionNormalizedEntropyHeads", _AF, _Z, "[token x layer x head]", series=c.ATTENTION_NORMALIZED_ENTROPY_HEADS, axes=_HEAD),
        Column("AttentionSinkHeads", _AF, _Z, "[token x layer x head]", series=c.ATTENTION_SINK_HEADS, axes=_HEAD),
        Column("AttentionLastKeyHeads", _AF, _Z, "[token x layer x head]", series=c.ATTENTION_LAST_KEY_HEADS, axes=_HEAD),
        Column("AttentionLookbackHeads", _AF, _Z, "[token x layer x head]", series=c.ATTENTION_LOOKBACK_HEADS, axes=_HEAD),
        Column("CrossAttentionLayers", "UInt16", _Z, "layers in the CrossAttention series, which may be other layers; 0 when none is there"),
        Column("CrossAttentionHeads", "UInt16", _Z, "heads in CrossAttentionEntropyHeads; 0 when it is not there"),
        Column("CrossAttentionEntropies", _AF, _Z, "nats, [token x layer], decoder to encoder", series=c.CROSS_ATTENTION_ENTROPY, axes=_CROSS),
        Column("CrossAttentionEntropyHeads", _AF, _Z, "nats, [token x layer x head]", series=c.CROSS_ATTENTION_ENTROPY_HEADS,
               axes=_CROSS_HEAD),
        Column("SourceLayers", "UInt16", _Z, f"layers in the Source series, named by the span's {c.SOURCE_LAYERS}; 0 when none is there"),
        Column("SourceCount", "UInt16", _Z, "positions a token and layer in the Source series; 0 when none is there"),
        Column("SourcePositions", "Array(UInt32)", f"T64, {_Z}", "[token x layer x k], where the model looked most, largest weight first",
               series=c.SOURCE_POSITION, axes=_SOURCE),
        Column("SourceMasses", _AF, _Z, "[token x layer x k], their weights", series=c.SOURCE_MASS, axes=_SOURCE),
        Column("StepTimes", _AF, _Z, "seconds of each denoising step; with the three after it in the span's first row",
               series=c.DIFFUSION_STEP_TIME, axes=_STEP),
        Column("StepTimesteps", _AF, _Z, "the scheduler's timestep", series=c.DIFFUSION_STEP_TIMESTEP, axes=_STEP),
        Column("LatentNorms", _AF, _Z, "root mean square of the latents after each step", series=c.DIFFUSION_LATENT_NORM, axes=_STEP),
        Column("LatentChanges", _AF, _Z, "root mean square of their change; NaN for the first", series=c.DIFFUSION_LATENT_CHANGE, axes=_STEP),
    ),
    indexes=(Index("idx_trace_id", "TraceId", "bloom_filter(0.001)"), Index("idx_span_id", "SpanId", "bloom_filter(0.001)")),
    engine="MergeTree",
    partition_by="toDate(Timestamp)",
    order_by="(ServiceName, GenAiModel, toDateTime(Timestamp), Timestamp, SpanId, SeqIndex)",
    retention="tokens_retention_days",
    settings=(("index_granularity", "1024"), ("index_granularity_bytes", "67108864"), _DROP_PARTS, _DEDUPLICATION, *_ON_DISK),
    reason="one row a generated sequence: the token series as arrays; a diffusion span has one row without tokens, for its steps",
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

DEAD_LETTERS: Final = Table(
    name="cutaway_dead_letters",
    columns=(
        Column("TenantId", _LC, _Z, "from the credential, never from the payload", default="''"),
        Column("IngestedAt", "DateTime64(3)", f"Delta(8), {_Z}", "when the collector gave it up", default="now64(3)"),
        Column("ReceivedAt", "DateTime64(3)", f"Delta(8), {_Z}", "when the request was acknowledged; 1970 when its record is unreadable"),
        Column("Session", "String", _Z, "the run of the collector that gave it up"),
        Column("Sequence", "UInt64", f"T64, {_Z}", "its number in the spool, and the name of its file in the dead folder"),
        Column("Encoding", _LC, _Z, "protobuf or json, with `logs/` for logs and `scores/` for scores; empty when its record is unreadable"),
        Column("Reason", "String", _Z, "why it cannot be stored"),
        Column("Spans", "UInt64", f"T64, {_Z}", "how many of its spans are lost; 0 when it could not be decoded"),
        Column("Bytes", "UInt64", f"T64, {_Z}", "size of the request"),
    ),
    engine="MergeTree",
    partition_by="toYYYYMM(IngestedAt)",
    order_by="(TenantId, IngestedAt, Sequence)",
    retention="dead_letters_retention_days",
    settings=(_DEDUPLICATION, *_ON_DISK),
    reason="one row a request that was acknowledged and then could not be stored as a whole; its payload lies in the spool's dead folder",
)

MIGRATIONS: Final = Table(
    name="cutaway_migrations",
    columns=(
        Column("AppliedAt", "DateTime64(3)", "", "when", default="now64(3)"),
        Column("Version", "String", "", "cutaway version that applied it"),
        Column("Statement", "String", "", "the DDL that ran"),
    ),
    engine="MergeTree", partition_by="", order_by="AppliedAt",
    reason="what a start or `cutaway schema migrate` changed and when",
)

BACKFILLS: Final = Table(
    name="cutaway_backfills",
    columns=(
        Column("JobId", "String", "", "the job"),
        Column("Fingerprint", "String", "", "hash of what was asked and of the scorers' versions: the same again goes on where it stopped"),
        Column("Request", "String", "", "what was asked, as JSON"),
        Column("State", "String", "", "running, stopped or done"),
        Column("Owner", "String", "", "host and process that work on it, or did last"),
        Column("Position", "String", "", "key of the last sequence whose scores are stored, as JSON"),
        Column("Counts", "String", "", "sequences and scores so far, and failures a scorer, as JSON"),
        Column("StartedMs", "UInt64", "", "milliseconds since 1970: the Version of every score of the job"),
        Column("UpdatedAt", "DateTime64(3)", "", "when this was written, by the store's clock", default="now64(3)"),
        Column("Version", "UInt64", "", "counts the job's notes: the last one wins"),
    ),
    engine="ReplacingMergeTree(Version)", partition_by="", order_by="JobId", settings=(_DEDUPLICATION, *_ON_DISK),
    reason="how far each back-fill came, so that one that was cut short goes on",
)

JUDGING: Final = Table(
    name="cutaway_judging",
    columns=(
        Column("Name", "String", "", "what reads the store in the order of StoredAt"),
        Column("Position", "String", "", "where it begins and the key of the last span whose scores are stored, as JSON"),
        Column("Behind", "String", "", "by scorer that failed, the key of the last span it judged before, as JSON"),
        Column("Owner", "String", "", "host and process that work on it, empty when none does"),
        Column("UpdatedAt", "DateTime64(3)", "", "when this was written, by the store's clock", default="now64(3)"),
        Column("Version", "UInt64", "", "counts the notes: the last one wins"),
    ),
    engine="ReplacingMergeTree(Version)", partition_by="", order_by="Name", settings=(_DEDUPLICATION, *_ON_DISK),
    reason="how far the scorers of texts came, so that a restart goes on there",
)

TABLES: Final[tuple[Table, ...]] = (TRACES, TRACE_TIMES, TOKENS, SCORES, DEAD_LETTERS, MIGRATIONS, BACKFILLS, JUDGING, BASELINES, BASELINE_SKETCHES, DRIFT, *ALERT_TABLES,
                                    WINDOW_SCORES, SAVED_SEARCHES)
"""In the order of their creation."""

LIFTED: Final[tuple[Column, ...]] = tuple(column for column in OWN_COLUMNS if column.attributes)
"""Columns of otel_traces that the decoder fills straight from the attribute, without a detour through text."""

SERIES: Final[tuple[Column, ...]] = tuple(column for column in TOKENS.columns if column.series)
"""Columns of gen_ai_tokens that the decoder cuts out of packed series (or double arrays) of the span."""
