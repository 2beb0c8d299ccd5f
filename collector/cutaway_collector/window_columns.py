"""The table of window scores: what the answers of a span of time say together. A part of `columns`, which see."""

from __future__ import annotations

from typing import Final

from cutaway_collector.table_shapes import DEDUPLICATION, DROP_PARTS, ON_DISK, Column, Table

_Z: Final = "ZSTD(1)"
_LC: Final = "LowCardinality(String)"

WINDOW_SCORES: Final = Table(
    name="gen_ai_window_scores",
    columns=(
        Column("WindowStart", "DateTime", f"Delta(4), {_Z}", "first second of the window, UTC; they lie end to end from 1970 on"),
        Column("WindowSeconds", "UInt32", _Z, "its length"),
        Column("TenantId", _LC, _Z, "as in otel_traces", default="''"),
        Column("ServiceName", _LC, _Z, "as in otel_traces"),
        Column("ResponseModel", _LC, _Z, "gen_ai.response.model, else the model asked for"),
        Column("Route", _LC, _Z, "http.route of the span, else of its trace's root, else the root's name, empty for the root"),
        Column("PromptTemplate", _LC, _Z, "gen_ai.prompt.name, else the start of llm.prompt_template.template, else empty"),
        Column("IngestedAt", "DateTime64(3)", f"Delta(8), {_Z}", "when it was judged, by the store's clock", default="now64(3)"),
        Column("ScoreName", _LC, _Z, "what was scored"),
        Column("Value", "Float64", _Z, "the score"),
        Column("Count", "UInt32", f"T64, {_Z}", "answers it was computed from"),
        Column("Answers", "UInt64", f"T64, {_Z}", "generations of the window in this group, those that were not sampled included"),
        Column("Label", _LC, _Z, "the word for a bad one: collapsed, duplicates, rising or memorised; else empty", default="''"),
        Column("Explanation", "String", "ZSTD(3)", "why, in words, where there is more to say", default="''"),
        Column("Examples", "Array(String)", _Z, "traces to look at"),
        Column("ScorerVersion", _LC, _Z, "version of the scores"),
        Column("Version", "UInt64", _Z, "milliseconds since 1970: the newest of equal keys wins"),
    ),
    engine="ReplacingMergeTree(Version)",
    partition_by="toYYYYMM(WindowStart)",
    order_by="(TenantId, WindowStart, WindowSeconds, ServiceName, ResponseModel, Route, PromptTemplate, ScoreName)",
    retention="scores_retention_days",
    settings=(DROP_PARTS, DEDUPLICATION, *ON_DISK),
    reason="one row a score, window and group of answers: model, route and prompt template",
)
