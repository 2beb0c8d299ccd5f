"""What the tokens of a whole sequence say together: likelihood, worst window, drift, RAUQ, repetition. One number a sequence.

Not a recorder and not an encoder of series: it reads the recorded token values and returns plain attribute values.

    perplexity, negative_log_likelihood, bits_per_byte    how unlikely was the answer to the model?
    worst_window, quarters                                where was it least sure, did it get worse?
    rauq                                                  did doubt about one token spread to the next ones?
    repetition, loop_period, compression_ratio            did it go round in circles?

Sums are float64. Nothing here grows faster than the sort of the tokens (n log n); NaN stands for "does not apply" or "not known".
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cutaway import conventions as c
from cutaway.errors import CutawayError

Floats = NDArray[np.float64]
Reals = NDArray[np.float32] | NDArray[np.float64]
Ids = NDArray[np.uint32]

WINDOW_TOKENS: Final = 16
"""The collector's scorer `worst_window` judges by the same window, so that the two figures are one."""

QUARTERS: Final = 4
QUARTERED_TOKENS_MIN: Final = 8
"""Below two tokens a quarter, a quarter's mean is one token's surprisal."""

GRAM: Final = 4

LOOP_REPETITIONS: Final = 3
"""Said twice is emphasis, said three times is a loop."""

LOOP_PERIOD_MAX: Final = 16_384
"""Longest period looked for, tokens: bounds memory; a longer text said three times is found by `repetition`."""

_LOG_SMALL: Final = -600.0
"""While alpha times every probability is above exp of this, no confidence of `rauq` comes near the smallest float, exp(-708)."""

_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
"""Base of the rolling hash: odd, so that its powers never vanish modulo 2^64."""


def negative_log_likelihood(surprisal: Reals) -> float:
    """[token] in nats -> their sum in nats: -log p(sequence). 0 for no token, NaN where one was not measured."""
    return float(surprisal.sum(dtype=np.float64))


def perplexity(surprisal: Reals) -> float:
    """[token] in nats -> exp(mean). NaN for no token or one that was not measured, infinity above 1.8e308."""
    return _exp(float(surprisal.mean(dtype=np.float64))) if surprisal.size else math.nan


def bits_per_byte(nll: float, size_bytes: int) -> float:
    """Nats over all tokens, bytes of their text in UTF-8 -> bits a byte: nll / ln 2 / bytes. NaN for no byte.

    Tokens without text (end of sequence) count as nats: the model spent them to say where the text ends.
    """
    return nll / math.log(2) / size_bytes if size_bytes else math.nan


def worst_window(surprisal: Reals) -> float:
    """[token] in nats -> largest mean of 16 tokens in a row, of all tokens of a shorter sequence; NaN for none.

    As the collector's `worst_window_surprisal` (judging an answer by its least confident window: Fu et al. 2025, arXiv
    2508.15260): tokens that were not measured (NaN, infinite) are left out first, so a window is 16 measured tokens in a row.
    """
    sums = surprisal[np.isfinite(surprisal)].astype(np.float64)
    if sums.size < WINDOW_TOKENS:
        return float(sums.mean()) if sums.size else math.nan
    width = 1
    while width < WINDOW_TOKENS:  # pairs, pairs of pairs, ...: unlike a running sum, no rounding is carried along
        sums = sums[:-width] + sums[width:]
        width *= 2
    return float(sums.max()) / WINDOW_TOKENS


