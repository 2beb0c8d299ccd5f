"""What each score of ours means, as data: the table in the collector's README is made of it. Computes nothing."""

from __future__ import annotations

from typing import Final

from cutaway_collector.contracts import ScoreName as Score

_S: Final = "surprisal"
SCORES: Final[tuple[Score, ...]] = (
    Score("perplexity", _S, "", "exp(mean surprisal), as `cutaway.sequence.perplexity`; not where a token was not measured"),
    Score("length_adjusted_surprisal", _S, "nats", "sum of surprisals / ((5 + tokens) / 6)^0.6; not where a token was not measured",
          "Wu et al. 2016, arXiv 1609.08144"),
    Score("surprisal_p50", _S, "nats", "median surprisal, interpolated linearly"),
    Score("surprisal_p90", _S, "nats", "the surprisal that 90 % of the tokens stay below, interpolated linearly"),
    Score("surprisal_p99", _S, "nats", "the surprisal that 99 % of the tokens stay below, interpolated linearly"),
    Score("worst_window_surprisal", _S, "nats", "largest mean of 16 measured tokens in a row, of all of a shorter sequence; as "
          "`cutaway.sequence.worst_window`", "the idea: Fu et al. 2025, arXiv 2508.15260"),
    Score("surprisal_bursts", _S, "runs", "how many runs of at least 3 measured tokens in a row lie above 5 nats each"),
    *(Score(f"surprisal_q{quarter}", _S, "nats", f"mean surprisal of quarter {quarter}: token i of n is in quarter floor(4 i / n), "
            "counted from 0; from 8 tokens up; as `cutaway.sequence.surprisal.quarters`") for quarter in (1, 2, 3, 4)),
    Score("surprisal_slope", _S, "nats", "last quarter less first: a proxy of exposure bias; as `cutaway.output.surprisal.slope`",
          "the bias: Arora et al. 2022, arXiv 2204.01171"),
    Score("surprisal_trend", "trend", "nats/token", "least-squares slope of surprisal over position, from 8 measured tokens up"),
    Score("entropy_trend", "trend", "nats/token", "least-squares slope of entropy over position, from 8 measured tokens up"),
    Score("lookback_trend", "trend", "1/token", "least-squares slope of the lookback ratio, mean over layers: falling, the "
          "model turns to its own words", "the ratio: Chuang et al. 2024, arXiv 2407.07071"),
    Score("distinct_1", "repetition", "", "unique token ids / ids", "Li et al. 2016, arXiv 1510.03055"),
    Score("distinct_2", "repetition", "", "unique pairs of ids / pairs", "Li et al. 2016, arXiv 1510.03055"),
    Score("seq_rep_4", "repetition", "", "1 - unique 4-grams of ids / 4-grams; as `cutaway.sequence.repetition`",
          "Welleck et al. 2019, arXiv 1908.04319"),
    Score("loop_period", "repetition", "tokens", "shortest period, up to 16 384, whose last three repetitions end the sequence, 0 "
          "without one; as `cutaway.sequence.loop_period`", "the loop: Xu et al. 2022, arXiv 2206.02369"),
    Score("attention_collapsed_share", "attention", "", "share of heads (of layers, where heads were not recorded) whose mean "
          "normalised entropy is below 0.05", "the collapse: Zhai et al. 2023, arXiv 2303.06296; the threshold is ours"),
    Score("attention_sink_share", "attention", "", "share of heads (of layers) whose mean weight of the first key is above 0.3",
          "Gu et al. 2024, arXiv 2410.10781"),
    Score("rauq", "rauq", "nats", "recurrent attention-based uncertainty, only where every layer was recorded with its heads; as "
          "`cutaway.sequence.rauq`, from float16 weights", "Vazhentsev et al. 2025, arXiv 2505.20045"),
)
"""In the order of the scorers. A score that does not apply (NaN) has no row."""
