"""What searches find, against a plain Python reading of the same spans; paging, sorting, histograms, facets."""

from __future__ import annotations

import json
import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cutaway_collector.contracts import Store
from cutaway_collector.errors import QueryError
from cutaway_collector.search import SearchRequest, facets, find, histogram
from search_helpers import INPUT, MODEL, OUTPUT, PERPLEXITY, START_NS, TPOT, TTFT, Event, Span, stored

SECOND = 10**9
ENVIRONMENT = "deployment.environment.name"


def _spans() -> list[Span]:
    """150 spans with every combination of present and absent values, equal starts and equal sort keys among them."""
    dice = random.Random(7)
    spans = []
    for number in range(1, 151):
        attributes = {"user.id": str(number % 20), "http.route": f"/v1/{number % 4}"}
        generation = number % 3 != 0
        if generation:
            attributes |= {
                "gen_ai.operation.name": "chat" if number % 2 else "text_completion",
                MODEL: dice.choice(["gpt2", "llama-7b", "llama-13b", "HuggingFaceTB/SmolLM2-135M-Instruct"]),
                INPUT: str(dice.randrange(1, 50)), OUTPUT: str(dice.randrange(1, 3000)),
                "gen_ai.response.finish_reasons": json.dumps(dice.choice([["stop"], ["length"], ["stop", "length"]])),
            }
        if generation and number % 5:
            attributes[TTFT] = str(dice.choice([0.1, 0.5, 0.75, 2.0]))
            attributes[PERPLEXITY] = str(dice.choice([1.5, 12.0, 20.0, 20.5, 400.0]))
            if number % 8 == 0:
                attributes[TPOT] = "0.0008"
        if number % 50 == 1:
            attributes[PERPLEXITY] = "nan"
        if number % 11 == 0:
            attributes["note"] = dice.choice(["Schöne GRÜSSE", "50%_off", "plain note"])
        failed = number % 13 == 0
        message = "CUDA out of memory" + "\U0001F525" * (number % 3) * 300 + " at 300\u212A, tre\u0301s \u017Ftrange"
        environment = {ENVIRONMENT: dice.choice(["dev", "prod"])} if number % 2 else {}
        spans.append(Span(
            number, name=dice.choice(["chat gpt2", "tool.call", "retrieve docs"]), trace=1 + number // 4,
            parent=number - 1 if number % 4 else 0, service=dice.choice(["api", "batch"]),
            start_ns=START_NS + (number // 2) * SECOND,
            duration_ns=dice.randrange(1, 4) * 500_000_000, status="Error" if failed else dice.choice(["Unset", "Ok"]),
            message=message if failed else "", attributes=attributes,
            resource={"host.name": f"node-{number % 3}"} | environment,
            events=[Event("exception", {"exception.type": "OutOfMemoryError"})] if failed else [],
        ))
    return spans


SPANS = _spans()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stored(Path(tmp_path_factory.mktemp("search-find")), SPANS) as opened:
        yield opened


def number(span: Span, key: str) -> float | None:
    return float(span.attributes[key]) if key in span.attributes else None


def above(span: Span, key: str, least: float) -> bool:
    value = number(span, key)
    return value is not None and value > least


def pace(span: Span) -> float:
    """Output tokens a second: as the sender measured it, else from the first token on, else over the span; 0 where unknown."""
    tokens, first, each = (number(span, key) for key in (OUTPUT, TTFT, TPOT))
    seconds = span.duration_ns / 1e9
    if each is not None:
        return 1 / each
    if tokens is None:
        return 0.0
    return (tokens - 1) / (seconds - first) if first is not None and first < seconds and tokens > 1 else tokens / seconds


def model(span: Span) -> str:
    return span.attributes.get(MODEL, "")


def mentions(span: Span, text: str) -> bool:
    texts = [span.name, span.service, model(span), span.message, *span.attributes.values(), *span.resource.values()]
    texts += [event.name for event in span.events] + [value for event in span.events for value in event.attributes.values()]
    # Plain ASCII finds ASCII: the sign of kelvin, of which Python makes a k, is none.
    return any(text.lower() in candidate.replace("\u212A", "\0").lower() for candidate in texts)


def finished(span: Span, reason: str) -> bool:
    return reason in json.loads(span.attributes.get("gen_ai.response.finish_reasons", "[]"))


CASES: list[tuple[str, Callable[[Span], bool]]] = [
    ("", lambda s: True),
    ("is:error", lambda s: s.status == "Error"),
    ("status:error", lambda s: s.status == "Error"),
    ("status:(ok, ERROR)", lambda s: s.status in ("Ok", "Error")),
    ("is:root", lambda s: s.parent == 0),
    ("is:generation", lambda s: MODEL in s.attributes),
    ("-is:generation", lambda s: MODEL not in s.attributes),
    ("model:gpt2", lambda s: model(s) == "gpt2"),
    ("model:llama*", lambda s: model(s).startswith("llama")),
    ("model:llama-?b", lambda s: model(s) == "llama-7b"),
    ("model:(gpt2, llama*)", lambda s: model(s) == "gpt2" or model(s).startswith("llama")),
    ("model:/^llama-[0-9]+b$/", lambda s: model(s).startswith("llama")),
    ("model~ama-[0-9]", lambda s: model(s).startswith("llama")),
    ("model!~^llama", lambda s: model(s) != "" and not model(s).startswith("llama")),
    ("-model~/^llama/", lambda s: not model(s).startswith("llama")),
    ("gen_ai.request.model:gpt2", lambda s: model(s) == "gpt2"),
    ("-model:gpt2", lambda s: model(s) != "gpt2"),
    ("model:!=gpt2", lambda s: model(s) not in ("", "gpt2")),
    ("has:model", lambda s: model(s) != ""),
    ("model:*", lambda s: model(s) != ""),
    ("NOT has:model", lambda s: model(s) == ""),
    ("ttft:>500ms", lambda s: above(s, TTFT, 0.5)),
    ("ttft >= 0.5", lambda s: (number(s, TTFT) or 0) >= 0.5),
    ("-ttft:>500ms", lambda s: not above(s, TTFT, 0.5)),
    ("ttft:!=500ms", lambda s: number(s, TTFT) not in (None, 0.5)),
    ("perplexity:>20", lambda s: above(s, PERPLEXITY, 20)),
    ("perplexity:[12 TO 20]", lambda s: 12 <= (number(s, PERPLEXITY) or 0) <= 20),
    ("perplexity:[* TO 12]", lambda s: (number(s, PERPLEXITY) or 99) <= 12),
    ("tokens.out:>2k", lambda s: above(s, OUTPUT, 2000)),
    ("tokens:<=100", lambda s: OUTPUT in s.attributes and int(s.attributes[INPUT]) + int(s.attributes[OUTPUT]) <= 100),
    ("tps:>1000", lambda s: pace(s) > 1000),
    ("duration:1s", lambda s: s.duration_ns == SECOND),
    ("duration:>=1500ms", lambda s: s.duration_ns >= 1_500_000_000),
    ("env:dev", lambda s: s.resource.get(ENVIRONMENT) == "dev"),
    ("-env:dev", lambda s: s.resource.get(ENVIRONMENT) != "dev"),
    ("env:!=dev", lambda s: s.resource.get(ENVIRONMENT, "dev") != "dev"),
    ("user.id:7", lambda s: s.attributes["user.id"] == "7"),
    ("user.id:7.0", lambda s: s.attributes["user.id"] == "7"),
    ("user.id:>17", lambda s: int(s.attributes["user.id"]) > 17),
    ("http.route:/v1/2", lambda s: s.attributes["http.route"] == "/v1/2"),
    ("http.route:*2", lambda s: s.attributes["http.route"].endswith("2")),
    ("host.name:node-1", lambda s: s.resource["host.name"] == "node-1"),
    ("resource.host.name:node-1", lambda s: s.resource["host.name"] == "node-1"),
    ("span.host.name:node-1", lambda s: False),
    ("has:note", lambda s: "note" in s.attributes),
    ('note:"50%_off"', lambda s: s.attributes.get("note") == "50%_off"),
    ("note:50%*", lambda s: s.attributes.get("note") == "50%_off"),
    ("note:*%?off", lambda s: s.attributes.get("note") == "50%_off"),
    ("no.such:attribute", lambda s: False),
    ("-no.such:attribute", lambda s: True),
    ("finish:length", lambda s: finished(s, "length")),
    ("-finish:length", lambda s: not finished(s, "length")),
    ("finish:l*", lambda s: finished(s, "length")),
    ("event:exception", lambda s: bool(s.events)),
    ("OUT", lambda s: mentions(s, "out")),
    ('"Out Of Memory"', lambda s: "out of memory" in s.message.lower()),
    ("outofmemory", lambda s: mentions(s, "outofmemory")),
    ("schöne", lambda s: mentions(s, "schöne")),
    ("grüsse", lambda s: mentions(s, "grüsse")),
    ("-note", lambda s: not mentions(s, "note")),
    ("smollm2 is:root", lambda s: mentions(s, "smollm2") and s.parent == 0),
    ("doc* service:api", lambda s: mentions(s, "doc") and s.service == "api"),
    ("(model:gpt2 OR is:error) service:batch", lambda s: (model(s) == "gpt2" or s.status == "Error") and s.service == "batch"),
    ("model:gpt2 OR is:error service:batch", lambda s: model(s) == "gpt2" or (s.status == "Error" and s.service == "batch")),
    ("-(perplexity:>20 OR service:api)", lambda s: not above(s, PERPLEXITY, 20) and s.service != "api"),
    (f"trace:{7:032x}", lambda s: s.trace == 7),
    (f"{7:032x}", lambda s: s.trace == 7),
    (f"{7:016x}", lambda s: s.number == 7),
]


@pytest.mark.parametrize(("query", "matches"), CASES, ids=[query or "everything" for query, _ in CASES])
def test_a_search_finds_exactly_the_matching_spans(store: Store, query: str, matches: Callable[[Span], bool]) -> None:
    """Each form of the language selects what a plain reading of the spans selects."""
    found = find(store, SearchRequest(q=query, limit=500), rows_max=500)
    assert sorted(int(row["span_id"], 16) for row in found["rows"]) == [span.number for span in SPANS if matches(span)]


def test_a_row_carries_the_span(store: Store) -> None:
    """A row gives identity, times to the nanosecond and numbers; what is unknown or not finite is None, so it is JSON."""
    span = SPANS[1]
    row = find(store, SearchRequest(q=f"span:{span.span_id}"), rows_max=10)["rows"][0]
    assert row == {
        "trace_id": span.trace_id, "span_id": span.span_id, "parent_span_id": f"{span.parent:016x}", "name": span.name,
        "kind": "Internal", "service": span.service, "start_ns": span.start_ns, "duration_ns": span.duration_ns,
        "status": span.status, "status_message": "",
        "model": model(span), "operation": "text_completion", "input_tokens": int(span.attributes[INPUT]),
        "output_tokens": int(span.attributes[OUTPUT]), "ttft_s": number(span, TTFT), "tpot_s": None,
        "perplexity": number(span, PERPLEXITY), "surprisal_mean": None, "surprisal_max": None, "entropy_mean": None,
        "attention_entropy_mean": None, "attention_entropy_min": None,
    }
    nan = find(store, SearchRequest(q=f"span:{SPANS[0].span_id}"), rows_max=10)["rows"][0]
    assert nan["perplexity"] is None


def _walk(store: Store, request: SearchRequest) -> list[int]:
    """The numbers of all spans of a search, page after page."""
    out: list[int] = []
    after: str | None = ""
    while after is not None:
        answer = find(store, replace(request, after=after), rows_max=500)
        assert len(answer["rows"]) <= request.limit
        out += [int(row["span_id"], 16) for row in answer["rows"]]
        after = answer["next"]
    return out


def _sorted(key: Callable[[Span], Any], descending: bool) -> list[int]:
    """Missing last; equal keys newest first; then by span id, falling. Python's sort is stable, also in reverse."""
    ties = sorted(SPANS, key=lambda s: (s.start_ns, s.span_id), reverse=True)
    there = sorted((s for s in ties if key(s) is not None), key=key, reverse=descending)
    return [s.number for s in there + [s for s in ties if key(s) is None]]


def _perplexity(span: Span) -> float | None:
    value = number(span, PERPLEXITY)
    return None if value is None or math.isnan(value) else value


SORTS: list[tuple[str, Callable[[Span], Any]]] = [
    ("perplexity", _perplexity), ("ttft", lambda s: number(s, TTFT)), ("duration", lambda s: s.duration_ns),
    ("status.message", lambda s: s.message[:200] or None),
    ("model", lambda s: model(s) or None), ("tokens.out", lambda s: number(s, OUTPUT)), ("name", lambda s: s.name),
]


@pytest.mark.parametrize("limit", [7, 500])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(("name", "key"), SORTS, ids=[name for name, _ in SORTS])
def test_pages_in_any_sort_give_every_span_once_in_order(
    store: Store, name: str, key: Callable[[Span], Any], descending: bool, limit: int,
) -> None:
    """Paging by key through equal and missing values repeats nothing, skips nothing, and puts what is missing last."""
    sort = f"-{name}" if descending else name
    assert _walk(store, SearchRequest(sort=sort, limit=limit)) == _sorted(key, descending)


def test_newest_first_and_oldest_first(store: Store) -> None:
    """Without a sort the newest span comes first; `time` turns it round."""
    order = [s.number for s in sorted(SPANS, key=lambda s: (s.start_ns, s.span_id))]
    assert _walk(store, SearchRequest(limit=11)) == order[::-1]
    assert _walk(store, SearchRequest(limit=11, sort="time")) == order


def test_a_time_range_excludes_its_end(store: Store) -> None:
    """start_ns <= start < end_ns, to the nanosecond."""
    start, end = START_NS + 10 * SECOND, START_NS + 12 * SECOND
    found = _walk(store, SearchRequest(start_ns=start, end_ns=end))
    assert sorted(found) == [s.number for s in SPANS if start <= s.start_ns < end]
    assert len(found) == 4


@pytest.mark.parametrize(("start", "end"), [(START_NS + 10**15, None), (None, START_NS - 10**15), (2**64, None), (None, -5)],
                         ids=["after", "before", "after any clock", "before 1970"])
def test_a_range_beyond_the_data_is_empty(store: Store, start: int | None, end: int | None) -> None:
    """One end outside of all that is stored, however far, finds nothing and harms nothing."""
    assert _walk(store, SearchRequest(start_ns=start, end_ns=end)) == []


def test_the_page_limit_binds(store: Store) -> None:
    """No request gets more rows than the page may hold."""
    assert len(find(store, SearchRequest(limit=10_000), rows_max=20)["rows"]) == 20


@pytest.mark.parametrize("request_", [
    SearchRequest(limit=0), SearchRequest(sort="nonsense"), SearchRequest(sort="finish"), SearchRequest(start_ns=5, end_ns=5),
    SearchRequest(q="model:>5"), SearchRequest(q="perplexity:high"), SearchRequest(q="is:eror"), SearchRequest(q="name:/a{1001}/"),
    SearchRequest(after="???"), SearchRequest(after="W10"), SearchRequest(after="x" * 5000),
], ids=str)
def test_requests_that_cannot_be_are_refused(store: Store, request_: SearchRequest) -> None:
    """A request that breaks a rule gets a QueryError, not an engine's complaint."""
    with pytest.raises(QueryError):
        find(store, request_, rows_max=500)


@pytest.mark.parametrize(("query", "at", "said"), [
    ("is:root name:/(?=a)b/", "/(?=a)b/", "(?="), (r"name:/(a)\1/", r"/(a)\1/", "RE2"),
    ("name:/ok/ name:(b, /[z-a]/)", "/[z-a]/", "z-a"),
    ("-name:/a**/ OR name:/a/", "/a**/", "**"), ("name:/(/", "/(/", "missing"),
])
def test_a_pattern_that_re2_refuses_is_pointed_at(store: Store, query: str, at: str, said: str) -> None:
    """The engine's complaint about a regular expression becomes an error at its column, with the reason."""
    request = SearchRequest(q=query)
    for search in (lambda: find(store, request, rows_max=5), lambda: histogram(store, request, 5), lambda: facets(store, request)):
        with pytest.raises(QueryError) as refused:
            search()
        assert query.index(at) == refused.value.column
        assert said in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize(("pattern", "count"), [
    (r"\Qtool.call\E", None), (r"\Atool.call\z", None), (r"[[:alpha:]]+\.[[:alpha:]]+", None), (r"\pL{40}", 0),
])
def test_all_of_re2_is_there(store: Store, pattern: str, count: int | None) -> None:
    """Quotes, classes and anchors of RE2 that Python lacks find what they mean."""
    expected = sum(span.name == "tool.call" for span in SPANS) if count is None else count
    assert len(find(store, SearchRequest(q=f"name:/{pattern}/", limit=500), rows_max=500)["rows"]) == expected


def test_a_cursor_belongs_to_its_search(store: Store) -> None:
    """A cursor cannot page through another query or sort."""
    after = find(store, SearchRequest(limit=3, sort="-ttft"), rows_max=500)["next"]
    for other in (SearchRequest(limit=3, sort="ttft", after=after), SearchRequest(q="x", limit=3, sort="-ttft", after=after)):
        with pytest.raises(QueryError):
            find(store, other, rows_max=500)


@pytest.mark.parametrize(("query", "said"), [
    ("perplexty:>5", "`perplexity`"), ("(a or -modell:x)", "OR"), ("-modell:x", "`model`"), ("error:true", "is:error"),
])
def test_a_likely_slip_is_searched_with_a_warning(store: Store, query: str, said: str) -> None:
    """A near miss of a field, an operator in small letters and error:true run as written, and the answer says what to write."""
    assert any(said in warning for warning in find(store, SearchRequest(q=query), rows_max=500)["stats"]["warnings"])


def test_an_attribute_of_ones_own_is_no_slip(store: Store) -> None:
    """Names unlike any field, or with a scope, get no warning."""
    assert find(store, SearchRequest(q="user.id:5 span.modell:x is:error"), rows_max=500)["stats"]["warnings"] == []


def test_histogram_counts_every_match_in_its_bucket(store: Store) -> None:
    """Counts and errors a bucket equal a plain count of the spans."""
    start, end, buckets = START_NS, START_NS + 80 * SECOND, 9
    drawn = histogram(store, SearchRequest(q="service:api", start_ns=start, end_ns=end), buckets)
    matching = [s for s in SPANS if s.service == "api"]
    counts = Counter((s.start_ns - start) // drawn["bucket_ns"] for s in matching)
    errors = Counter((s.start_ns - start) // drawn["bucket_ns"] for s in matching if s.status == "Error")
    assert drawn["counts"] == [counts[bucket] for bucket in range(buckets)]
    assert drawn["errors"] == [errors[bucket] for bucket in range(buckets)]
    assert drawn["bucket_ns"] * buckets >= end - start


def test_an_open_histogram_spans_the_matches(store: Store) -> None:
    """Without a range the histogram runs from the first to the last match and holds them all."""
    drawn = histogram(store, SearchRequest(q="is:error"), 5)
    starts = [s.start_ns for s in SPANS if s.status == "Error"]
    assert (drawn["start_ns"], drawn["end_ns"]) == (min(starts), max(starts) + 1)
    assert sum(drawn["counts"]) == sum(drawn["errors"]) == len(starts)


def test_facets_count_the_values_of_the_matches(store: Store) -> None:
    """Each facet lists the ten most frequent values, fields and attributes alike, what the others hold, and how many lack it."""
    found = facets(store, SearchRequest(q="service:api"), ("model", "user.id", "finish"))
    matching = [s for s in SPANS if s.service == "api"]
    models = Counter(model(s) for s in matching if model(s))
    listed = [{"value": v, "count": n} for v, n in sorted(models.items(), key=lambda item: (-item[1], item[0]))]
    assert found["model"]["values"] == listed
    assert found["model"]["missing"] == sum(not model(s) for s in matching)
    reasons = Counter(r for s in matching for r in json.loads(s.attributes.get("gen_ai.response.finish_reasons", "[]")))
    assert {e["value"]: e["count"] for e in found["finish"]["values"]} == reasons
    users = Counter(s.attributes["user.id"] for s in matching).most_common()
    counted = found["user.id"]
    assert [entry["count"] for entry in counted["values"]] == [count for _, count in users[:10]]
    assert (len(users) - 10, sum(count for _, count in users[10:])) == (counted["other_values"], counted["other"])


def test_parts_of_words_are_found_in_the_index_as_in_the_texts(store: Store) -> None:
    """Merged rows have an index of words: one letter, two, a sign among them and what no text has, in whatever case."""
    store.command("OPTIMIZE TABLE otel.otel_traces FINAL")
    for text in ("k", "K m", "sk", "g", "7", "zz", "7b", "UT", "pi", "O2", "0%_", "/2", "e n", "ot d", "b-"):
        rows = find(store, SearchRequest(q=f'"{text}"', limit=500), rows_max=500)["rows"]
        assert {row["span_id"] for row in rows} == {span.span_id for span in SPANS if mentions(span, text)}, text


@pytest.mark.parametrize(("query", "pattern"), [
    ("sch*ne", "sch.*ne"), ("GR?SS*", "gr.ss"), ("CUDA*MEM*300k", "cuda.*mem.*300k"), ("a?300k", None), ("s?range", "s.range"),
    ("tr*s*trange", "tr.*s.*trange"), ("TRÉS", "trés"), ("tre\u0301s", "trés"), ("très", None), ("5?%_O", "5.%_o"),
    ("pl\\*in", None), ("p*in?note", "p.*in.note"), ("*zq*", None), ("\U0001F525*at", "\U0001F525.*at"), ("ö", "ö"),
    ("SCHÖNE", "schöne")])
def test_globs_and_other_alphabets_find_what_the_texts_say(store: Store, query: str, pattern: str | None) -> None:
    """The index of words leaves nothing out: wildcards, accents in both forms, and letters whose other capital is not ASCII."""
    store.command("OPTIMIZE TABLE otel.otel_traces FINAL")

    def says(span: Span) -> bool:
        texts = [span.name, span.service, model(span), span.message, *span.attributes.values(), *span.resource.values(),
                 "exception", *(value for event in span.events for value in event.attributes.values())]
        return any(re.search(pattern or "(?!)", unicodedata.normalize("NFC", text), re.IGNORECASE | re.DOTALL) for text in texts)

    rows = find(store, SearchRequest(q=query, limit=500), rows_max=500)["rows"]
    assert {row["span_id"] for row in rows} == {span.span_id for span in SPANS if says(span)}
    assert bool(rows) == (pattern is not None)
