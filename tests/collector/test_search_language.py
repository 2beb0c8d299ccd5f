"""The search language: texts to trees, numbers with units, and errors that say where and what to do."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway_collector.errors import QueryError
from cutaway_collector.search import explain, parse
from cutaway_collector.search.english import warnings
from cutaway_collector.search.fields import FIELDS, lookup
from cutaway_collector.search.language import And, Has, Is, Listing, Literal, Not, Or, Range, Regex, Term, Text
from cutaway_collector.search.values import is_glob, like, number, plain


def term(query: str) -> Term:
    node = parse(query)
    assert isinstance(node, Term)
    return node


def text(word: str, at: int = 0) -> Text:
    return Text(Literal(word, False, at), at)


@pytest.mark.parametrize(("query", "field", "operator", "value"), [
    ("model:gpt2", "model", "=", "gpt2"), ("model=gpt2", "model", "=", "gpt2"), ("model==gpt2", "model", "=", "gpt2"),
    ("model:!=gpt2", "model", "!=", "gpt2"), ("model!=gpt2", "model", "!=", "gpt2"), ("ttft:>500ms", "ttft", ">", "500ms"),
    ("ttft > 500ms", "ttft", ">", "500ms"), ("ttft>=1s", "ttft", ">=", "1s"), ("ttft: <= 1s", "ttft", "<=", "1s"),
    ("url:http://a/b?c=d", "url", "=", "http://a/b?c=d"), ("path:/api/v1", "path", "=", "/api/v1"), ("n:>-5", "n", ">", "-5"),
    ("a:b,c", "a", "=", "b,c"), ("café:naïve", "café", "=", "naïve"), ("k8s.pod/name-x:y", "k8s.pod/name-x", "=", "y"),
    ('"odd key":x', "odd key", "=", "x"), ('a:"say \\"hi\\" \\\\ OR (x)"', "a", "=", 'say "hi" \\ OR (x)'),
])
def test_term_forms(query: str, field: str, operator: str, value: str) -> None:
    """`field:value`, `field:>value` and `field>value`, with or without blanks, mean the same term."""
    found = term(query)
    assert isinstance(found.value, Literal)
    assert (found.field, found.operator, found.value.text) == (field, operator, value)


@pytest.mark.parametrize("query", ["12:30", "a-b", "or", "and", "not", "ORDER", "Notes", "x[1]", "-"])
def test_words_that_look_like_syntax_are_words(query: str) -> None:
    """Times of day, hyphens and lower-case keywords are searched, not interpreted."""
    assert parse(query) == text(query)


def test_and_binds_tighter_than_or_and_is_implied() -> None:
    """`a b OR c AND d` is (a and b) or (c and d)."""
    assert parse("a b OR c AND d") == Or((And((text("a"), text("b", 2))), And((text("c", 7), text("d", 13)))))


def test_parentheses_group() -> None:
    """`a (b OR c)` needs a."""
    assert parse("a (b OR c)") == And((text("a"), Or((text("b", 3), text("c", 8)))))


@pytest.mark.parametrize("query", ["-a", "NOT a"])
def test_negation(query: str) -> None:
    """A minus before a term and NOT are the same."""
    node = parse(query)
    assert isinstance(node, Not)
    assert node.part == text("a", query.index("a"))


def test_negated_group() -> None:
    """A minus negates a whole group."""
    assert parse("-(a b)") == Not(And((text("a", 2), text("b", 4))), 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pattern", [r"[[a]", r"\pN+", r"(?U)a+", r"\Qa.b\E", r"[[:alpha:]]", r"\z", r"(?i:x)(?s)."])
def test_a_pattern_is_left_to_the_engine(pattern: str) -> None:
    """What RE2 reads and Python's `re` does not, or warns of, passes unchanged and without a sound."""
    assert term(f"x:/{pattern}/").value == Regex(pattern, 2)


def test_ranges_lists_and_patterns() -> None:
    """`[a TO b]`, `(a, b)` and `/a/` are values of their own."""
    assert term("x:[10 TO *]").value == Range(Literal("10", False, 3), Literal("*", False, 9), 3)
    items = (Literal("a", False, 3), Literal("b c", True, 6), Literal("d*", False, 15))
    assert term('x:(a, "b c" OR d*)').value == Listing(items, 3)
    assert term("x:/a (b|c)\\/d/").value == Regex("a (b|c)/d", 2)


@pytest.mark.parametrize(("query", "operator", "value"), [
    ("x~gpt", "=", Regex("gpt", 2)), ("x~/a (b|c)/", "=", Regex("a (b|c)", 2)), ("x:~g.t", "=", Regex("g.t", 3)),
    ('x!~"a b"', "!=", Regex("a b", 3)), ("x !~ /a/", "!=", Regex("a", 5)), ("x:!~a*", "!=", Regex("a*", 4)),
    ("x~(a, /b/)", "=", Listing((Regex("a", 3), Regex("b", 6)), 3)),
])
def test_a_tilde_takes_a_pattern(query: str, operator: str, value: Regex | Listing) -> None:
    """`~` and `!~` stand before regular expressions, with or without slashes."""
    assert (operator, value) == (term(query).operator, term(query).value)