def quarters(surprisal: Reals) -> list[float]:
    """[token] in nats -> mean of each quarter of the positions [4]; NaN below 8 tokens and for a quarter without a measured one.

    As the collector's `surprisal_q1` to `_q4`: token i of n belongs to quarter floor(4 i / n); tokens that were not measured (NaN,
    infinite) keep their position and enter no figure. Last minus first is a proxy of exposure bias that can be watched online; the
    bias itself (Arora et al. 2022, arXiv 2204.01171) needs reference text.
    """
    if surprisal.size < QUARTERED_TOKENS_MIN:
        return [math.nan] * QUARTERS
    firsts = [-(-quarter * surprisal.size // QUARTERS) for quarter in range(QUARTERS)]  # smallest i with 4 i >= quarter * n
    finite = np.isfinite(surprisal)
    sums = np.add.reduceat(np.where(finite, surprisal, 0.0), firsts, dtype=np.float64).tolist()
    counts = np.add.reduceat(finite, firsts, dtype=np.int64).tolist()
    return [total / count if count else math.nan for total, count in zip(sums, counts, strict=True)]


def middle_third(layers: int) -> range:
    """Layers of a model with that many that RAUQ looks at: L // 3 to ceil(2 L / 3), both included (10 to 22 of 32)."""
    return range(layers // 3, min(layers, -(-2 * layers // 3) + 1))


def rauq(surprisal: Reals, last_key: NDArray[np.float32], alpha: float) -> float:
    """Recurrent attention-based uncertainty (Vazhentsev et al. 2025, arXiv 2505.20045), nats. 0 is certainty.

    surprisal [token] in nats. last_key [token, layer, head]: what the attention row that predicted token t gave to token t - 1,
    which is the last key that row sees (t = 0 is not read); layers are the ones to judge, the model's middle third in the paper.
    alpha, 0 to 1: weight of a token's own probability (the paper takes 0.2 for base models).

        head of a layer    the one with the largest mean of a_t over t >= 1
        confidence         c_0 = p_0;  c_t = alpha p_t + (1 - alpha) a_t c_{t-1}
        layer              u = -mean(log c);   the sequence's is the largest of its layers

    lm-polygraph's `RAUQ` returns 1 + this: the same order of answers. A head with a key that was not measured takes no part.
    NaN for no token, no such layer, or a surprisal that was not measured; infinity where the first token had probability 0.
    """
    if not surprisal.size or np.isnan(surprisal).any():
        return math.nan
    if surprisal.size == 1:
        return float(surprisal[0])
    means = last_key[1:].mean(axis=0, dtype=np.float64) if last_key.size else np.empty((0, 1))
    means = np.where(np.isnan(means), -np.inf, means)
    heads = means.argmax(axis=1)
    layers = np.flatnonzero(means.max(axis=1) > -np.inf)
    if not layers.size:
        return math.nan
    attention = last_key[:, layers, heads[layers]].astype(np.float64)
    own = -surprisal.astype(np.float64)
    if alpha > 0.0 and own.min() + math.log(alpha) > _LOG_SMALL:
        fresh = alpha * np.exp(own)
        fresh[0] = math.exp(own[0])
        logs = np.log(_recurrence(fresh, (1.0 - alpha) * attention, np.add, np.multiply, 0.0))
    else:
        with np.errstate(divide="ignore"):  # log 0 is -inf, and that is meant
            fresh, decay = np.log(alpha) + own, np.log(1.0 - alpha) + np.log(attention)
        fresh[0] = own[0]
        logs = _recurrence(fresh, decay, np.logaddexp, np.add, -np.inf)
    return float(-logs.mean(axis=0).min())


def _recurrence(fresh: Floats, decay: Floats, plus: np.ufunc, times: np.ufunc, zero: float) -> Floats:
    """c_t [token, layer] of c_0 = fresh_0, c_t = fresh_t plus (decay_t times c_{t-1}); fresh [token], decay [token, layer].

    Plus and times are those of numbers, or of logarithms (logaddexp and add) where probabilities underflow: the same algebra. In
    blocks of sqrt(n) tokens side by side, then the carries from block to block: 2 sqrt(n) steps in Python instead of n.
    """
    tokens, layers = decay.shape
    width = math.isqrt(tokens - 1) + 1
    blocks = -(-tokens // width)
    padding = blocks * width - tokens
    out = np.broadcast_to(np.pad(fresh, (0, padding), constant_values=zero)[:, None], (blocks * width, layers))
    out = out.reshape(blocks, width, layers).copy()
    decays = np.pad(decay, ((0, padding), (0, 0)), constant_values=zero).reshape(blocks, width, layers)
    for step in range(1, width):
        plus(out[:, step], times(decays[:, step], out[:, step - 1]), out=out[:, step])
    times.accumulate(decays, axis=1, out=decays)
    for block in range(1, blocks):
        plus(out[block], times(decays[block], out[block - 1, -1]), out=out[block])
    return out.reshape(-1, layers)[:tokens]


def repetition(ids: Ids) -> float:
    """Token ids [token] -> seq-rep-4: 1 - distinct 4-grams / 4-grams (Welleck et al. 2019, arXiv 1908.04319).

    As the collector's `seq_rep_4`. NaN below 4 tokens.
    """
    if ids.size < GRAM:
        return math.nan
    wide = ids.astype(np.uint64)
    pairs = (wide[:-1] << np.uint64(32)) | wide[1:]
    rank = np.unique(pairs, return_inverse=True)[1].astype(np.uint64)  # below 2^32, so that two pairs fit one integer: exact
    grams = np.sort((rank[:-2] << np.uint64(32)) | rank[2:])
    return 1.0 - (1 + int(np.count_nonzero(grams[1:] != grams[:-1]))) / grams.size


def loop_period(ids: Ids) -> int:
    """Token ids [token] -> shortest period r whose last three repetitions end the sequence, up to 16 384; 0 without one.

    A model that loops reinforces the loop (Xu et al. 2022, arXiv 2206.02369). Read backwards, the sequence has period r over 3 r
    tokens when its first 2 r tokens equal those r further on. A rolling hash finds the candidates of all r at once, in linear
    time; the ids themselves decide.
    """
    longest = min(ids.size // LOOP_REPETITIONS, LOOP_PERIOD_MAX)
    if longest == 0:
        return 0
    backwards = ids[::-1][: LOOP_REPETITIONS * longest].astype(np.uint64)
    powers = np.full(backwards.size, _ODD)
    powers[0] = 1
    np.cumprod(powers, out=powers)  # modulo 2^64
    prefix = np.zeros(backwards.size + 1, np.uint64)
    np.cumsum(backwards * powers, out=prefix[1:])
    first = prefix[2 : 2 * longest + 1 : 2]  # hash of the first 2 r ids, for r = 1 .. longest
    further = prefix[3::3] - prefix[1 : longest + 1]  # of the 2 r ids from r on, times power r
    for period in (np.flatnonzero(first * powers[1 : longest + 1] == further) + 1).tolist():
        if np.array_equal(backwards[: 2 * period], backwards[period : 3 * period]):
            return int(period)
    return 0


def compression_ratio(data: bytes) -> float:
    """Bytes of text in UTF-8 -> bytes / bytes after zlib at its default level, as Whisper judges transcripts. NaN for no byte.

    Plain prose lies between 1 and 3; short texts lie below 1, zlib's own header being as long as they are.
    """
    return len(data) / len(zlib.compress(data)) if data else math.nan


def attributes(
    lengths: list[int], surprisal: NDArray[np.float32] | None, ids: NDArray[np.uint32] | None, last_key: NDArray[np.float32] | None,
    texts: list[str] | None, rauq_alpha: float, rauq_columns: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Everything the sequences of one call say as a whole, as attributes; what cannot be known is left out.

    lengths: tokens of each sequence; surprisal (nats) and ids [token], all sequences one after another; last_key
    [token, layer, head]: see `rauq`; texts: one a sequence, without special tokens; rauq_alpha: 0 to 1. rauq_columns: the columns
    of last_key that are layers of the model's middle third; by default the middle third of the columns, which is right only where
    every layer was recorded. Raises CutawayError when the arrays do not fit the lengths or alpha is no weight.
    """
    _check(lengths, surprisal, ids, last_key, texts, rauq_alpha)
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    cuts = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    found: dict[str, Any] = {}
    if not any(lengths):
        return found
    encoded = None if texts is None else [text.encode("utf-8", "surrogatepass") for text in texts]
    if surprisal is not None:
        found |= _likelihood(surprisal, cuts, encoded)
    if surprisal is not None and last_key is not None:
        middle = middle_third(last_key.shape[1])
        judged = last_key[:, middle.start : middle.stop] if rauq_columns is None else last_key[:, list(rauq_columns)]
        scores = [rauq(surprisal[cut], judged[cut], rauq_alpha) for cut in cuts]
        found |= {c.SEQUENCE_RAUQ: scores} | _largest(c.OUTPUT_RAUQ, scores)
    if ids is not None:
        periods = [loop_period(ids[cut]) for cut in cuts]
        scores = [repetition(ids[cut]) for cut in cuts]
        found |= {c.SEQUENCE_REPETITION: scores, c.SEQUENCE_LOOP_PERIOD: periods} | _largest(c.OUTPUT_REPETITION, scores)
        if any(periods):
            found[c.OUTPUT_LOOP_PERIOD] = min(filter(None, periods))
    if encoded is not None:
        scores = [compression_ratio(data) for data in encoded]
        found |= {c.SEQUENCE_COMPRESSION_RATIO: scores} | _largest(c.OUTPUT_COMPRESSION_RATIO, scores)
    return found


def prompt_attributes(surprisal: Reals | None) -> dict[str, Any]:
    """Surprisal of the prompts' tokens in nats, NaN where there is nothing to predict a token from -> their perplexity, if any."""
    measured = None if surprisal is None else surprisal[np.isfinite(surprisal)]
    return {} if measured is None or not measured.size else {c.PROMPT_PERPLEXITY: perplexity(measured)}


def _likelihood(surprisal: NDArray[np.float32], cuts: list[slice], encoded: list[bytes] | None) -> dict[str, Any]:
    parts = [surprisal[cut] for cut in cuts]
    mean = float(surprisal.mean(dtype=np.float64))
    nlls = [negative_log_likelihood(part) for part in parts]
    windows = [worst_window(part) for part in parts]
    by_quarter = [quarters(part) for part in parts]
    found = {
        c.OUTPUT_PERPLEXITY: _exp(mean),
        c.OUTPUT_SURPRISAL_MEAN: mean,
        c.OUTPUT_SURPRISAL_MAX: float(surprisal.max()),
        c.SEQUENCE_PERPLEXITY: [perplexity(part) for part in parts],
        c.SEQUENCE_NLL: nlls,
        c.SEQUENCE_WORST_WINDOW: windows,
        c.SEQUENCE_SURPRISAL_QUARTERS: [value for four in by_quarter for value in four],
        **_largest(c.OUTPUT_NLL, [negative_log_likelihood(surprisal)]),
        **_largest(c.OUTPUT_WORST_WINDOW, windows),
        **_largest(c.OUTPUT_SURPRISAL_SLOPE, (four[-1] - four[0] for four in by_quarter)),
    }
    if encoded is not None:
        sizes = [len(data) for data in encoded]
        found[c.SEQUENCE_BITS_PER_BYTE] = [bits_per_byte(nll, size) for nll, size in zip(nlls, sizes, strict=True)]
        found |= _largest(c.OUTPUT_BITS_PER_BYTE, [bits_per_byte(sum(nlls), sum(sizes))])
    return found


def _largest(name: str, values: Iterable[float]) -> dict[str, float]:
    """{name: largest of the finite values}, nothing where none is."""
    finite = [value for value in values if math.isfinite(value)]
    return {name: max(finite)} if finite else {}


def _exp(value: float) -> float:
    try:
        return math.exp(value)  # NaN stays NaN
    except OverflowError:
        return math.inf


def _check(
    lengths: list[int], surprisal: NDArray[np.float32] | None, ids: NDArray[np.uint32] | None, last_key: NDArray[np.float32] | None,
    texts: list[str] | None, rauq_alpha: float,
) -> None:
    total = sum(lengths)
    for name, values, axes in (("surprisal", surprisal, 1), ("ids", ids, 1), ("last_key", last_key, 3)):
        if values is not None and (values.ndim != axes or values.shape[0] != total):
            raise CutawayError(f"{name} has {axes} axes and one entry a token: the sequences have {total} tokens, its shape is "
                               f"{values.shape}; leave it out where a recording is not whole")
    if texts is not None and len(texts) != len(lengths):
        raise CutawayError(f"there is one text a sequence: {len(texts)} texts were given for {len(lengths)} sequences")
    if min(lengths, default=0) < 0:
        raise CutawayError(f"a sequence has 0 tokens or more, one has {min(lengths)}")
    if not 0.0 <= rauq_alpha <= 1.0:
        raise CutawayError(f"rauq_alpha is a weight from 0 to 1, it is {rauq_alpha}: the paper takes 0.2")
