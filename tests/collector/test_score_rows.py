"""From token series to rows of gen_ai_scores: devices, plug-ins, failures."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from cutaway_collector import columns
from cutaway_collector.blocks import Block, Strings
from cutaway_collector.errors import SettingsError
from cutaway_collector.score import device, registry, rows, score_block, scorers, warm_up
from score_helpers import id_rows, seq_rep_4_oracle, surprisal_rows, token_block, worst_window_oracle

ALL_NAMES = ["worst_window_surprisal", "seq_rep_4", *(f"surprisal_q{quarter}" for quarter in (1, 2, 3, 4)), "surprisal_slope"]


class Length:
    """A plug-in as a stranger would write it."""

    name = "length"
    version = "7"

    def score(self, tokens):
        return {"tokens_out": tokens.columns["OutputTokens"].astype(np.float64)}


class Broken(Length):
    name = "broken"

    def score(self, tokens):
        raise RuntimeError("out of order")


class OfOneRow(Length):
    name = "of_one_row"

    def score(self, tokens):
        return {"too_short": np.zeros(1)}


class Endless(Length):
    name = "endless"

    def score(self, tokens):
        return {"fine": np.zeros(tokens.rows), "endless": np.full(tokens.rows, np.inf)}


class NoScorer:
    name = "no_scorer"


def never(name, error):
    raise AssertionError(f"{name} failed") from error


def tokens(count=12):
    return token_block(surprisal_rows(2)[:count], (id_rows(2) * 2)[:count])


def test_every_row_carries_its_sequence_and_its_score():
    """A score row names the sequence it judges and holds the value an oracle computes for that sequence."""
    block = tokens()
    scored = score_block(block, scorers("cpu"), now_ms=1_800_000_000_123, on_failure=never)
    assert list(scored.columns) == [column.name for column in columns.SCORES.columns]
    assert scored.table == columns.SCORES.name
    spans = list(scored.columns["SpanId"])
    names = list(scored.columns["ScoreName"])
    found = {(span, name): value for span, name, value in zip(spans, names, scored.columns["Value"], strict=True)}
    assert len(found) == scored.rows > 0
    surprisals, ids = surprisal_rows(2)[:12], (id_rows(2) * 2)[:12]
    for row in range(12):
        span = f"{row:016x}".encode()
        expected = {b"worst_window_surprisal": worst_window_oracle(surprisals[row]), b"seq_rep_4": seq_rep_4_oracle(ids[row])}
        for name, value in expected.items():
            assert found.get((span, name), np.nan) == pytest.approx(value, nan_ok=True)
        at = spans.index(span) if span in spans else -1
        if at >= 0:
            assert scored.columns["TraceId"][at] == block.columns["TraceId"][row]
            assert scored.columns["ServiceName"][at] == block.columns["ServiceName"][row]
            assert scored.columns["SeqIndex"][at] == block.columns["SeqIndex"][row]
            assert scored.columns["Timestamp"][at] == block.columns["Timestamp"][row]
    assert {bytes(source) for source in scored.columns["Source"]} == {b"collector"}
    assert set(scored.columns["Version"].tolist()) == {1_800_000_000_123}


def test_all_names_appear_for_an_ordinary_sequence():
    """A sequence of a hundred tokens gets all seven scores."""
    block = token_block([[1.0, 2.0] * 50], [list(range(100))])
    scored = score_block(block, scorers("cpu"), now_ms=0, on_failure=never)
    assert [name.decode() for name in scored.columns["ScoreName"]] == ALL_NAMES


def test_what_does_not_apply_makes_no_row():
    """Empty sequences, and blocks without rows, make no score rows but a whole block."""
    for block in (token_block([[], []], [[], []]), token_block([], [])):
        scored = score_block(block, scorers("cpu"), now_ms=0, on_failure=never)
        assert scored.rows == 0
        scored.check()


def test_numbers_only_capture_leaves_repetition_out():
    """Without token ids the surprisal scores are still there, and repetition is not reported as broken."""
    scored = score_block(token_block([[1.0] * 20], [[]]), scorers("cpu"), now_ms=0, on_failure=never)
    assert [name.decode() for name in scored.columns["ScoreName"]] == [name for name in ALL_NAMES if name != "seq_rep_4"]


def test_a_failing_scorer_harms_no_other():
    """Scorers that raise, answer in the wrong shape, say infinity or take a taken name are reported; the good ones count."""
    failures = []
    line_up = [Broken(), Length(), OfOneRow(), Endless(), Length()]
    scored = score_block(tokens(5), line_up, now_ms=0, on_failure=lambda name, error: failures.append((name, str(error))))
    assert [name for name, _ in failures] == ["broken", "of_one_row", "endless", "length"]
    assert "one value a row" in failures[1][1]
    assert "infinite for 5 of 5 rows" in failures[2][1]
    assert "given by another scorer" in failures[3][1]
    assert set(scored.columns["ScoreName"]) == {b"tokens_out"}
    assert scored.rows == 5


def test_a_block_without_series_is_a_reported_failure():
    """A block that lacks the column a scorer reads goes to on_failure in words."""
    failures = []
    identity = {name: tokens(2).columns[name] for name in rows.IDENTITY}
    scored = score_block(Block("gen_ai_tokens", 2, identity), scorers("cpu"), now_ms=0,
                         on_failure=lambda name, error: failures.append(str(error)))
    assert scored.rows == 0
    assert len(failures) == 3
    assert "gen_ai_tokens.Surprisals" in failures[0]


def test_offsets_that_lie_are_refused_before_a_kernel_reads_them():
    """Offsets beyond the values are an error, not a read of foreign memory."""
    block = tokens(3)
    block.columns["Surprisals"].offsets = np.array([0, 4, 2, 10**9], np.int64)
    failures = []
    score_block(block, scorers("cpu")[:1], now_ms=0, on_failure=lambda name, error: failures.append(str(error)))
    assert "offsets rise" in failures[0]


def _points(monkeypatch, *points):
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(points).select(group=group))


def test_a_plug_in_is_found_by_its_entry_point(monkeypatch):
    """A package's entry point in cutaway.scorers adds its scores, with its version."""
    _points(monkeypatch, EntryPoint("length", f"{__name__}:Length", registry.ENTRY_POINT_GROUP))
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(Length=Length))
    scored = score_block(tokens(5), scorers("cpu", on_failure=never), now_ms=0, on_failure=never)
    mine = [at for at, name in enumerate(scored.columns["ScoreName"]) if name == b"tokens_out"]
    assert [scored.columns["ScorerVersion"][at] for at in mine] == [b"7"] * 5