@pytest.mark.parametrize("query", ["about ~50", "~", "~user", "x~[1 TO 2]", "x~"])
def test_a_tilde_elsewhere_is_text_or_refused(query: str) -> None:
    """Behind a blank it belongs to a word; a range and nothing at all are no patterns."""
    if query.startswith("x"):
        with pytest.raises(QueryError):
            parse(query)
    else:
        assert all(isinstance(part, Text) for part in getattr(parse(query), "parts", (parse(query),)))


def test_has_and_is() -> None:
    """`has:` names a field or attribute, `is:` a flag."""
    assert parse("has:resource.user.id") == Has("user.id", "resource", 4)
    assert parse("is:error") == Is("error", 3)


@pytest.mark.parametrize(("query", "scope", "field"), [
    ("span.name:x", "span", "name"), ("resource.service.name:x", "resource", "service.name"), ('span."a b":x', "span", "a b"),
    ("spanner:x", "", "spanner"),
])
def test_a_scope_is_split_off(query: str, scope: str, field: str) -> None:
    """`span.` and `resource.` force where an attribute is looked for."""
    assert (term(query).scope, term(query).field) == (scope, field)


@pytest.mark.parametrize(("query", "column"), [
    ('a "b', 2), ("model:", 6), ("(a", 2), ("a)", 1), ("x:[1 2]", 5), ("x:(a b)", 5), ("a:[1 TO", 7), ("ttft:>", 6), ("a OR", 4),
])
def test_an_error_tells_the_column(query: str, column: int) -> None:
    """What cannot be read is refused with its place and a hint."""
    with pytest.raises(QueryError) as caught:
        parse(query)
    assert caught.value.column == column
    assert caught.value.hint


@pytest.mark.parametrize(("query", "remedy"), [
    ('"open', 'close it with "'), ('a "open', 'close it with "'), ("any{", "close it with }"), ("any{is:error", "close it with }"),
    ("(is:error", "close it with )"), ("is:error)", "nothing is open that ) closes"),
    ("model:()", "a value before that"), ("model:(a,)", "a value before that"), ("(--)", "expected"),
    ("(is:error))", "nothing is open that ) closes"), ('any{")")', "nothing is open"), ("model:[a,b]", "a list is (this, that)"),
    ("is:error | sort", "| sort -duration"),
])
def test_an_error_says_what_to_do(query: str, remedy: str) -> None:
    """What was left open, closed too often or written as elsewhere is named with its remedy, not in the words of the grammar."""
    with pytest.raises(QueryError) as caught:
        parse(query)
    assert remedy in caught.value.hint


@pytest.mark.parametrize("query", [
    f"x:/{'a' * 257}/", "a " * 3000, "-" * 60 + "a", "a " * 101,
])
def test_limits_refuse(query: str) -> None:
    """Regular expressions and queries too long, and queries too deep or wide, are refused before the store sees them."""
    with pytest.raises(QueryError):
        parse(query)


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(query: str) -> None:
    """No text makes the parser fail in another way than QueryError, and what parses can be explained or is refused for a name."""
    column = 0
    try:
        parse(query)
        explain(query)
    except QueryError as error:
        column = error.column
    assert 0 <= column <= len(query)


def test_one_parser_serves_many_threads() -> None:
    """The pages of a threaded server share the parser: eight threads read the same trees as one."""
    queries = [f'model:m{number}* (ttft:>{number}ms OR -"phrase {number}") x:({number}, b)' for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(parse, queries)) == [parse(query) for query in queries]


