"""The sample data's name, and its removal: the rows of one service and tenant taken out of the tables of spans.

Not its making, and not a way to delete anything else: the service is a constant.
"""

from __future__ import annotations

import re
from typing import Final

from cutaway_collector.columns import SCORES, TOKENS, TRACES
from cutaway_collector.contracts import Store
from cutaway_collector.errors import StoreError
from cutaway_collector.search import rows

SERVICE: Final = "cutaway-sample"
_TENANT: Final = re.compile(r"[A-Za-z0-9_.-]{0,64}")
"""What credentials allow a tenant to be called; nothing that needs quoting."""


def remove(store: Store, tenant: str) -> None:
    """Deletes the sample data of a tenant ("" is none). The look-up of trace times keeps theirs until they expire.

    store: one that may be changed. Raises StoreError.
    """
    if not _TENANT.fullmatch(tenant):
        raise StoreError("names of tenants are letters, digits and _ . -", retryable=False)
    for table in (SCORES, TOKENS, TRACES):
        store.command(f"DELETE FROM {rows.table(store, table.name)} WHERE ServiceName = '{SERVICE}' AND TenantId = '{tenant}'")


def loaded(store: Store) -> bool:
    """Whether any of it is stored, in the view of the store that is given. Raises StoreError."""
    return bool(store.query(f"SELECT 1 FROM {rows.table(store)} WHERE ServiceName = '{SERVICE}' LIMIT 1").rows)
