"""Speaks the GenAI conventions in the version that was asked for: v1.41 by default, the unreleased text on request.

Not a list of what we emit (conventions.py, which is v1.41), and not about metrics: only what differs on spans, each a row. Source: the migration guide of
https://github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai/non-normative/migration.md), whose text has no release.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from cutaway import conventions as c

LATEST_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
"""What the manifest of the unreleased conventions calls itself."""


def _whole(value: Any) -> Any:
    """A double that counts becomes an int; anything else stays."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without_finish_reasons(value: Any) -> Any:
    """Output messages without `finish_reason`, which `gen_ai.response.finish_reasons` alone holds now."""
    messages = json.loads(value)
    for message in messages:
        message.pop("finish_reason", None)
    return json.dumps(messages, ensure_ascii=False, separators=(",", ":"))


LATEST: Final[dict[str, tuple[str, Callable[[Any], Any] | None]]] = {
    c.REQUEST_TOP_K: (c.REQUEST_TOP_K, _whole),
    c.OUTPUT_MESSAGES: (c.OUTPUT_MESSAGES, _without_finish_reasons),
    "gen_ai.usage.cache_creation.input_tokens": ("gen_ai.usage.cache_write.input_tokens", None),
}
"""Attribute of v1.41 -> its name in the unreleased text, and what becomes of its value (None: nothing)."""


def translated(attributes: Mapping[str, Any], latest: bool) -> dict[str, Any]:
    """Attributes of v1.41 in the version asked for; a value we cannot read stays as it is."""
    if not latest:
        return dict(attributes)
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        new, change = LATEST.get(name, (name, None))
        try:
            found[new] = value if change is None else change(value)
        except (ValueError, TypeError, AttributeError):
            found[new] = value
    return found


def schema_url(latest: bool) -> str:
    """Schema URL of the instrumentation scope."""
    return LATEST_SCHEMA_URL if latest else c.SCHEMA_URL
