"""The small parts behind the pages: times, numbers, tokens made visible, colour scales, edits of a query."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cutaway_collector.search import parse, values
from cutaway_collector.search.language import Literal, Not, Term
from cutaway_collector.web import charts, figures, query_edit, times, token_colours, tokens, urls
from cutaway_collector.web.errors import BadParameter

NOW = 1_800_000_000_000_000_000
CSS = (Path(tokens.__file__).parent / "static" / "cutaway.css").read_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("all", None),
        ("2106-02-07T06:28:15.999999", (2**32 - 1) * 10**9 + 999_999_000),
        ("now", NOW),
        ("-90m", NOW - 5400 * 10**9),
        ("2026-01-31T18:00", int(datetime(2026, 1, 31, 18, tzinfo=UTC).timestamp()) * 10**9),
        ("2026-01-31T18:00:00.250+02:00", int(datetime(2026, 1, 31, 16, tzinfo=UTC).timestamp()) * 10**9 + 250_000_000),
        ("1790000000", 1_790_000_000 * 10**9),
        ("1790000000123", 1_790_000_000_123 * 10**6),
        ("1790000000123456789", 1_790_000_000_123_456_789),
    ],
)
def test_times_are_read_in_every_spelling(text: str, expected: int | None) -> None:
    """Relative, ISO and epoch times of any unit mean the same moment, to the nanosecond."""
    assert expected == times.parse(text, NOW, "from")


@pytest.mark.parametrize(
    "text",
    ["yesterday", "-1y", "2026-13-01", "9" * 40, "-", "1e9", "9999-01-01", "2106-02-07T06:28:16", "-\u0663h",
     "\u0661\u0667\u0669", "\u0662026-01-31", "-1h\n-"],
)
def test_other_times_are_refused_by_name(text: str) -> None:
    """What is no time is refused, naming the parameter and showing what would be one."""
    with pytest.raises(BadParameter, match=r"^to is a time") as refused:
        times.parse(text, NOW, "to")

    assert "-1h" in refused.value.hint


@given(st.integers(0, 4_000_000_000_000))
def test_printed_times_read_back(milliseconds: int) -> None:
    """A link built from a printed time lands on the same millisecond."""
    assert milliseconds * 10**6 == times.parse(times.iso(milliseconds * 10**6), NOW, "from")


@pytest.mark.parametrize(
    ("ns", "expected"),
    [
        (0, "0 ns"),
        (842_000, "842 µs"),
        (12_340_000, "12.3 ms"),
        (9_999_999, "10.0 ms"),
        (1_840_000_000, "1.84 s"),
        (123 * 10**9, "2 min 3 s"),
        (47 * 3600 * 10**9, "47 h 0 min"),
        (76 * 3600 * 10**9, "3 d 4 h"),
    ],
)
def test_durations_have_three_digits_and_a_unit(ns: int, expected: str) -> None:
    """Durations print three significant digits in the unit that suits them."""
    assert expected == figures.duration(ns).replace("\u202f", " ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (float("nan"), "–"), (0.0099999, "0.0100"), (80.79, "80.8"), (12_400, "12 400"), (1234.5, "1 234"), (3.0, "3")],
)
def test_numbers_are_short(value: Any, expected: str) -> None:
    """Numbers print three significant digits; what is absent prints a dash, not 0 or nan."""
    assert expected == figures.number(value).replace("\u202f", " ")


@given(st.text())
def test_no_character_of_a_token_can_hide(piece: str) -> None:
    """Blank, control, directional and unassigned characters are printed as marks; nothing else is changed."""
    parts = tokens.visible(piece)

    plain = "".join(part.text for part in parts if part.kind == "text")
    assert not re.search("[\x00-\x20\x7f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]", plain)
    assert parts


@given(st.text(alphabet="ab\u05d0\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"))
def test_directional_controls_end_with_their_text(text: str) -> None:
    """Whatever a sender's text opens it closes, and it closes nothing that stood before it; the rest of it is untouched."""
    shown = figures.contained(text)

    depth = 0
    for char in shown:
        depth += (char in "\u2066\u2067\u2068") - (char == "\u2069")
        assert depth >= 0
    assert 0 == depth
    assert shown.count("\u202c") >= sum(shown.count(opening) for opening in "\u202a\u202b\u202d\u202e")
    assert text.replace("\u2069", "").rstrip("\u202c") in shown.replace("\u2069", "")


def test_an_empty_token_is_still_seen() -> None:
    """A piece without text (half of a character) shows a sign of its own."""
    assert (tokens.Part("mark", "∅"),) == tokens.visible("")


def test_a_token_keeps_its_lines() -> None:
    """A new line shows its mark and breaks the line; a leading blank shows as a dot."""
    assert [("space", "·"), ("text", "a"), ("break", "↵")] == [(part.kind, part.text) for part in tokens.visible(" a\n")]


def test_one_outlier_does_not_grey_out_the_rest() -> None:
    """The colour range is robust: ninety-nine calm tokens keep their differences beside one that is a thousand times larger."""
    values = np.append(np.linspace(0, 1, 99), 1000.0)

    signal = tokens.BY_KEY["surprisal"]
    classes = token_colours.classify(values, token_colours.scale(values, signal), signal, token_colours.Colouring())

    assert 15 == classes[-1]
    assert 8 < classes[60] - classes[2]


