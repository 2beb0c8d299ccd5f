"""One call of continuous batching: what its outputs say, as a Recording.

Not a measurement: no score was seen. Log-probabilities and times are the loop's own, where the program asked it for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cutaway import conventions as c
from cutaway.steps import Answer, Prepared, Recording

_TOKENS: Final = (
    "continuous batching shows no scores: token signals are what its outputs hold (with return_logprobs and record_timestamps)"
)
_ATTENTION: Final = "attention over a paged cache"


class BatchRecorder:
    """Hears one call of `generate_batch`. `attention`: whether attention was asked for; `fallback`: what the arguments say of a
    call that ended before its batch began. After the call: `stop`, then `count` and `collect` on any thread."""

    def __init__(self, attention: bool, fallback: Callable[[], Prepared]) -> None:
        self._attention = attention
        self._fallback = fallback
        self._answers: list[Answer] | None = None
        self._fault = ""
        self._failed = False
        self.asked: Prepared | None = None

    def prepared(self, prepared: Prepared) -> None:
        """The call is about to run."""
        self.asked = prepared

    def answered(self, answers: list[Answer]) -> None:
        """One answer a request, in the order of the inputs."""
        self._answers = answers

    def fail(self, reason: str) -> None:
        """Listening failed: nothing of what was heard is reported."""
        self._fault, self._answers = reason, None

    def stop(self, sequences: object = None, failed: bool = False) -> None:
        """The call is over. What `generate` made of the outputs is not needed."""
        self._failed = failed
        if self.asked is None:
            self.asked = self._fallback()

    def held_bytes(self) -> int:
        """Memory of what was said."""
        return sum(len(answer.ids) * 24 for answer in self._answers or ())

    def count(self) -> Recording:
        """Ids, lengths and finish reasons."""
        asked, found = self.asked, Recording()
        assert asked is not None, "stop() sets it"
        answers = self._answers
        if answers is None:
            answers = self._answers = [Answer(tokens, [], "error") for tokens in _prompt_tokens(asked)]
        found.copies = max(1, asked.choices)
        found.input_tokens = [answer.input_tokens for answer in answers]
        found.output_tokens = [len(answer.ids) for answer in answers]
        found.finish_reasons = [answer.finish_reason for answer in answers]
        found.token_ids = np.asarray([each for answer in answers for each in answer.ids], dtype=np.uint32)
        return found

    def collect(self, found: Recording, fault: str = "") -> Recording:
        """Log-probabilities and times, where the outputs hold them, and the statuses."""
        answers, fault = self._answers or [], fault or self._fault
        if not fault:
            if any(answer.logprobs for answer in answers):
                found.series[c.TOKEN_SAMPLED_SURPRISAL] = np.concatenate([_surprisal(answer) for answer in answers])
            if any(answer.moments_s for answer in answers):
                _times(found, answers)
            found.failed = 0 if self._failed else sum(answer.finish_reason == "error" for answer in answers)
            if found.failed:
                found.reasons.append(f"{found.failed} of {len(answers)} requests failed")
        found.tokens_status = c.STATUS_ERROR if fault else c.STATUS_UNSUPPORTED
        found.attention_status = found.tokens_status if self._attention else c.STATUS_OFF
        found.reasons = [fault] if fault else [_TOKENS, *([_ATTENTION] if self._attention else ()), *found.reasons]
        return found


def _prompt_tokens(asked: Prepared) -> list[int]:
    """Of every sequence that was asked for, when nothing came back."""
    if asked.input_mask is None:
        return [asked.input_length] * (asked.rows * max(1, asked.choices))
    return [int(tokens) for tokens in asked.input_mask.sum(-1).tolist() for _ in range(max(1, asked.choices))]


def _surprisal(answer: Answer) -> NDArray[np.float32]:
    """-log p of each token, NaN where the output has no value for every token (a request that failed on its way)."""
    if len(answer.logprobs) != len(answer.ids):
        return np.full(len(answer.ids), np.nan, dtype=np.float32)
    return -np.asarray(answer.logprobs, dtype=np.float32) + np.float32(0)  # no negative zeros


def _moments(answer: Answer) -> NDArray[np.float64]:
    """Moment of each token. A request that was forked or begun again has times of its last tokens only: NaN for those before."""
    known = answer.moments_s[:len(answer.ids)]
    return np.asarray([np.nan] * (len(answer.ids) - len(known)) + known, dtype=np.float64)


def _times(found: Recording, answers: list[Answer]) -> None:
    """Time between tokens; the first since the call. No pace: requests begin when there is room for them."""
    moments = [_moments(answer) for answer in answers]
    between = [np.diff(each, prepend=0.0) for each in moments]
    found.series[c.TOKEN_INTER_TOKEN_TIME] = np.concatenate(between).astype(np.float32)
    known = [value for each in moments for value in each if not np.isnan(value)]
    found.first_token_s, found.last_token_s = (min(known), max(known)) if known else (None, None)
    found.steps = 1
