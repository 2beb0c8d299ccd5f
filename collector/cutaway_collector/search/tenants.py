"""One tenant's view of a store: whatever is asked, the engine itself leaves out the rows of all others.

Not a change of any query: the filter is a setting that the engine applies to each named table wherever a query reads it, under
FINAL, in sub-queries and behind aliases alike. So no query can forget it, and none has to know of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from cutaway_collector.blocks import Block
from cutaway_collector.columns import TABLES
from cutaway_collector.contracts import Result, Store
from cutaway_collector.errors import StoreError

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""Names that need no quoting in SQL within SQL; credentials allow tenants no others."""
_OF_TENANTS: Final = frozenset(table.name for table in TABLES if any(column.name == "TenantId" for column in table.columns))


class TenantStore:
    """A contracts.Store for reading. tenant: asked before each query; "" sees the rows of every tenant.

    A table without a TenantId shows a tenant nothing. Figures of what a query read count the rows of others too, so a tenant is not
    told them.
    """

    def __init__(self, store: Store, tenant: Callable[[], str]) -> None:
        self.database = store.database
        self._store = store
        self._tenant = tenant

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, seconds_max: float | None = None) -> Result:
        """contracts.Store.query of the tenant's rows. Raises StoreError."""
        tenant = self._tenant()
        # Whoever sets no limit asks as before, so that a store needs to know of none.
        limit: dict[str, Any] = {} if seconds_max is None else {"seconds_max": seconds_max}
        if not tenant:
            return self._store.query(sql, parameters, **limit)
        return replace(self._store.query(sql + only(self.database, tenant), parameters, **limit), rows_read=-1, bytes_read=-1)

    def prepare(self) -> None:
        """Makes the schema unless that has been done. Raises StoreError."""
        self._store.prepare()

    def insert(self, block: Block, deduplication_token: str) -> None:
        """Raises StoreError: pages read."""
        raise StoreError("what shows spans does not store any", retryable=False)

    def command(self, sql: str) -> None:
        """Raises StoreError: pages read."""
        raise StoreError("what shows spans does not change tables", retryable=False)

    def close(self) -> None:
        """Nothing: the store belongs to whoever opened it."""


def only(database: str, tenant: str) -> str:
    """The end of a SELECT that keeps it to the rows of one tenant. Raises StoreError for a name that would need quoting."""
    if not _PLAIN.fullmatch(tenant) or not _PLAIN.fullmatch(database):
        raise StoreError("names of tenants and databases are letters, digits and _ . -", retryable=False)
    filters = (f"'{database}.{table.name}': '{_condition(table.name, tenant)}'" for table in TABLES)
    return f" SETTINGS additional_table_filters = {{{', '.join(filters)}}}"


def _condition(table: str, tenant: str) -> str:
    return f"TenantId = \\'{tenant}\\'" if table in _OF_TENANTS else "0"
