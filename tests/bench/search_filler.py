"""A large store of generated but realistic spans, written by the engine itself: traces as trees, texts of real words, token arrays, scores.

Not a load test: rows are made by INSERT ... SELECT into the real tables, so that views, defaults and indexes fill as they do for
spans that arrive, but decoder, spool and pipeline are left out. The same numbers give the same ids, so that a store can grow.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cutaway_collector.store import ClickHouseStore

ROOT: Final = Path(__file__).parent.parent.parent
DAYS: Final = 14
SPANS_A_TRACE: Final = 12.5
"""5 to 20, evenly."""
GENERATIONS_A_TRACE: Final = 11.5 * 0.2
TRACES_A_CHUNK: Final = 40_000
LAYERS: Final = 12
HEADS: Final = 12
HEADS_ONE_IN: Final = 50
"""Token rows that have attention of single heads besides the mean over heads: one in so many, since they are a hundred times as large."""
NEEDLE_ONE_IN: Final = 200_000
"""Traces whose prompt asks about the same rare thing."""
NEEDLE: Final = "Quetzalcoatlus"

MODELS: Final = ("SmolLM2-135M-Instruct", "Qwen2.5-7B-Instruct", "Llama-3.1-8B-Instruct", "Mistral-7B-Instruct-v0.3", "gemma-2-9b-it",
                 "Phi-3.5-mini-instruct", "Qwen2.5-0.5B-Instruct", "OLMo-2-7B", "gpt2", "Llama-3.2-1B-Instruct", "granite-3.1-2b",
                 "SmolLM2-1.7B-Instruct")
ROUTES: Final = tuple(f"POST /{name}" for name in (
    "answer", "summarise", "translate", "classify", "extract", "rewrite", "chat", "search", "review", "plan", "draft", "explain",
    "moderate", "route", "tag", "compare"))
OTHERS: Final = ("retrieve", "embed query", "SELECT documents", "rerank", "execute_tool lookup", "execute_tool weather", "plan",
                 "GET /v1/items", "cache.get", "moderate", "parse", "guard")
SERVICES: Final = ("concierge", "summaries", "evals", "search-api", "support", "billing-bot", "code-review", "translator")
WORKERS: Final = ("search-api", "encoder", "postgres", "encoder", "tools", "tools", "planner", "catalogue", "redis", "guardrails", "planner",
                  "guardrails")
"""The service of each of OTHERS."""
ENVIRONMENTS: Final = ("prod", "staging", "dev")
TEMPLATES: Final = ("answer-v3", "answer-v4", "summary-v1", "classify-v2", "rewrite-v1", "plan-v7")
ERRORS: Final = ("TimeoutError", "OutOfMemoryError", "ValueError", "ConnectionError")


@dataclass(frozen=True)
class Plan:
    """What to make: spans in all, token rows in all, and the end of the fortnight they lie in, in seconds since 1970."""

    spans: int
    token_rows: int
    end_s: int

    @property
    def traces(self) -> int:
        """How many hold so many spans."""
        return max(1, round(self.spans / SPANS_A_TRACE))

    @property
    def token_share_ppm(self) -> int:
        """Of a million generations, how many have token rows."""
        return min(1_000_000, round(1e6 * self.token_rows / (self.traces * GENERATIONS_A_TRACE)))


def words() -> list[str]:
    """Words of our own documentation in the order they stand there, so that common ones are as common as in English."""
    text = "\n".join((ROOT / name).read_text() for name in ("README.md", "collector/README.md", "sdk/README.md") if (ROOT / name).exists())
    return re.findall(r"[A-Za-z]{1,14}", text)[:8192]


def fill(store: ClickHouseStore, plan: Plan, first_trace: int = 0, progress: Callable[[str], None] = lambda line: None) -> None:
    """Adds the traces from `first_trace` to the end of the plan, the oldest first. Raises StoreError."""
    store.prepare()
    vocabulary = _array(words())
    began = time.monotonic()
    for at in range(first_trace, plan.traces, TRACES_A_CHUNK):
        count = min(TRACES_A_CHUNK, plan.traces - at)
        source = _Source(plan, first_trace, at, count, vocabulary)
        for statement in (source.traces(store.database), source.tokens(store.database), source.scores(store.database)):
            store.command(statement)
        progress(f"{(at + count) * SPANS_A_TRACE / 1e6:.2f} M spans, {time.monotonic() - began:.0f} s")


def wait_for_merges(store: ClickHouseStore) -> None:
    """Until the engine has nothing to merge, so that figures do not depend on what it happens to do meanwhile."""
    while store.query("SELECT count() FROM system.merges").rows[0][0]:
        time.sleep(1)


def _array(values: object) -> str:
    return "[" + ", ".join("'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in values) + "]"  # type: ignore[attr-defined]  # any iterable of texts


def _unit(*parts: str) -> str:
    """SQL: a number in (0, 1), the same for the same parts."""
    return f"((cityHash64({', '.join(parts)}) % 1000000007 + 1) / 1000000009)"


def _normal(*parts: str) -> str:
    return f"(sqrt(-2 * log({_unit(*parts, chr(39) + 'x' + chr(39))})) * cos(2 * pi() * {_unit(*parts, chr(39) + 'y' + chr(39))}))"


def _one(values: tuple[str, ...], *parts: str) -> str:
    """SQL: one of the values, the first ones most often (the square of an even number)."""
    return f"{_array(values)}[1 + toUInt32(floor({len(values)} * pow({_unit(*parts)}, 2)))]"


def _text(low: int, more: int, vocabulary: str, salt: str) -> str:
    """SQL: words of real texts, `low` to `low + more` of them, in stretches of four as they follow one another."""
    count = f"intDiv({low} + cityHash64(t, i, '{salt}') % {more}, 4)"
    return (f"arrayStringConcat(arrayMap(j -> arrayStringConcat(arraySlice({vocabulary}, 1 + cityHash64(t, i, j, '{salt}') % 8000, 4), ' '), "
            f"range({count})), ' ')")


def _id(digits: int, *parts: str) -> str:
    halves = [f"reinterpretAsFixedString(cityHash64({', '.join(parts)}, {salt}))" for salt in range(digits // 16)]
    return f"lower(hex(concat({', '.join(halves)}, '')))" if len(halves) > 1 else f"lower(hex({halves[0]}))"


_TRACE_ID: Final = _id(32, "t", "'trace'")
_SPAN_ID: Final = _id(16, "t", "i", "'span'")
_MEAN: Final = "exp(-0.3 + 0.55 * " + _normal("t", "i", "'mean'") + ")"
"""SQL: mean surprisal of a generation, nats."""
_LENGTH: Final = "toUInt32(least(400, greatest(4, exp(4.4 + 0.7 * " + _normal("t", "i", "'length'") + "))))"
_TTFT: Final = "exp(-1.6 + 0.6 * " + _normal("t", "i", "'ttft'") + ")"
_TPOT: Final = "exp(-3.9 + 0.4 * " + _normal("t", "i", "'tpot'") + ")"
_GENERATES: Final = "i > 0 AND cityHash64(t, i, 'role') % 5 = 0"
_FAILED: Final = "cityHash64(t, i, 'status') % 100 < 3"
_MODEL: Final = _one(MODELS, "t", "i", "'model'")
_SERVICE: Final = _one(SERVICES, "t", "'service'")


def trace_id(store: ClickHouseStore, number: int) -> str:
    """Id of the trace of that number."""
    return str(store.query(f"SELECT {_TRACE_ID} FROM (SELECT toUInt64({{n:UInt64}}) AS t)", {"n": number}).rows[0][0])


@dataclass(frozen=True)
class _Source:
    """The statements of one chunk of traces."""

    plan: Plan
    first: int
    at: int
    count: int
    vocabulary: str

    def _rows(self, columns: str, where: str) -> str:
        """SELECT over one row a span: t the trace, i the span's place in it, at the start in nanoseconds."""
        seconds = DAYS * 86_400
        share = f"((t - {self.first} + {_unit('t', chr(39) + 'at' + chr(39))}) / {self.plan.traces - self.first + 1})"
        # Days have a slow and a busy half.
        start = f"toInt64(({self.plan.end_s - seconds} + {seconds} * {share} + 9000 * sin(2 * pi() * {DAYS} * {share})) * 1e9)"
        spans = f"SELECT t, toUInt64(arrayJoin(range(5 + cityHash64(t, 'size') % 16))) AS i FROM (SELECT number AS t FROM numbers({self.at}, {self.count}))"
        return f"SELECT {columns} FROM (SELECT t, i, {start} + toInt64(i) * 37000000 + cityHash64(t, i, 'late') % 9000000 AS at FROM ({spans})) WHERE {where}"

    def traces(self, database: str) -> str:
        """INSERT of spans."""
        chance = f"cityHash64(t, i, 'name') % {len(OTHERS)}"
        other = f"{_array(OTHERS)}[1 + {chance}]"
        parent = f"if(i = 0, '', {_id(16, 't', 'toUInt64(i - 1 - cityHash64(t, i, 1) % least(i, 3))', chr(39) + 'span' + chr(39))})"
        resource = (f"map('service.name', service, 'service.version', concat('1.', toString(cityHash64(service) % 9), '.', toString(intDiv(t, 100000))), "
                    f"'deployment.environment.name', {_one(ENVIRONMENTS, 't', chr(39) + 'env' + chr(39))}, "
                    "'host.name', concat('gpu-', toString(cityHash64(t, 'host') % 64)), 'telemetry.sdk.name', 'opentelemetry', "
                    "'process.pid', toString(1000 + cityHash64(t, 'pid') % 3000))")
        error = f"if({_FAILED}, map('error.type', {_one(ERRORS, 't', 'i', '0')}), map())"
        question = (f"concat(if(t % {NEEDLE_ONE_IN} = 17, '{NEEDLE} ', ''), {_text(16, 48, 'vocabulary', 'q')}, ' ORD-', toString(cityHash64(t) % 90000000 + 10000000))")
        numbers = {
            "gen_ai.usage.input_tokens": "toString(20 + cityHash64(t, i, 'in') % 900)",
            "gen_ai.usage.output_tokens": f"toString({_LENGTH})",
            "gen_ai.request.max_tokens": "'512'",
            "gen_ai.request.temperature": "toString(round(0.1 * (cityHash64(t) % 12), 1))",
            "cutaway.time_to_first_token": f"toString(round({_TTFT}, 4))",
            "cutaway.time_per_output_token": f"toString(round({_TPOT}, 5))",
            "cutaway.output.perplexity": f"toString(round(exp({_MEAN}), 4))",
            "cutaway.output.surprisal.mean": f"toString(round({_MEAN}, 4))",
            "cutaway.output.surprisal.max": f"toString(round({_MEAN} * (2 + log({_LENGTH})), 4))",
            "cutaway.output.entropy.mean": f"toString(round({_MEAN} * 1.1, 4))",
            "cutaway.output.nll": f"toString(round({_MEAN} * {_LENGTH}, 3))",
            "cutaway.output.repetition": f"toString(round(pow({_unit('t', 'i', chr(39) + 'rep' + chr(39))}, 8), 4))",
            "cutaway.attention.entropy.mean": f"toString(round(2.3 + 0.2 * {_normal('t', 'i', chr(39) + 'attn' + chr(39))}, 4))",
            "cutaway.attention.entropy.min": f"toString(round(0.4 * {_unit('t', 'i', chr(39) + 'min' + chr(39))}, 4))",
        }
        generation = (
            f"map('gen_ai.operation.name', 'chat', 'gen_ai.provider.name', 'huggingface', 'gen_ai.request.model', {_MODEL}, "
            f"'gen_ai.response.model', {_MODEL}, 'gen_ai.response.finish_reasons', "
            "if(cityHash64(t, i, 'finish') % 9 = 0, '[\"length\"]', '[\"stop\"]'), "
            + ", ".join(f"'{key}', {value}" for key, value in numbers.items())
            + ", 'cutaway.token.status', 'recorded', 'cutaway.attention.status', 'recorded', 'cutaway.decoding.mode', 'sample', "
            f"'gen_ai.conversation.id', concat('conv-', toString(intDiv(t, 4))), 'prompt.template', {_one(TEMPLATES, 't', 'i', chr(39) + 'template' + chr(39))}, "
            f"'user.id', concat('user-', toString(cityHash64(t, 'user') % 50000)), "
            f"'gen_ai.input.messages', concat('[{{\"role\":\"user\",\"parts\":[{{\"type\":\"text\",\"content\":\"', {question}, '\"}}]}}]'), "
            f"'gen_ai.output.messages', concat('[{{\"role\":\"assistant\",\"parts\":[{{\"type\":\"text\",\"content\":\"', {_text(20, 120, 'vocabulary', 'a')}, '\"}}]}}]'))")
        plain = (f"multiIf(startsWith(name, 'execute_tool'), map('gen_ai.operation.name', 'execute_tool', 'gen_ai.tool.name', substring(name, 14), "
                 f"'gen_ai.tool.call.arguments', concat('{{\"query\":\"', {_text(4, 12, 'vocabulary', 'tool')}, '\"}}')), "
                 f"name = 'SELECT documents', map('db.system', 'postgresql', 'db.statement', concat('SELECT id, text FROM documents WHERE topic = ', toString(cityHash64(t, i) % 900), ' ORDER BY embedding <=> $1 LIMIT 8')), "
                 f"name = 'GET /v1/items', map('http.request.method', 'GET', 'http.response.status_code', if({_FAILED}, '504', '200'), 'url.path', concat('/v1/items/', toString(cityHash64(t, i) % 100000))), "
                 "name = 'embed query', map('gen_ai.operation.name', 'embeddings', 'gen_ai.request.model', 'all-MiniLM-L6-v2'), "
                 "map('step', toString(i), 'top_k', '8'))")
        root = (f"map('http.request.method', 'POST', 'http.route', substring(name, 6), 'http.response.status_code', if({_FAILED}, '500', '200'), "
                "'user.plan', ['free', 'free', 'free', 'pro', 'team'][1 + cityHash64(t, 'plan') % 5], "
                "'user.id', concat('user-', toString(cityHash64(t, 'user') % 50000)), 'session.id', concat('s-', toString(intDiv(t, 3))))")
        kinds = (
            (f"{_one(ROUTES, 't', chr(39) + 'route' + chr(39))}", _SERVICE, "'Server'", root, "i = 0", "exp(8 + 0.6 * {normal})"),
            (f"concat('chat ', {_MODEL})", _SERVICE, "'Internal'", generation, _GENERATES, f"1000 * ({_TTFT} + {_TPOT} * {_LENGTH})"),
            (other, f"{_array(WORKERS)}[1 + {chance}]", f"if({chance} % 3 = 2, 'Client', 'Internal')", plain,
             f"i > 0 AND NOT ({_GENERATES})", "exp(3 + 1.2 * {normal})"),
        )
        selects = []
        for name, service, kind, attributes, where, took_ms in kinds:
            took = took_ms.replace("{normal}", _normal("t", "i", "'took'"))
            failure = f"if({_FAILED}, concat({_one(ERRORS, 't', 'i', '0')}, ': ', {_text(4, 8, 'vocabulary', 'why')}), '')"
            inner = self._rows(f"t, i, at, {name} AS name, {service} AS service", where)
            selects.append(
                f"SELECT fromUnixTimestamp64Nano(at), {_TRACE_ID}, {_SPAN_ID}, {parent}, name, {kind}, service, {resource}, 'cutaway', "
                f"mapConcat({attributes}, {error}), toUInt64(1e6 * {took}), if({_FAILED}, 'Error', if({kind} = 'Client', 'Unset', 'Ok')), {failure}, "
                f"if({_FAILED}, [fromUnixTimestamp64Nano(at + 5000000)], []), if({_FAILED}, ['exception'], []), "
                f"if({_FAILED}, [map('exception.type', {_one(ERRORS, 't', 'i', '0')}, 'exception.message', {failure})], []) FROM ({inner})")
        columns = ("Timestamp, TraceId, SpanId, ParentSpanId, SpanName, SpanKind, ServiceName, ResourceAttributes, ScopeName, SpanAttributes, "
                   "Duration, StatusCode, StatusMessage, `Events.Timestamp`, `Events.Name`, `Events.Attributes`")
        return f"INSERT INTO `{database}`.otel_traces ({columns}) WITH {self.vocabulary} AS vocabulary {' UNION ALL '.join(selects)}{_SETTINGS}"

    def _recorded(self) -> str:
        return f"{_GENERATES} AND cityHash64(t, i, 'tokens') % 1000000 < {self.plan.token_share_ppm}"

    def tokens(self, database: str) -> str:
        """INSERT of token rows."""
        surprisal = f"arrayMap(j -> toFloat32(-log({_unit('t', 'i', 'j', chr(39) + 's' + chr(39))}) * mean), range(n))"
        cells = f"arrayMap(k -> toFloat32(abs(2.3 + 0.05 * log(1 + intDiv(k, {LAYERS})) + 0.5 * sin(k % {LAYERS}) + {_unit('t', 'i', 'k')})), range(n * {LAYERS}))"
        every = f"if(cityHash64(t, i, 'heads') % {HEADS_ONE_IN} = 0, arrayMap(k -> toFloat32(1.8 + {_unit('t', 'i', 'k', '1')}), range(n * {LAYERS * HEADS})), [])"
        columns = {
            "Timestamp": "fromUnixTimestamp64Nano(at)", "ServiceName": _SERVICE, "GenAiModel": _MODEL, "TraceId": _TRACE_ID, "SpanId": _SPAN_ID,
            "SeqIndex": "0", "InputTokens": "toUInt32(20 + cityHash64(t, i, 'in') % 900)", "OutputTokens": "n",
            "TokenIds": "arrayMap(j -> toUInt32(cityHash64(t, i, j) % 49152), range(n))",
            "TokenTexts": "arrayMap(j -> concat(' ', vocabulary[1 + cityHash64(t, i, j) % 8000]), range(n))",
            "Surprisals": surprisal, "Entropies": f"arrayMap(j -> toFloat32(1.1 * mean * {_unit('t', 'i', 'j', '2')}), range(n))",
            "Margins": f"arrayMap(j -> toFloat32(3 * {_unit('t', 'i', 'j', '3')}), range(n))",
            "Ranks": f"arrayMap(j -> toUInt32(pow({_unit('t', 'i', 'j', '4')}, 9) * 100), range(n))",
            "InterTokenS": f"arrayMap(j -> toFloat32(if(j = 0, {_TTFT}, {_TPOT} * (0.8 + 0.4 * {_unit('t', 'i', 'j', '5')}))), range(n))",
            "AttentionLayers": str(LAYERS), "AttentionHeads": f"if(cityHash64(t, i, 'heads') % {HEADS_ONE_IN} = 0, {HEADS}, 0)",
            "AttentionModelLayers": str(LAYERS), "AttentionEntropies": cells, "AttentionEntropyHeads": every,
        }
        inner = self._rows(f"t, i, at, {_LENGTH} AS n, {_MEAN} AS mean", self._recorded())
        return (f"INSERT INTO `{database}`.gen_ai_tokens ({', '.join(columns)}) WITH {self.vocabulary} AS vocabulary "
                f"SELECT {', '.join(columns.values())} FROM ({inner}){_SETTINGS}")

    def scores(self, database: str) -> str:
        """INSERT of scores: three of the token series where they are recorded, and one of the texts for every fourth generation."""
        inner = self._rows(f"t, i, at, {_MEAN} AS mean, {self._recorded()} AS recorded", f"{_GENERATES} AND ({self._recorded()} OR t % 4 = 0)")
        each = ("arrayJoin(arrayConcat(if(recorded, [tuple('worst_window_surprisal', 2.1 * mean, ''), tuple('repetition', "
                f"pow({_unit('t', 'i', chr(39) + 'rep' + chr(39))}, 8), ''), tuple('surprisal_last_quarter', 0.9 * mean, '')], []), "
                f"if(t % 4 = 0, [tuple('relevance', {_unit('t', 'i', chr(39) + 'rel' + chr(39))}, if({_unit('t', 'i', chr(39) + 'rel' + chr(39))} < 0.1, 'low', ''))], []))) AS score")
        columns = {
            "Timestamp": "fromUnixTimestamp64Nano(at)", "ServiceName": _SERVICE, "GenAiModel": _MODEL, "TraceId": _TRACE_ID, "SpanId": _SPAN_ID,
            "SeqIndex": "0", "ScoreName": "score.1", "ScorerVersion": "'1'", "Source": "'collector'", "Value": "score.2", "Label": "score.3",
        }
        return (f"INSERT INTO `{database}`.gen_ai_scores ({', '.join(columns)}) SELECT {', '.join(columns.values())} "
                f"FROM (SELECT t, i, at, {each} FROM ({inner})){_SETTINGS}")


_SETTINGS: Final = (" SETTINGS max_insert_threads = 1, max_threads = 2, max_block_size = 16384, min_insert_block_size_rows = 600000, "
                    "min_insert_block_size_bytes = 1000000000, max_execution_time = 0, max_memory_usage = 8000000000, "
                    "max_query_size = 10000000, max_ast_elements = 1000000, "
                    "max_expanded_ast_elements = 5000000, log_queries = 0")


def note(folder: Path, **values: int) -> dict[str, int]:
    """What a folder holds, as JSON beside its data, with these values set."""
    place = folder / "filled.json"
    held: dict[str, int] = json.loads(place.read_text()) if place.exists() else {}
    if values:
        held |= values
        place.write_text(json.dumps(held) + "\n")
    return held


def log(line: str) -> None:
    """To the terminal."""
    print(line, file=sys.stderr, flush=True)