def test_a_small_margin_is_the_striking_one() -> None:
    """Margin colours run the other way: the closest call is the brightest."""
    values = np.array([0.0, 2.0, 5.0])

    signal = tokens.BY_KEY["margin"]
    classes = token_colours.classify(values, token_colours.scale(values, signal), signal, token_colours.Colouring())
    assert [15, 0] == [classes[0], classes[2]]


def test_absent_values_have_no_colour() -> None:
    """A token without a value is not painted as calm; equal values are all calm."""
    values = np.array([1.0, np.nan, 1.0])

    signal = tokens.BY_KEY["entropy"]
    classes = token_colours.classify(values, token_colours.scale(values, signal), signal, token_colours.Colouring())
    assert [0, -1, 0] == classes.tolist()


def test_a_long_strip_keeps_its_peaks() -> None:
    """Where tokens outnumber pixels the largest of each group is drawn: a single surprise among 100 000 tokens stays visible."""
    values = np.full(100_000, 0.1)
    values[54_321] = values[10] = 9.0

    path = tokens.strip_path(values, tokens.strip_top(values, tokens.BY_KEY["surprisal"]))

    assert tokens.STRIP_STEPS_MAX == path.count("H")
    assert 2 == len(re.findall(r"V2\.0H", path))


def _relative(value: str) -> float:
    channels = [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    bright, dark = sorted((_relative(one), _relative(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


_PAIR = r"light-dark\((#\w{6}), (#\w{6})\)"


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("number", range(tokens.CLASSES))
def test_tokens_are_readable_in_every_colour(number: int, theme: int) -> None:
    """WCAG AA: text on each of the sixteen token colours has a contrast of at least 4.5:1."""
    found = re.search(rf"\.q{number} {{ background: {_PAIR}; color: {_PAIR}; }}", CSS)
    assert found

    assert _contrast(found[1 + theme], found[3 + theme]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "paper"),
    [
        ("text", "bg"),
        ("text", "surface"),
        ("muted", "bg"),
        ("muted", "surface"),
        ("muted", "sunken"),
        ("accent", "bg"),
        ("accent", "surface"),
        ("accent", "accent-soft"),
        ("on-accent", "accent"),
        ("bad", "bad-soft"),
        ("bad", "surface"),
        ("warn", "warn-soft"),
        ("good", "good-soft"),
    ],
)
def test_text_is_readable(ink: str, paper: str, theme: int) -> None:
    """WCAG AA: every text colour on every ground it stands on has a contrast of at least 4.5:1."""
    colours = {name: (light, dark) for name, light, dark in re.findall(rf"--([\w-]+): {_PAIR}", CSS)}

    assert _contrast(colours[ink][theme], colours[paper][theme]) >= 4.5


@given(st.text(min_size=1, max_size=40).filter(lambda text: "\x00" not in text))
@example("/api/")
@example("/api/v1/")
@example("7")
@example("1e3")
@example("0x1f")
@example("a*")
@example("*")
@example("[1 TO 2]")
@example("(a, b)")
@example(">5")
@example("NOT")
@example("\\")
def test_facet_terms_read_back_as_the_value(value: str) -> None:
    """A click on a facet puts exactly that value into the query, whatever characters it holds, and a second click takes it out."""
    term = f"model:{query_edit.quoted(value)}"
    query = query_edit.toggled("", term)

    node = parse(query)

    assert isinstance(node, Term)
    assert isinstance(node.value, Literal)
    assert ("=", value) == (node.operator, values.plain(node.value))
    assert not values.is_glob(node.value)
    assert node.value.quoted or not values.looks_numeric(node.value)
    assert query_edit.toggled(query, term) == ""


@given(st.text(min_size=1, max_size=40))
@example("is")
@example("has")
@example("span.x")
@example("resource.")
@example("a b")
@example("NOT")
@example("-a")
@example("/a/")
@example("a:b")
@example("7")
def test_attribute_keys_read_back_as_the_key(key: str) -> None:
    """The link beside an attribute searches for that key, whatever characters it holds."""
    node = parse(f"{query_edit.field_name(key)}:x")

    assert isinstance(node, Term)
    assert (key, "") == (node.field, node.scope)


def test_excluding_replaces_including() -> None:
    """A term and its opposite never stand together; the rest of the query stays as typed."""
    assert 'ttft:>1s "two words" -model:gpt2' == query_edit.toggled('ttft:>1s "two words" model:gpt2', "-model:gpt2")


def test_an_added_term_narrows_an_alternative() -> None:
    """A facet added to `a OR b` applies to both sides."""
    assert "(a OR b) model:x" == query_edit.toggled("a OR b", "model:x")
    assert isinstance(parse(query_edit.toggled("", "-model:x")), Not)


@pytest.mark.parametrize("target", ["https://evil", "//evil", "/\\evil", "evil", "/a\nb", "javascript:alert(1)", "", "/\t/evil"])
def test_only_paths_of_this_host_are_redirected_to(target: str) -> None:
    """What a browser would read as another host is no way back."""
    assert not urls.is_local(target)


def test_addresses_are_canonical() -> None:
    """Equal pages have equal addresses: parameters sorted, defaults left out."""
    assert "/search?from=-1h&q=a%20b" == urls.search({"q": "a b", "sort": ""}, from_="-1h", to=None)


@given(st.integers(1, 10**15), st.integers(0, 2 * 10**18))
def test_axes_have_a_few_ticks_inside(span_ns: int, start_ns: int) -> None:
    """Time and duration axes have at most a handful of ticks, in order, inside the axis, for any length."""
    for ticks in (charts.time_ticks(start_ns, start_ns + span_ns), charts.duration_ticks(span_ns)):
        places = [tick.at for tick in ticks]
        assert len(places) <= 9
        assert places == sorted(places)
        assert all(0 <= at <= 100 for at in places)


@pytest.mark.parametrize("unit", ["nats", "bytes", "s", "ns", "", "tokens", "bits/byte"])
def test_what_is_not_known_has_no_unit(unit: str) -> None:
    """A dash stands alone, for None and for what is no number."""
    assert {figures.measured(value, unit) for value in (None, math.nan, math.inf)} == {figures.ABSENT}


@pytest.mark.parametrize(("seconds", "labels"), [
    (4.5, ["0", "1.00 s", "2.00 s", "3.00 s", "4.00 s"]), (500, ["0", "2 min", "4 min", "6 min", "8 min"]),
    (5400, ["0", "30 min", "1 h"]), (20 * 3600, ["0", "6 h", "12 h", "18 h"]), (12 * 86_400, ["0", "5 d", "10 d"]),
])
def test_an_axis_of_durations_has_round_ones(seconds: float, labels: list[str]) -> None:
    """Tens below a minute, what a clock shows above, then days: nobody reads 27 h 46 min on an axis."""
    assert labels == [tick.label.replace("\u202f", " ") for tick in charts.duration_ticks(round(seconds * 1e9))]


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text + "+00:00").timestamp()) * 10**9


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2026-03-01T10:00", "2026-03-01T14:00", ["11:00", "12:00", "13:00"]),
        ("2026-03-01T10:00", "2026-03-03T10:00", ["03-01 12:00", "03-02", "12:00", "03-03"]),
        ("2026-03-01T10:00", "2026-03-06T10:00", ["03-02", "03-03", "03-04", "03-05", "03-06"]),
        ("2025-12-30T12:00", "2026-01-03T12:00", ["2025-12-31", "2026-01-01", "01-02", "01-03"]),
        ("2025-12-31T20:00", "2026-01-01T04:00", ["2025-12-31 22:00", "2026-01-01", "02:00"]),
    ],
)
def test_an_axis_says_the_date_where_it_changes(start: str, end: str, expected: list[str]) -> None:
    """Within a day ticks are times; across days the first tick and each new day carry their date, across years the year too."""
    assert expected == [tick.label for tick in charts.time_ticks(_ns(start), _ns(end))]


