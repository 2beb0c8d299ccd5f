"""The lists transformers calls at every step, which show what passes through them.

Not processors or criteria of their own: they add nothing to the lists and change nothing that passes.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers.generation import logits_process
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList

from cutaway.tap.session import Session

LEAVE_SCORES: Final = frozenset(
    vars(logits_process)[name]
    for name in (
        "EpsilonLogitsWarper", "EtaLogitsWarper", "ForcedBOSTokenLogitsProcessor", "ForcedEOSTokenLogitsProcessor",
        "InfNanRemoveLogitsProcessor", "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor", "MinPLogitsWarper",
        "NoBadWordsLogitsProcessor", "NoRepeatNGramLogitsProcessor", "RepetitionPenaltyLogitsProcessor",
        "SequenceBiasLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor", "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "TypicalLogitsWarper",
    )
    if name in vars(logits_process)
)
"""Processors of transformers that never write into the scores they are given, rows of them at least: with these alone the raw ones
need no copy. What they return may be the same tensor; whoever holds it looks whether it was written into meanwhile (record/)."""


class HearingProcessors(LogitsProcessorList):
    """The list of processors, which shows the raw scores first and the processed ones afterwards."""

    def __init__(self, processors: Any, session: Session) -> None:
        super().__init__(processors)
        self.session = session

    def __len__(self) -> int:
        """At least 1: assisted decoding does not call an empty list, and then nobody would hear its scores."""
        return max(1, super().__len__())

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Raw scores to the listener, then as transformers does."""
        session = self.session
        some, watched, passed = super().__len__() > 0, False, True
        try:
            watched = session.watched
            shared = watched or session.own_loop or not all(type(each) in LEAVE_SCORES for each in self)
            session.listener.logits(input_ids, scores, shared)
            passed = not session.listener.awaits_pass
        except Exception as error:
            session.fault("reading scores", error)
        session.deaf = True  # until the criteria have run
        try:
            processed = super().__call__(input_ids, scores, **kwargs)
        finally:
            session.deaf = passed
        if some:
            try:
                session.listener.processed(processed.clone() if watched else processed)
            except Exception as error:
                session.fault("reading processed scores", error)
        return processed


class HearingCriteria(StoppingCriteriaList):
    """The list of stopping criteria, which afterwards shows the chosen tokens."""

    def __init__(self, criteria: Any, session: Session) -> None:
        super().__init__(criteria)
        self.session = session

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """As transformers does, then the chosen tokens to the listener."""
        session = self.session
        session.forget_answer()
        session.deaf = True
        try:
            done = super().__call__(input_ids, scores, **kwargs)
        finally:
            session.deaf = False
        try:
            with torch.no_grad():
                session.listener.chosen(input_ids, done)
        except Exception as error:
            session.fault("measuring a token", error)
        return done
