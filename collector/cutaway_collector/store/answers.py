"""What a ClickHouse server says in the body of an answer to an INSERT: nothing, or what went wrong after it had said 200.

Not an error classifier: that is faults'. The driver reads the body and drops it, so it is listened to where the driver receives it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from cutaway_collector.errors import StoreError
from cutaway_collector.store import faults

_CODE: Final = re.compile(r"Code: (\d+)")
_BODY_BYTES_MAX: Final = 4096

HONEST: Final = {"wait_end_of_query": 1, "send_progress_in_http_headers": 0}
"""Settings under which a server decides about the status when it is done, and not when it begins; a profile may forbid them."""


class Answers:
    """Listens to one client of clickhouse-connect that has connections of its own (`dedicated_pool`), in one thread at a time.

    The embedded client has no answers over HTTP, and its errors are raised.
    """

    def __init__(self, client: Any) -> None:
        self._body = b""
        pool = getattr(getattr(client, "_backend", None), "http", None)
        ask = getattr(pool, "request", None)
        if pool is None or ask is None:
            return

        def listening(*arguments: Any, **named: Any) -> Any:
            self._body = b""
            answer = ask(*arguments, **named)
            if named.get("preload_content", True):
                self._body = bytes(answer.data[:_BODY_BYTES_MAX])
            return answer

        pool.request = listening

    def forget(self) -> None:
        """What was said before is of no interest."""
        self._body = b""

    def refuse_words(self) -> None:
        """An INSERT that went well is answered by an empty body. Raises StoreError for any other."""
        said = self._body.decode("utf-8", "replace").strip()
        if not said:
            return
        code = _CODE.search(said)
        if code:
            raise faults.insert_error(said, int(code[1]))
        raise StoreError("the store answered an insert with words instead of nothing: is it ClickHouse, and nothing in between?",
                         retryable=True)
