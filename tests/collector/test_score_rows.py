"""From token series to rows of gen_ai_scores: devices, plug-ins, failures."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from cutaway_collector import columns
from cutaway_collector.blocks import Block, Lists, Strings
from cutaway_collector.errors import SettingsError
from cutaway_collector.score import (
    attention,
    catalogue,
    device,
    embedding,
    histogram,
    length,
    rauq,
    registry,
    repetition,
    rows,
    score_block,
    scorers,
    surprisal,
    tdigest,
    trend,
    warm_up,
)
from score_helpers import id_rows, seq_rep_4_oracle, surprisal_rows, token_block, worst_window_oracle

ALL_NAMES = [entry.name for entry in catalogue.SCORES]
WITHOUT_ATTENTION = [*surprisal.NAMES, "surprisal_trend", *repetition.NAMES]


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
    """A sequence of a hundred tokens gets all scores that surprisals and ids give."""
    block = token_block([[1.0, 2.0] * 50], [list(range(100))])
    scored = score_block(block, scorers("cpu"), now_ms=0, on_failure=never)
    assert [name.decode() for name in scored.columns["ScoreName"]] == sorted(WITHOUT_ATTENTION)


def test_the_catalogue_names_what_the_scorers_give():
    """The documented names are those of our scorers, in their order and with their scorer, and nothing else."""
    given = [(name, scorer.name) for scorer in registry._ours(device.Device("cpu")) for name in scorer.score(tokens(1))]
    assert given == [(entry.name, entry.scorer) for entry in catalogue.SCORES]


def whole_block(layers_of_the_model=3):
    """Two sequences of ten tokens with every series, of three layers and two heads, as `attention` full makes them."""
    random = np.random.default_rng(1)

    def lists(entries):
        return Lists(np.array([0, 10 * entries, 20 * entries]), random.beta(0.5, 1.0, 20 * entries).astype(np.float32))

    return token_block([[1.0] * 10] * 2, [list(range(10))] * 2, Entropies=lists(1), AttentionLayers=np.full(2, 3, np.uint16),
                       AttentionHeads=np.full(2, 2, np.uint16), AttentionModelLayers=np.full(2, layers_of_the_model, np.uint16),
                       AttentionNormalizedEntropies=lists(3), AttentionNormalizedEntropyHeads=lists(6), AttentionSinks=lists(3),
                       AttentionSinkHeads=lists(6), AttentionLastKeyHeads=lists(6), AttentionLookbacks=lists(3))


def test_with_every_series_there_is_every_score():
    """A generation whose attention was recorded as a whole gets every score of the catalogue."""
    scored = score_block(whole_block(), scorers("cpu"), now_ms=0, on_failure=never)
    assert [name.decode() for name in scored.columns["ScoreName"]] == 2 * sorted(ALL_NAMES)


def test_rauq_needs_every_layer():
    """Where only some layers were recorded, RAUQ does not apply, and the shares still do."""
    scored = score_block(whole_block(layers_of_the_model=0), scorers("cpu"), now_ms=0, on_failure=never)
    assert [name.decode() for name in scored.columns["ScoreName"]] == 2 * sorted(set(ALL_NAMES) - {"rauq"})


def test_shares_are_of_heads_where_there_are_heads_and_of_layers_where_not():
    """A row with heads is judged by its heads, its neighbour without by its layers."""
    heads = Lists(np.array([0, 24, 24]), np.tile(np.array([0.9, 0.9, 0.9, 0.1], np.float32), 6))
    layers = Lists(np.array([0, 12, 24]), np.tile(np.array([0.1, 0.9], np.float32), 12))
    block = token_block([[1.0] * 6] * 2, [[]] * 2, AttentionLayers=np.full(2, 2, np.uint16),
                        AttentionHeads=np.array([2, 0], np.uint16), AttentionSinkHeads=heads, AttentionSinks=layers)
    found = registry._ours(device.Device("cpu"))[3].score(block)
    np.testing.assert_array_equal(found["attention_sink_share"], [0.75, 0.5])


def test_values_that_are_no_whole_number_of_tokens_are_refused():
    """Attention of seven values in three layers is an error in words, before a kernel reads it."""
    block = token_block([[1.0] * 2], [[]], AttentionLayers=np.full(1, 3, np.uint16),
                        AttentionLookbacks=Lists(np.array([0, 7]), np.zeros(7, np.float32)))
    failures = []
    score_block(block, scorers("cpu"), now_ms=0, on_failure=lambda name, error: failures.append(f"{name}: {error}"))
    assert len(failures) == 1
    assert "trend: a token has the same number of entries everywhere: 7 values in a row of 3" in failures[0]


def test_rows_come_in_the_order_of_the_tables_key():
    """Tenant, service, name, hour, trace, span, sequence: sorted as the engine would, whatever the order of arrival."""
    block = token_block([[1.0] * 20, [2.0] * 20, []] * 4, [[]] * 12)
    random = np.random.default_rng(3)
    block.columns["TraceId"] = Strings.of([f"{trace:032x}" for trace in random.integers(0, 3, 12)])
    block.columns["SpanId"] = Strings.of([f"{span:016x}" for span in random.permutation(12)])
    block.columns["ServiceName"] = Strings.of(random.choice(["writer", "an older one"], 12))
    block.columns["Timestamp"] = random.integers(0, 3, 12) * 3_600_000_000_000 + 1_800_000_000_000_000_000
    scored = score_block(block, scorers("cpu"), now_ms=0, on_failure=never)
    keys = [
        (service, name, time // 3_600_000_000_000, trace, span) for service, name, time, trace, span in zip(
            *(list(scored.columns[name]) for name in ("ServiceName", "ScoreName", "Timestamp", "TraceId", "SpanId")), strict=True)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) == 8 * len([*surprisal.NAMES, "surprisal_trend"])
    values = {(span, name): value for span, name, value in zip(
        scored.columns["SpanId"], scored.columns["ScoreName"], scored.columns["Value"], strict=True)}
    for row, span in enumerate(block.columns["SpanId"]):
        assert values.get((span, b"surprisal_p50")) == [1.0, 2.0, None][row % 3]


def test_what_does_not_apply_makes_no_row():
    """Empty sequences, and blocks without rows, make no score rows but a whole block."""
    for block in (token_block([[], []], [[], []]), token_block([], [])):
        scored = score_block(block, scorers("cpu"), now_ms=0, on_failure=never)
        assert scored.rows == 0
        scored.check()


def test_numbers_only_capture_leaves_repetition_out():
    """Without token ids the surprisal scores are still there, and repetition is not reported as broken."""
    scored = score_block(token_block([[1.0] * 20], [[]]), scorers("cpu"), now_ms=0, on_failure=never)
    assert [name.decode() for name in scored.columns["ScoreName"]] == sorted([*surprisal.NAMES, "surprisal_trend"])


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
    assert len(failures) == 5
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
    assert [scorer.name for scorer in found] == ["surprisal", "trend", "repetition", "attention", "rauq"]
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
    kernels = [attention._cpu, embedding._exp_sums, embedding._exp_in_place, histogram._cpu, length._cpu, rauq._cpu,
               repetition._cpu, surprisal._cpu, tdigest._cpu, trend._cpu]
    warm_up()
    before = [len(kernel.signatures) for kernel in kernels]
    assert min(before) > 0
    block, place = whole_block(), device.Device("cpu")
    for writeable in (True, False):
        for column in block.columns.values():
            if isinstance(column, Lists) and not writeable:
                column.values.flags.writeable = False
        score_block(block, scorers("cpu"), now_ms=0, on_failure=never)
    embedding.rbf_mmd2(np.ones((4, 2), np.float32), np.zeros((3, 2)), 2.0, place)
    embedding.rbf(np.zeros((embedding.STRIPE + 1, 2)), 2.0, place)
    histogram.histogram([1, 2, 3], [0, 2], place)
    length.length_adjusted([1, 2, 3], [3, 4, 5], [0, 3], place)
    tdigest.digest(np.ones(5, np.float32), place)
    assert [len(kernel.signatures) for kernel in kernels] == before


def test_strings_are_gathered_as_asked():
    """Gathering strings by row number keeps order, repeats and empty strings."""
    from cutaway_collector.score.rows import take_strings

    got = take_strings(Strings.of(["a", "", "long one", "b"]), np.array([2, 2, 1, 0]))
    assert list(got) == [b"long one", b"long one", b"", b"a"]