@pytest.mark.parametrize("years", [3, 56])
def test_years_of_data_have_years_on_their_axis(years: int) -> None:
    """Ticks of an axis over years are unmistakable: no two read the same, and each new year is named."""
    labels = [tick.label for tick in charts.time_ticks(_ns("1970-01-01T00:00"), _ns(f"{1970 + years}-01-01T00:00"))]

    assert len(labels) == len(set(labels)) > 1
    assert {label[:4] for label in labels} & {str(1970 + year) for year in range(1, years)}


@pytest.mark.parametrize(
    ("offset_s", "expected"),
    [(0, "just now"), (-5, "5 s ago"), (-7200, "2 h ago"), (90, "in 1 min"), (3 * 86_400, "in 3 d"), (-90_000, "1 d ago")],
)
def test_the_future_is_not_now(offset_s: int, expected: str) -> None:
    """A row of a clock that runs ahead says how far; only within a second is it now."""
    assert expected == figures.ago(NOW + offset_s * 10**9, NOW).replace("\u202f", " ")


def test_another_day_shows_its_date() -> None:
    """The time of day alone stands for today only, to the millisecond before midnight."""
    midnight = NOW // (86_400 * 10**9) * 86_400 * 10**9

    assert ["", "2027-01-14"] == [figures.day_unless_today(ns, NOW) for ns in (midnight, midnight - 1)]


def test_histogram_bars_hold_their_errors() -> None:
    """The red foot of a bar is never taller than the bar; empty buckets draw nothing."""
    bars = charts.histogram(0, 10, [0, 500, 1], [0, 500, 1]).bars

    assert [True, False, False] == [bar.empty for bar in bars]
    assert all(bar.error_height <= bar.height for bar in bars)


def test_bars_of_one_say_so() -> None:
    """One span is no spans, one error no errors."""
    said = [bar.label for bar in charts.histogram(0, 10, [1, 2, 1], [0, 2, 1]).bars]

    assert [words.split(" UTC: ")[1] for words in said] == ["1 span", "2 spans, 2 errors", "1 span, 1 error"]