@given(st.text(min_size=1, max_size=40).filter(lambda s: "\0" not in s))
def test_quoted_text_keeps_every_character(value: str) -> None:
    """Backslash before a quote or backslash is all that quoting needs."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse(f'"{escaped}"') == Text(Literal(value, True, 0), 0)


@pytest.mark.parametrize(("unit", "written", "stored"), [
    ("ns", "500ms", 500_000_000), ("ns", "0.1s", 100_000_000), ("ns", "2", 2_000_000_000), ("ns", "1.5us", 1500),
    ("ns", "1h", 3600 * 10**9), ("s", "500ms", 0.5), ("s", "2m", 120), ("s", "3", 3), ("tokens", "2k", 2000),
    ("tokens", "1.5M", 1_500_000), ("", "12.5%", 0.125), ("", "-1e3", -1000), ("nats", "2", 2), ("nats", "8bits", 8 * math.log(2)),
    ("tokens/s", "0.5k", 500),
])
def test_units(unit: str, written: str, stored: float) -> None:
    """Numbers are converted to the stored unit, exactly where whole; bits are ln 2 nats."""
    value = number(Literal(written, False, 0), unit, "x")
    assert value == pytest.approx(stored, rel=1e-15)
    assert isinstance(value, int) == (stored == int(stored))


@pytest.mark.parametrize(("written", "unit", "hint"), [
    ("500mz", "s", "did you mean m"), ("fast", "s", "500ms"), ("5bits", "s", "unit"), ("1e999", "", ""), ("nan", "", ":>20"),
    ("5 5", "", ":>20"), ("5..10", "s", "x:[5 TO 10]"), ("5ms..", "s", "x:[5ms TO *]"), ("1lightyear", "s", "try 500ms"),
])
def test_wrong_numbers_are_refused_at_their_column(written: str, unit: str, hint: str) -> None:
    """A value that is no number of that unit is refused, with its place and a hint."""
    with pytest.raises(QueryError) as caught:
        number(Literal(written, False, 7), unit, "x")
    assert caught.value.column == 7
    assert hint in caught.value.hint


@pytest.mark.parametrize(("written", "pattern"), [("a*b?", "a%b_"), ("50%_\\*", "50\\%\\_*"), ("a\\?", "a?"), ("\\\\", "\\\\")])
def test_globs_become_like_patterns(written: str, pattern: str) -> None:
    """`*` and `?` are wildcards, everything else is itself, a backslash takes the wildcard's meaning away."""
    assert like(written) == pattern


def test_escaped_wildcards_are_plain() -> None:
    """`a\\*` looks for a star."""
    literal = Literal("a\\*", False, 0)
    assert not is_glob(literal)
    assert plain(literal) == "a*"


def test_names_and_aliases_are_unique() -> None:
    """No name of the registry means two things."""
    names = [name.lower() for field in FIELDS for name in (field.name, *field.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", [
    "model", "ttft", "tpot", "tps", "surprisal", "entropy", "perplexity", "attn", "finish", "tokens.in", "tokens.out", "error",
    "trace", "span", "service", "name", "status", "kind", "duration", "conversation", "gen_ai.request.model", "MODEL",
])
def test_promised_names_are_known(name: str) -> None:
    """The names of the documentation, and the attributes that fill a column, are fields."""
    assert lookup(name) is not None


@pytest.mark.parametrize(("query", "sentence"), [
    ("", "All spans."),
    ("model:llama* ttft:>500ms", "Spans whose model matches llama* and whose time to first token is above 500ms."),
    ("-env:dev", "Spans whose environment is missing or is not dev."),
    ("env:!=dev", "Spans that have environment and whose environment is not dev."),
    ("-(is:error a)", "Spans that did not end in an error or that do not mention “a”."),
    ("status:error OR has:user.id", "Spans whose status is Error or that have attribute user.id."),
    ("a (b OR c)", "Spans that mention “a” and (that mention “b” or that mention “c”)."),
    ("perplexity:[10 TO *]", "Spans whose perplexity is at least 10."),
    ("duration:>1", "Spans whose duration is above 1 s."),
    ("ttft:[1 TO 2s]", "Spans whose time to first token is from 1 s to 2s."),
    ("surprisal.count(>8):>2", "Spans whose number of tokens with surprisal above 8 nats is above 2."),
    ("-tokens.out>100", "Spans whose output tokens are missing or not above 100."),
])
def test_explanations(query: str, sentence: str) -> None:
    """The explanation says in English what is searched, negation included."""
    assert explain(query) == sentence


@pytest.mark.parametrize(("query", "remedy"), [
    ("duration:>5 ms", "directly behind its number: 5ms"), ("!is:error", "a minus in front: -is:error"),
    ("is:error sort:-duration", "| sort -duration"), ("since:1h", "choose the time range"), ("NOT !x", "a minus in front: -x"),
    ("status:eror", "Did you mean `error`?"), ("-kind:(client, foo)", "there are Unspecified, Internal, Server"),
    ("model:'gpt2'", "double quotes"), ("a 'out of memory'", "double quotes"),
])
def test_slips_are_searched_as_written_and_named(query: str, remedy: str) -> None:
    """What can be read but was hardly meant so gets one warning, which says how it is written."""
    (warning,) = warnings(parse(query))
    assert remedy in warning


@pytest.mark.parametrize("query", ["status:OK kind:c*", "span.status:x", "status~x", "it's", "don't 'tis", '"!a"', "ms",
                                   "duration:>5ms", "span.sort:1", "!", "perplexity:>2 error"])
def test_what_is_written_well_gets_no_warning(query: str) -> None:
    """A unit alone, a scoped attribute and quoted text are no slips."""
    assert not warnings(parse(query))
