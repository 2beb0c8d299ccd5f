"""Reads the groups of a window and a sample of their answers from the store, all of it bounded. Judges nothing.

A group is a tenant's service, model, route and prompt template. The route is the span's `http.route`, else that of its trace's root
span, else the root's name; empty where the generation is the root itself. The prompt template is `gen_ai.prompt.name`, the
conventions' attribute, else the start of OpenInference's `llm.prompt_template.template`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from cutaway_collector import messages
from cutaway_collector.columns import TOKENS, TRACES
from cutaway_collector.contracts import Store
from cutaway_collector.search.fields import GENERATION_OPERATIONS
from cutaway_collector.windows import Answer

TOKENS_MAX: Final = 4096
"""Tokens of an answer that are read."""
CHARACTERS_MAX: Final = 65_536
"""Characters of an answer that are read."""
ATTRIBUTES_BYTES_MAX: Final = 512 * 1024
"""Bytes of a span's attributes and events out of which its answers are read; a span with more goes without a text."""
NAME_CHARACTERS_MAX: Final = 200
"""Characters by which routes and templates are told apart."""
ROOT_SECONDS_MAX: Final = 3600
"""How long before the window the root of a generation's trace may begin."""
_SMALL: Final = " SETTINGS max_threads = 1, priority = 10"
"""Windows leave the other threads of the engine, and the turn, to searches."""
_OPERATIONS: Final = ", ".join(f"'{name}'" for name in GENERATION_OPERATIONS)
_MODEL: Final = "coalesce(nullIf(SpanAttributes['gen_ai.response.model'], ''), toString(GenAiModel))"
_TEMPLATE: Final = "coalesce(nullIf(SpanAttributes['gen_ai.prompt.name'], ''), SpanAttributes['llm.prompt_template.template'])"


class Window(NamedTuple):
    """start_s <= Timestamp < start_s + seconds, seconds since 1970."""

    start_s: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Group:
    """What is judged together. answers: generations of the window; sample: trace and span ids of those that are judged."""

    tenant: str
    service: str
    model: str
    route: str
    template: str
    answers: int
    sample: Sequence[tuple[str, str]]


