"""The part of the schema that watches: pinned baselines, their sketches and what drifted from them. columns.py holds the rest."""

from __future__ import annotations

from typing import Final

from cutaway_collector.table_shapes import Column, Table

_Z: Final = "ZSTD(1)"
_LC: Final = "LowCardinality(String)"
_NF: Final = "Nullable(Float64)"
_SAFE: Final = (("non_replicated_deduplication_window", "10000"), ("fsync_after_insert", "1"), ("fsync_part_directory", "1"))
"""As in columns.py: a repeated insert is known, and one that has returned is on disk."""

_BASELINE: Final[tuple[Column, ...]] = (
    Column("TenantId", _LC, _Z, "from the credential, never from the payload", default="''"),
    Column("ServiceName", _LC, _Z, "as in otel_traces"),
    Column("GenAiModel", _LC, _Z, "as in otel_traces"),
)

BASELINES: Final = Table(
    name="gen_ai_baselines",
    columns=(
        *_BASELINE,
        Column("ServiceVersion", _LC, _Z, "spans of this service.version alone were taken, empty for any"),
        Column("BaselineId", "String", "", "the pin: its sketches carry it"),
        Column("WindowStart", "DateTime64(9)", "", "first moment of the reference window"),
        Column("WindowEnd", "DateTime64(9)", "", "its end, not included"),
        Column("Spans", "UInt64", "", "generations in it"),
        Column("PinnedAt", "DateTime64(3)", "", "when it was pinned, by the store's clock", default="now64(3)"),
        Column("Version", "UInt64", "", "nanoseconds since 1970: the newest pin of a key wins"),
        Column("IsDeleted", "UInt8", "", "1 hides the row", default="0"),
    ),
    engine="ReplacingMergeTree(Version, IsDeleted)", partition_by="",
    order_by="(TenantId, ServiceName, GenAiModel, ServiceVersion)", settings=_SAFE,
    reason="one row a pinned reference window: what is normal for a service and a model",
)

BASELINE_SKETCHES: Final = Table(
    name="gen_ai_baseline_sketches",
    columns=(
        Column("TenantId", _LC, _Z, "as in gen_ai_baselines", default="''"),
        Column("BaselineId", "String", _Z, "the pin"),
        Column("Attribute", _LC, _Z, "what is watched"),
        Column("HourOfWeek", "UInt8", _Z, "0 is Monday 00:00 to 01:00 UTC"),
        Column("Bins", "Array(Int64)", _Z, "numbers: bins of one per cent, the same in every sketch; sumMap merges them"),
        Column("Labels", "Array(String)", _Z, "categories, empty for numbers"),
        Column("Counts", "Array(UInt64)", f"T64, {_Z}", "values of each bin or category"),
    ),
    engine="MergeTree", partition_by="", order_by="(TenantId, BaselineId, Attribute, HourOfWeek)", settings=_SAFE,
    reason="what was normal, an attribute and an hour of the week: histograms that add up",
)

DRIFT: Final = Table(
    name="gen_ai_drift",
    columns=(
        *_BASELINE,
        Column("ServiceVersion", _LC, _Z, "the service.version of most spans of the window"),
        Column("BaselineId", "String", _Z, "what it was compared with"),
        Column("Reference", _LC, _Z, "`hour`: the same hours of the week; `day`: the same hours of any day; `all`: the whole "
               "reference window"),
        Column("WindowStart", "DateTime64(9)", f"Delta(8), {_Z}", "first moment of the window"),
        Column("WindowEnd", "DateTime64(9)", f"Delta(8), {_Z}", "its end, not included"),
        Column("IngestedAt", "DateTime64(3)", f"Delta(8), {_Z}", "when it was computed", default="now64(3)"),
        Column("Attribute", _LC, _Z, "what was compared"),
        Column("Statistic", _LC, _Z, "what decides: ks or chi2 to 1,000 values, wasserstein or js above"),
        Column("Value", "Float64", _Z, "the deciding statistic"),
        Column("P", _NF, _Z, "p-value of KS or chi-square, NULL with too few values"),
        Column("Q", _NF, _Z, "the same after Benjamini-Hochberg over the attributes of the window"),
        Column("N", "UInt64", f"T64, {_Z}", "values in the window"),
        Column("ReferenceN", "UInt64", f"T64, {_Z}", "values in the reference"),
        Column("Label", _LC, _Z, "steady, shifted or few"),
        Column("Psi", _NF, _Z, "population stability index, nats"),
        Column("JensenShannon", _NF, _Z, "distance from 0 to 1"),
        Column("Wasserstein", _NF, _Z, "Wasserstein-1 by the reference's standard deviation; NULL for categories"),
        Column("Ks", _NF, _Z, "largest gap of the distribution functions; NULL for categories"),
        Column("Level", _NF, _Z, "mean of the window; for categories the share of the one that moved most"),
        Column("ReferenceLevel", _NF, _Z, "the same of the reference"),
        Column("Deviation", _NF, _Z, "mean less that of the reference in standard errors, which charts of streams follow; NULL for "
               "categories, with too few values and where the reference holds too few hours"),
        Column("Moved", "String", _Z, "the category that moved most, empty for numbers"),
        Column("ChangedAt", "Nullable(DateTime64(9))", _Z, "where the change begins, NULL when it is not found or nothing shifted"),
        Column("ChangeVersion", _LC, _Z, "the service.version that was deployed then, empty for none"),
    ),
    engine="ReplacingMergeTree(IngestedAt)", partition_by="toYYYYMM(WindowEnd)",
    order_by="(TenantId, ServiceName, GenAiModel, BaselineId, WindowEnd, WindowStart, Attribute)",
    retention="scores_retention_days", settings=(("ttl_only_drop_parts", "1"), *_SAFE),
    reason="one row an attribute and window: how far it is from its baseline",
)