def test_a_broken_plug_in_is_reported_and_left_out(monkeypatch):
    """Plug-ins that cannot be imported, or are no scorers, are reported by name; ours remain."""
    _points(monkeypatch, EntryPoint("gone", "no_such_module_here:X", registry.ENTRY_POINT_GROUP),
            EntryPoint("wrong", "types:SimpleNamespace", registry.ENTRY_POINT_GROUP))
    failures = {}
    found = scorers("cpu", on_failure=lambda name, error: failures.update({name: error}))
    assert [scorer.name for scorer in found] == ["worst_window", "repetition", "quarters"]
    assert isinstance(failures["gone"], ModuleNotFoundError)
    assert "a scorer has a `name`" in str(failures["wrong"])


def test_a_lost_gpu_falls_back_to_the_cpu_with_one_line(monkeypatch, caplog):
    """When the GPU fails, this and every later score comes from the CPU, and the log says it once."""
    monkeypatch.setattr(device.cuda, "is_available", lambda: True)
    place = device.Device("auto")
    assert place.name == "cuda"

    def lost(values, offsets):
        raise OSError("fell off the bus")

    with caplog.at_level(logging.WARNING):
        answers = [place.run(lambda values, offsets: 42, lost, None, None) for _ in range(3)]
    assert answers == [42, 42, 42]
    assert place.name == "cpu"
    assert len(caplog.records) == 1
    assert "fell off the bus" in caplog.text


def test_cuda_without_a_gpu_is_a_settings_error(monkeypatch):
    """Asking for cuda where there is none names the rule and the remedy."""
    monkeypatch.setattr(device.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"needs a GPU .* take auto or cpu"):
        scorers("cuda")


def test_warm_up_compiles_what_scoring_uses():
    """After warm_up, scoring compiles nothing more, whether the arrays are writable or not."""
    from cutaway_collector.score import quarters, repetition, worst_window

    kernels = [worst_window._cpu, repetition._cpu, quarters._cpu]
    warm_up()
    before = [len(kernel.signatures) for kernel in kernels]
    block = tokens()
    score_block(block, scorers("cpu"), now_ms=0, on_failure=never)
    block.columns["Surprisals"].values.flags.writeable = False
    score_block(block, scorers("cpu"), now_ms=0, on_failure=never)
    assert [len(kernel.signatures) for kernel in kernels] == before


def test_strings_are_gathered_as_asked():
    """Gathering strings by row number keeps order, repeats and empty strings."""
    from cutaway_collector.score.rows import take_strings

    got = take_strings(Strings.of(["a", "", "long one", "b"]), np.array([2, 2, 1, 0]))
    assert list(got) == [b"long one", b"long one", b"", b"a"]