class Reader:
    """Windows of one store. answers_max: generations a group; groups_max: groups a tenant, the largest first.

    Raises StoreError from every call.
    """

    def __init__(self, store: Store, *, answers_max: int, groups_max: int) -> None:
        self._store = store
        self._answers_max = answers_max
        self._groups_max = groups_max
        database = store.database.replace("\\", "\\\\").replace("`", "\\`")
        self._traces, self._tokens = f"`{database}`.{TRACES.name}", f"`{database}`.{TOKENS.name}"

    def occupied(self, first_s: int, end_s: int, seconds: int) -> list[Window]:
        """The windows from first_s to end_s (a multiple of `seconds` each) that hold a generation, oldest first."""
        rows = self._store.query(
            f"SELECT intDiv(toUnixTimestamp(Timestamp), {seconds}) AS place FROM {self._traces} WHERE {_inside()} "
            f"GROUP BY place ORDER BY place{_SMALL}", {"start": first_s, "end": end_s}).rows
        return [Window(int(place) * seconds, seconds) for (place,) in rows]

    def groups(self, window: Window) -> list[Group]:
        """The groups of a window. The sample of a group is the same whenever it is asked for: those whose ids hash least."""
        generations = (
            f"SELECT TenantId AS tenant, TraceId AS trace, SpanId AS span, any(ServiceName) AS service, any({_MODEL}) AS model, "
            f"any({_TEMPLATE}) AS template, any(SpanAttributes['http.route']) AS own, any(ParentSpanId) AS parent "
            f"FROM {self._traces} WHERE {_inside()} GROUP BY tenant, trace, span")
        roots = (
            "SELECT TenantId AS tenant, TraceId AS trace, any(SpanAttributes['http.route']) AS root_route, "
            "any(SpanName) AS root_name "
            f"FROM {self._traces} WHERE Timestamp >= fromUnixTimestamp64Nano(({{start:Int64}} - {ROOT_SECONDS_MAX}) * 1000000000) "
            "AND Timestamp < fromUnixTimestamp64Nano({end:Int64} * 1000000000) AND ParentSpanId = '' AND TraceId IN "
            f"(SELECT TraceId FROM {self._traces} WHERE {_inside()} AND ParentSpanId != '') GROUP BY tenant, trace")
        route = "multiIf(own != '', own, parent = '', '', root_route != '', root_route, toString(root_name))"
        rows = self._store.query(
            f"SELECT tenant, service, model, substringUTF8({route}, 1, {NAME_CHARACTERS_MAX}) AS route, "
            f"substringUTF8(template, 1, {NAME_CHARACTERS_MAX}) AS template, count() AS answers, "
            f"groupArraySorted({self._answers_max})((cityHash64(trace, span), trace, span)) "
            f"FROM ({generations}) AS generations LEFT JOIN ({roots}) AS roots USING (tenant, trace) "
            "GROUP BY ALL ORDER BY tenant, answers DESC, service, model, route, template "
            f"LIMIT {self._groups_max} BY tenant{_SMALL}",
            _bound(window)).rows
        return [Group(tenant, service, model, route, template, int(count), [(trace, span) for _, trace, span in sample])
                for tenant, service, model, route, template, count, sample in rows]

    def answers(self, window: Window, group: Group) -> list[Answer]:
        """The sampled answers of a group, one a generated sequence, in the order of the sample; empty ones are left out."""
        bound = {**_bound(window), "tenant": group.tenant, "traces": [trace for trace, _ in group.sample],
                 "spans": [span for _, span in group.sample]}
        mine = ("TenantId = {tenant:String} AND Timestamp >= fromUnixTimestamp64Nano({start:Int64} * 1000000000) AND Timestamp < "
                "fromUnixTimestamp64Nano({end:Int64} * 1000000000) AND (TraceId, SpanId) IN "
                "arrayZip({traces:Array(String)}, {spans:Array(String)})")
        found: dict[tuple[str, str], dict[int, Answer]] = {}
        for trace, span, sequence, ids, text, surprisals in self._store.query(
            f"SELECT TraceId, SpanId, SeqIndex, arraySlice(TokenIds, 1, {TOKENS_MAX}), "
            f"substringUTF8(arrayStringConcat(arraySlice(TokenTexts, 1, {TOKENS_MAX})), 1, {CHARACTERS_MAX}), "
            f"arraySlice(Surprisals, 1, {TOKENS_MAX}) FROM {self._tokens} WHERE {mine} ORDER BY TraceId, SpanId, SeqIndex "
            f"LIMIT 1 BY TraceId, SpanId, SeqIndex{_SMALL}", bound).rows:
            answer = Answer(trace, span, int(sequence), np.array(ids, np.int64), text, np.array(surprisals, np.float64))
            found.setdefault((trace, span), {})[int(sequence)] = answer
        silent = [key for key in group.sample if not any(answer.text for answer in found.get(key, {}).values())]
        if silent:
            self._add_texts(found, {**bound, "traces": [trace for trace, _ in silent], "spans": [span for _, span in silent]}, mine)
        return [answer for key in group.sample for _, answer in sorted(found.get(key, {}).items())
                if answer.ids.size or answer.text or answer.surprisals.size]

    def _add_texts(self, found: dict[tuple[str, str], dict[int, Answer]], bound: Mapping[str, Any], mine: str) -> None:
        """Texts out of the spans' own attributes and events, where the token series hold none."""
        for trace, span, attributes, names, events in self._store.query(
            "SELECT TraceId, SpanId, SpanAttributes, Events.Name, Events.Attributes FROM "
            f"{self._traces} WHERE {mine} AND arraySum(text -> length(text), mapValues(SpanAttributes)) + "
            "arraySum(held -> arraySum(text -> length(text), mapValues(held)), Events.Attributes) "
            f"<= {ATTRIBUTES_BYTES_MAX} LIMIT 1 BY TraceId, SpanId{_SMALL}", bound).rows:
            told = [{"name": name, "attributes": held} for name, held in zip(names, events, strict=True)]
            known = found.setdefault((trace, span), {})
            for sequence, message in enumerate(messages.answered(attributes, told)):
                text = message.text[:CHARACTERS_MAX]
                there = known.get(sequence)
                known[sequence] = Answer(trace, span, sequence, text=text) if there is None else Answer(
                    trace, span, sequence, there.ids, text, there.surprisals)


def _inside() -> str:
    return ("Timestamp >= fromUnixTimestamp64Nano({start:Int64} * 1000000000) AND "
            f"Timestamp < fromUnixTimestamp64Nano({{end:Int64}} * 1000000000) AND GenAiOperation IN ({_OPERATIONS})")


def _bound(window: Window) -> dict[str, Any]:
    return {"start": window.start_s, "end": window.start_s + window.seconds}
