"""The table of saved searches: what somebody gave a name so as to open it again. A part of `columns`, which see."""

from __future__ import annotations

from typing import Final

from cutaway_collector.table_shapes import DEDUPLICATION, ON_DISK, Column, Table

_LC: Final = "LowCardinality(String)"

SAVED_SEARCHES: Final = Table(
    name="cutaway_saved_searches",
    columns=(
        Column("TenantId", _LC, "", "whose search it is, empty where there is one tenant", default="''"),
        Column("Name", "String", "", "what it is called; one name, one search"),
        Column("Query", "String", "", "text of the query"),
        Column("TimeFrom", "String", "", "as in the address: -1h moves with the clock, a date stays; empty for all"),
        Column("TimeTo", "String", "", "the same for the end"),
        Column("Sort", "String", "", "order of the rows, empty for newest first"),
        Column("Columns", "String", "", "columns of the table, empty for the usual ones"),
        Column("View", "String", "", "how the results are shown, empty for the list"),
        Column("Owner", "String", "", "name of the API key that saved it last, empty where none is asked for"),
        Column("IngestedAt", "DateTime64(3)", "", "when this was written, by the store's clock", default="now64(3)"),
        Column("Version", "UInt64", "", "nanoseconds since 1970: the newest of a name wins"),
        Column("IsDeleted", "UInt8", "", "1 hides the row", default="0"),
    ),
    engine="ReplacingMergeTree(Version, IsDeleted)", partition_by="", order_by="(TenantId, Name)",
    settings=(DEDUPLICATION, *ON_DISK),
    reason="one row a saved search; they are kept until somebody deletes them",
)
