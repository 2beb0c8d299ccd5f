"""Both versions of the conventions that the SDK speaks mean the same to the collector."""

from __future__ import annotations

from typing import Any

import torch
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from cutaway import conventions as c
from cutaway.testing import recorded, tiny_model
from cutaway_collector import columns, decode
from decode_helpers import RECEIVED_NS, rows


class Letters:
    """A tokenizer: every id is one letter."""

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return "".join(chr(97 + int(i) % 26) for i in ids)


def stored(semconv: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One generation in one version, decoded: its span's row and its tokens' row."""
    torch.manual_seed(0)
    with recorded(capture="text", tokenizer=Letters(), semconv=semconv) as spans:
        tiny_model().generate(torch.arange(5, 10)[None], max_new_tokens=4, do_sample=True, top_k=5)
        payload = encode_spans(spans.get_finished_spans()).SerializeToString()
    decoded = decode.decode_protobuf(payload, received_ns=RECEIVED_NS)
    (span,), (tokens,) = rows(decoded.spans), rows(decoded.tokens)
    return span, tokens


def test_either_version_gives_the_same_columns() -> None:
    """Everything searched and shown: lifted columns, token ids, the spelling of numbers; only a message's finish reason differs."""
    (old, old_tokens), (new, new_tokens) = stored(""), stored("gen_ai_latest_experimental")
    lifted = [column.name for column in columns.LIFTED if any(name.startswith("gen_ai.") for name in column.attributes)]
    said = [name for name in lifted if not name.startswith("Time")]  # times are measured anew
    before, after = (
        {name.decode(): value.decode() for name, value in row["SpanAttributes"] if name.startswith(b"gen_ai.")}
        for row in (old, new)
    )
    (ids,) = (column.name for column in columns.SERIES if column.series == c.TOKEN_ID)

    assert {"GenAiOperation", "InputTokens", "OutputTokens"} <= set(said)
    assert [old[name] for name in said] == [new[name] for name in said]
    assert old_tokens[ids] == new_tokens[ids] != []
    assert before.pop(c.OUTPUT_MESSAGES) != after.pop(c.OUTPUT_MESSAGES)
    assert before == after
    assert after[c.REQUEST_TOP_K] == "5"
