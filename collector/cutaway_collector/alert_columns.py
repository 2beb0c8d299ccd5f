"""The tables of alerts: what is watched, how it stands, what happened, who was told. A part of `columns`, which see.

Every write of them may be repeated, by a restart or a second try, and leaves one row: keys are made of what a row is about, and the
newest Version of a key wins.
"""

from __future__ import annotations

from typing import Final

from cutaway_collector.table_shapes import DEDUPLICATION, ON_DISK, Column, Table

_LC: Final = "LowCardinality(String)"
_TENANT: Final = Column("TenantId", _LC, "", "whose spans are watched, empty for everybody's", default="''")
_WRITTEN: Final = Column("IngestedAt", "DateTime64(3)", "", "when this was written, by the store's clock", default="now64(3)")
_DELETED: Final = Column("IsDeleted", "UInt8", "", "1 hides the row", default="0")

ALERT_RULES: Final = Table(
    name="cutaway_alert_rules",
    columns=(
        _TENANT,
        Column("Kind", _LC, "", "rule, channel or mute"),
        Column("Name", "String", "", "of the rule or the channel; of a mute the rule's"),
        Column("Body", "String", "", "the definition as JSON; secrets are named in it, never held"),
        _WRITTEN,
        Column("Version", "UInt64", "", "nanoseconds since 1970: the newest of a name wins"),
        _DELETED,
    ),
    engine="ReplacingMergeTree(Version, IsDeleted)", partition_by="", order_by="(TenantId, Kind, Name)",
    settings=(DEDUPLICATION, *ON_DISK),
    reason="one row an alert rule, a channel or a mute",
)

ALERT_STATES: Final = Table(
    name="cutaway_alert_states",
    columns=(
        _TENANT,
        Column("Rule", "String", "", "name of the rule"),
        Column("GroupKey", "String", "", "values of what it groups by, as a JSON array; empty: how far the rule has been judged"),
        Column("Fingerprint", "String", "", "hash of what the rule judges by: a changed rule begins anew"),
        Column("Phase", _LC, "", "ok, pending, firing or no_data"),
        Column("Value", "Nullable(Float64)", "", "of the last window, NULL where it had none"),
        Column("Memory", "String", "", "what the next window is judged with, as JSON; of a rule: how far it was judged"),
        _WRITTEN,
        Column("Version", "UInt64", "", "grows with every write, also when the clock went back"),
        _DELETED,
    ),
    engine="ReplacingMergeTree(Version, IsDeleted)", partition_by="", order_by="(TenantId, Rule, GroupKey)",
    settings=(DEDUPLICATION, *ON_DISK),
    reason="how each rule stands, one row a group, so that a restart goes on where it stopped",
)

ALERT_EVENTS: Final = Table(
    name="cutaway_alert_events",
    columns=(
        _TENANT,
        Column("EventId", "String", "", "made of rule, group, window and kind: judged twice, it is one event"),
        Column("Rule", "String", "", "name of the rule"),
        Column("GroupKey", "String", "", "values of what the rule groups by, as a JSON array"),
        Column("Kind", _LC, "", "firing or resolved"),
        Column("WindowStart", "DateTime64(9)", "", "of the window that decided it"),
        Column("WindowEnd", "DateTime64(9)", "", "its end, not included"),
        Column("Value", "Nullable(Float64)", "", "what was measured in it"),
        Column("Muted", "UInt8", "", "1 when nobody was to be told"),
        Column("Body", "String", "", "what is said to the channels, as JSON"),
        _WRITTEN,
        Column("Version", "UInt64", "", "end of the window, nanoseconds since 1970"),
    ),
    engine="ReplacingMergeTree(Version)", partition_by="toYYYYMM(WindowEnd)", order_by="(TenantId, Rule, WindowEnd, EventId)",
    retention="alerts_retention_days", settings=(DEDUPLICATION, *ON_DISK),
    reason="one row each time an alert began or ended",
)

ALERT_DELIVERIES: Final = Table(
    name="cutaway_alert_deliveries",
    columns=(
        _TENANT,
        Column("EventId", "String", "", "of the event"),
        Column("Channel", "String", "", "where it goes"),
        Column("State", _LC, "", "pending, delivered or failed"),
        Column("Attempts", "UInt16", "", "tries so far"),
        Column("NextNs", "Int64", "", "when the next try is due, nanoseconds since 1970"),
        Column("Error", "String", "", "why the last try failed, without addresses' secrets"),
        Column("Body", "String", "", "what is said, as JSON"),
        _WRITTEN,
        Column("Version", "UInt64", "", "counts the notes of a delivery: the last one wins"),
    ),
    engine="ReplacingMergeTree(Version)", partition_by="", order_by="(TenantId, EventId, Channel)",
    retention="alerts_retention_days", settings=(DEDUPLICATION, *ON_DISK),
    reason="one row an event and channel: whether it was delivered, and what stood in the way",
)

ALERT_HOLDERS: Final = Table(
    name="cutaway_alert_holders",
    columns=(
        Column("Holder", "String", "", "a claim of one collector"),
        Column("Since", "DateTime64(3)", "", "since when it claims, by the store's clock: the oldest judges", default="now64(3)"),
        _WRITTEN,
        Column("Version", "UInt64", "", "grows with every write"),
        _DELETED,
    ),
    engine="ReplacingMergeTree(Version, IsDeleted)", partition_by="", order_by="Holder", retention="alerts_retention_days",
    settings=(DEDUPLICATION, *ON_DISK),
    reason="one row a collector that would judge alerts on a server: the oldest heard of lately does",
)

ALERT_TABLES: Final = (ALERT_RULES, ALERT_STATES, ALERT_EVENTS, ALERT_DELIVERIES, ALERT_HOLDERS)
"""In the order of their creation."""
