"""Reads the groups of a window and samples of their answers from the store, all of it bounded. Judges nothing.

A group is a tenant's service, model, route and prompt template. The route is the span's `http.route`, else that of its trace's root
span, else the root's name; empty where the generation is the root itself. The prompt template is `gen_ai.prompt.name`, the
conventions' attribute, else the start of OpenInference's `llm.prompt_template.template`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from cutaway_collector import messages
from cutaway_collector.columns import TOKENS, TRACES
from cutaway_collector.contracts import Store
from cutaway_collector.search.fields import GENERATION_OPERATIONS
from cutaway_collector.windows import Answer

GENERATIONS_MAX: Final = 20_000
"""Generations of a window that are looked at; of more, only those of some slices of its time."""
SLICES: Final = 60
"""Of a window: each at least a second, for a window has a minute or more."""
TOKENS_MAX: Final = 2048
"""Tokens of an answer that are read."""
CHARACTERS_MAX: Final = 32_768
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
_TIME: Final = ("Timestamp >= fromUnixTimestamp64Nano({start:Int64} * 1000000000) AND "
                "Timestamp < fromUnixTimestamp64Nano({end:Int64} * 1000000000)")
_GENERATION: Final = f"GenAiOperation IN ({_OPERATIONS})"
_MODEL: Final = "coalesce(nullIf(SpanAttributes['gen_ai.response.model'], ''), toString(GenAiModel))"
_TEMPLATE: Final = "coalesce(nullIf(SpanAttributes['gen_ai.prompt.name'], ''), SpanAttributes['llm.prompt_template.template'])"

_Key: TypeAlias = tuple[str, str, str]
"""Tenant, trace and span id."""


class Window(NamedTuple):
    """start_s <= Timestamp < start_s + seconds, seconds since 1970. generations: how many it holds."""

    start_s: int
    seconds: int
    generations: int

    @property
    def slices(self) -> list[int]:
        """Which of its SLICES equal parts of time are looked at: all, or as many as hold GENERATIONS_MAX, the same ones each time.

        Whole parts, because rows of one time lie together: the rest need not be read.
        """
        looked = SLICES if self.generations <= GENERATIONS_MAX else max(1, SLICES * GENERATIONS_MAX // self.generations)
        return sorted(random.Random(self.start_s).sample(range(SLICES), looked))


@dataclass(frozen=True, slots=True)
class Group:
    """What is judged together. answers: generations of the window, an estimate where only some of its slices were looked at.

    sample: trace and span ids of those that are judged.
    """

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
            f"SELECT intDiv(toUnixTimestamp(Timestamp), {seconds}) AS place, count() FROM {self._traces} "
            f"WHERE {_TIME} AND {_GENERATION} GROUP BY place ORDER BY place{_SMALL}",
            {"start": first_s, "end": end_s}).rows
        return [Window(int(place) * seconds, seconds, int(count)) for place, count in rows]

    def groups(self, window: Window) -> list[Group]:
        """The groups of a window. The sample of a group is the same whenever it is asked for: those whose ids hash least."""
        inside = f"{_within(window)} AND {_GENERATION}"
        generations = (
            f"SELECT TenantId AS tenant, TraceId AS trace, SpanId AS span, any(ServiceName) AS service, any({_MODEL}) AS model, "
            f"any({_TEMPLATE}) AS template, any(SpanAttributes['http.route']) AS own, any(ParentSpanId) AS parent "
            f"FROM {self._traces} WHERE {inside} GROUP BY tenant, trace, span")
        roots = (
            "SELECT TenantId AS tenant, TraceId AS trace, any(SpanAttributes['http.route']) AS root_route, "
            "any(SpanName) AS root_name "
            f"FROM {self._traces} WHERE Timestamp >= fromUnixTimestamp64Nano(({{start:Int64}} - {ROOT_SECONDS_MAX}) * 1000000000) "
            "AND Timestamp < fromUnixTimestamp64Nano({end:Int64} * 1000000000) AND ParentSpanId = '' AND TraceId IN "
            f"(SELECT TraceId FROM {self._traces} WHERE {inside} AND ParentSpanId != '') GROUP BY tenant, trace")
        route = "multiIf(own != '', own, parent = '', '', root_route != '', root_route, toString(root_name))"
        rows = self._store.query(
            f"SELECT tenant, service, model, substringUTF8({route}, 1, {NAME_CHARACTERS_MAX}) AS route, "
            f"substringUTF8(template, 1, {NAME_CHARACTERS_MAX}) AS template, count() AS answers, "
            f"groupArraySorted({self._answers_max})((cityHash64(trace, span), trace, span)) "
            f"FROM ({generations}) AS generations LEFT JOIN ({roots}) AS roots USING (tenant, trace) "
            "GROUP BY ALL ORDER BY tenant, answers DESC, service, model, route, template "
            f"LIMIT {self._groups_max} BY tenant{_SMALL}",
            _bound(window)).rows
        return [Group(tenant, service, model, route, template, round(int(count) * SLICES / len(window.slices)),
                      [(trace, span) for _, trace, span in sample])
                for tenant, service, model, route, template, count, sample in rows]

    def answers(self, window: Window, groups: Sequence[Group]) -> list[list[Answer]]:
        """The sampled answers of each group, one a generated sequence, in the order of its sample; empty ones are left out."""
        wanted = [(group.tenant, trace, span) for group in groups for trace, span in group.sample]
        found: dict[_Key, dict[int, Answer]] = {}
        for *key, sequence, ids, text, surprisals in self._rows(
            window, wanted, f"SeqIndex, arraySlice(TokenIds, 1, {TOKENS_MAX}), "
            f"substringUTF8(arrayStringConcat(arraySlice(TokenTexts, 1, {TOKENS_MAX})), 1, {CHARACTERS_MAX}), "
            f"arraySlice(Surprisals, 1, {TOKENS_MAX})", self._tokens, unique="SeqIndex"):
            answer = Answer(key[1], key[2], int(sequence), np.array(ids, np.int64), text, np.array(surprisals, np.float64))
            found.setdefault((key[0], key[1], key[2]), {})[int(sequence)] = answer
        silent = [key for key in wanted if not any(answer.text for answer in found.get(key, {}).values())]
        if silent:
            self._add_texts(found, window, silent)
        return [[answer for trace, span in group.sample for _, answer in sorted(found.get((group.tenant, trace, span), {}).items())
                 if answer.ids.size or answer.text or answer.surprisals.size] for group in groups]

    def _add_texts(self, found: dict[_Key, dict[int, Answer]], window: Window, silent: Sequence[_Key]) -> None:
        """Texts out of the spans' own attributes and events, where the token series hold none."""
        size = ("arraySum(text -> length(text), mapValues(SpanAttributes)) + "
                "arraySum(held -> arraySum(text -> length(text), mapValues(held)), Events.Attributes)")
        for tenant, trace, span, attributes, names, events in self._rows(
            window, silent, "SpanAttributes, Events.Name, Events.Attributes", self._traces,
            only=f"{size} <= {ATTRIBUTES_BYTES_MAX}"):
            told = [{"name": name, "attributes": held} for name, held in zip(names, events, strict=True)]
            known = found.setdefault((tenant, trace, span), {})
            for sequence, message in enumerate(messages.answered(attributes, told)):
                text = message.text[:CHARACTERS_MAX]
                there = known.get(sequence)
                known[sequence] = Answer(trace, span, sequence, text=text) if there is None else Answer(
                    trace, span, sequence, there.ids, text, there.surprisals)

    def _rows(self, window: Window, keys: Sequence[_Key], columns: str, table: str, *, only: str = "1",
              unique: str = "") -> Sequence[Sequence[Any]]:
        """These columns of the rows of these keys, the keys first; each row once, however often it is stored."""
        key = "TenantId, TraceId, SpanId" + (f", {unique}" if unique else "")
        bound = {name: [part[place] for part in keys] for place, name in enumerate(("tenants", "traces", "spans"))}
        return self._store.query(
            f"SELECT TenantId, TraceId, SpanId, {columns} FROM {table} WHERE {_within(window)} AND (TenantId, TraceId, SpanId) IN "
            f"arrayZip({{tenants:Array(String)}}, {{traces:Array(String)}}, {{spans:Array(String)}}) AND {only} "
            f"ORDER BY {key} LIMIT 1 BY {key}{_SMALL}",
            {**_bound(window), **bound}).rows


def _within(window: Window) -> str:
    """The time that is looked at."""
    looked = window.slices
    if len(looked) == SLICES:
        return _TIME
    size_ns = window.seconds * 1_000_000_000 // SLICES
    parts = (f"Timestamp >= fromUnixTimestamp64Nano({first_ns}) AND Timestamp < fromUnixTimestamp64Nano({first_ns + size_ns})"
             for first_ns in (window.start_s * 1_000_000_000 + place * size_ns for place in looked))
    return f"{_TIME} AND ({' OR '.join(parts)})"


def _bound(window: Window) -> dict[str, Any]:
    return {"start": window.start_s, "end": window.start_s + window.seconds}
