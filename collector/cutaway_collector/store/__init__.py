"""ClickHouse, embedded or on a server: `open_store(settings)` gives a contracts.Store; `schema` renders, checks and migrates.

Not a search: SQL comes from the callers.
"""

from cutaway_collector.store.client import ClickHouseStore, open_store
from cutaway_collector.store.schema import check, migrate, render

__all__ = ["ClickHouseStore", "check", "migrate", "open_store", "render"]
