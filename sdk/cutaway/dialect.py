"""Speaks the GenAI conventions in the version that was asked for: v1.41 by default, the unreleased text on request.

Not a list of what we emit (conventions.py, which is v1.41), and not about metrics: only what differs on our spans, each a row.
No attribute we emit has another name there, only two have other values. Source: the migration guide of
https://github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai/non-normative/migration.md), whose text has no release.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from cutaway import conventions as c

LATEST_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
"""What the manifest of the unreleased conventions calls itself."""


def _whole(value: Any) -> Any:
    """A double that counts becomes an int; anything else stays."""
    return int(value) if value.is_integer() else value


def _without_finish_reasons(value: Any) -> Any:
    """Output messages without `finish_reason`, which `gen_ai.response.finish_reasons` alone holds now."""
    messages = json.loads(value)
    for message in messages:
        message.pop("finish_reason", None)
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":"))


LATEST: Final[dict[str, Callable[[Any], Any]]] = {
    c.REQUEST_TOP_K: _whole,
    c.OUTPUT_MESSAGES: _without_finish_reasons,
}
"""Attribute of v1.41 -> what becomes of its value in the unreleased text."""


def translated(attributes: Mapping[str, Any], latest: bool) -> dict[str, Any]:
    """Attributes of v1.41 in the version asked for; a value that is not of v1.41 stays as it is."""
    found = dict(attributes)
    for name in LATEST.keys() & found.keys() if latest else ():
        with suppress(ValueError, TypeError, AttributeError):
            found[name] = LATEST[name](found[name])
    return found


def schema_url(latest: bool) -> str:
    """Schema URL of the instrumentation scope."""
    return LATEST_SCHEMA_URL if latest else c.SCHEMA_URL
