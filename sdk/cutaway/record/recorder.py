"""One call of `generate` as it is heard: decides what can be exact in it, and ends as a Recording.

Not the parts it is made of: rows of scores (tokens.py), query rows (attention.py), beams (beams.py), counts (answers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cutaway import conventions as c
from cutaway.record import answers
from cutaway.record.attention import AttentionRecorder, LayerEar, Wanted
from cutaway.record.beams import Beams, Paths
from cutaway.record.gather import attention_series
from cutaway.record.tokens import TokenRecorder
from cutaway.steps import Clock, Measures, Prepared, Recording

_EXACT_MODES: Final = ("greedy_search", "sample", "beam_search", "beam_sample", "assisted_generation")


@dataclass(frozen=True, slots=True)
class Options:
    """What to record."""

    attention: bool = True
    heads: tuple[int, ...] = ()
    """Attention signals kept for every head, as indices into ATTENTION_SIGNALS."""
    layers_max: int = 0
    """Attention layers kept, 0 for all of them."""
    alternatives: int = 0
    sources: int = 0


class Recorder:
    """Hears one call of `generate` (see steps.Listener). `fallback`: what the arguments say of the prompt, for a call that never
    told how it was prepared. After the call: `stop` on the generating thread, then `count` and
    `collect` on any."""

    def __init__(self, measures: Measures, clock: Clock, options: Options, fallback: Callable[[], Prepared]) -> None:
        self._measures = measures
        self._clock = clock
        self._options = options
        self._tokens_reason = ""
        self._attention_wanted = options.attention
        self._attention_reason = ""
        self._attention: AttentionRecorder | None = None
        self._tokens = TokenRecorder(measures, options.alternatives)
        self._fallback = fallback
        self.asked: Prepared | None = None
        self.last_ids: Any = None
        self._fault = self._attention_fault = ""
        self._rows: list[Any] = []
        self._processed: Any = None
        self._running: Any = None
        self._only_appends: list[Any] = []
        self._beams: Beams | None = None
        self._length = -1
        self._version: int | None = None  # of the scores that are held and were not copied
        self._done: list[Any] = []
        self._marks: list[Any] = []
        self._mark_of_token: list[int] = []
        self._drafted, self._accepted = 0, 0
        self._late = False
        self._sequences: Any = None
        self._failed = False
        self._matched: Any = None
        self._end: Any = None
        self._found_paths: Paths | None = None

    def prepared(self, prepared: Prepared) -> None:
        """The call is about to run: decides what can be exact in it."""
        self.asked = prepared
        self._length = prepared.prompt_length
        if not self._tokens_reason and prepared.mode not in _EXACT_MODES and not prepared.own_loop:
            self._tokens_reason = f"token signals are not exact in the mode {prepared.mode}"
        elif not self._tokens_reason and prepared.beams > 1:
            self._beams = Beams(prepared)
        if self._tokens_reason and not self._attention_reason:
            self._attention_reason = self._tokens_reason.replace("token signals are", "attention signals are")
        if self._attention_wanted and not self._attention_reason:
            options = self._options
            wanted = Wanted(options.heads, options.layers_max, options.sources)
            deferrable = prepared.deferrable and not prepared.own_loop
            prompt = prepared.prompt_length or (0 if prepared.encoder_decoder else prepared.input_length)
            self._attention = AttentionRecorder(self._measures, wanted, deferrable, prompt, self._drafts, prepared.cache)

    @property
    def _drafts(self) -> bool:
        return self.asked is not None and self.asked.mode == "assisted_generation"

    @property
    def _draws(self) -> bool:
        """Whether each token is drawn from the processed scores."""
        return self.asked is not None and (self.asked.mode == "sample" or self.asked.own_loop) and self._beams is None

    @property
    def hears_attention(self) -> bool:
        """Whether the tap should pass attention on."""
        return self._attention is not None

    @property
    def hears_tokens(self) -> bool:
        """Whether the tap should pass logits on."""
        return not self._tokens_reason

    @property
    def awaits_pass(self) -> bool:
        """See tap.session.Hearing: so it is while no layer has shown the pass that checks the drafts."""
        return self._drafts and self._attention is not None and not self._attention.drafts

    def ear(self, kind: str, layer: int, scale: float, softcap: float | None, learned_sink: Any) -> LayerEar:
        """See Listener."""
        assert self._attention is not None, "asked only while hears_attention"
        return self._attention.ear(kind, layer, scale, softcap, learned_sink)

    def fail(self, reason: str) -> None:
        """Listening failed: counts and ids remain, every signal of the call is dropped and reported as `error`."""
        self._fault = reason

    def stop_strings(self, check: Any, time_check: Callable[[], bool] | None) -> None:
        """The criteria that find stop strings and that watch the time, or None."""
        if self.asked is not None:
            self.asked.stop_check, self.asked.time_check = check, time_check

    def give_up_attention(self, reason: str) -> None:
        """Attention turned out not to be exact: nothing of it is reported."""
        if self._attention is not None:
            self._attention.retire()
        self._attention, self._attention_reason = None, reason

    def fail_attention(self, reason: str) -> None:
        """Listening to attention failed: nothing of it is reported, and that as `error`."""
        self._attention_fault = reason
        self.give_up_attention(reason)

    def _give_up(self, reason: str) -> None:
        self._tokens_reason = reason
        self._rows, self._processed = [], None
        self.give_up_attention(reason)

    def logits(self, ids: Any, scores: Any, shared: bool) -> None:
        """Keeps the raw row until its token is chosen; a copy only where somebody may change it in place."""
        if not self._tokens_reason:
            if self._drafts and ids.shape[1] == self._length:
                self._rows = []  # scores made up to try a draft on the processors; those of the model come last
            self._version = None
            if self._drafts:
                scores = scores.clone()
            elif shared or scores.is_inference():  # those of inference mode do not count who writes into them
                scores = self._tokens.place(scores)
            else:
                self._version = scores._version
            self._rows.append(scores)
            self._running = ids

    def processed(self, scores: Any) -> None:
        """See Listener. Greedy search draws from nothing, beams add up what they draw from, drafts are accepted by another rule:
        nothing to report there."""
        if self._draws:
            self._processed = scores

    def chosen(self, ids: Any, done: Any) -> None:
        """A token was chosen in every row; or, when drafts are checked, several in the only row."""
        self._marks.append(self._clock.mark())
        self._done.append(done)
        if self.asked is not None and self.asked.own_loop and not self._tokens_reason:
            self._follow(ids)
        self.last_ids = ids
        if self.asked is not None and self.asked.time_check is not None:
            self._late = self.asked.time_check()
        rows, processed, self._rows, self._processed = self._rows, self._processed, [], None
        grown = ids.shape[1] - self._length
        self._length = ids.shape[1]
        if self._tokens_reason:
            return
        if self._version is not None and rows and rows[-1]._version != self._version:
            self.fail("somebody wrote into the scores before their token was chosen")
        if not self._fits(rows, ids, grown):
            self._give_up("the loop did not show its scores once for every token")
            return
        self._mark_of_token += [len(self._marks) - 1] * grown
        if self._beams is not None:
            try:
                rows = [rows[0][self._beams.choose(self._running, ids)]]
            except MemoryError:
                self._beams = None
                self._give_up("beam search over this many steps")
                return
        for i in range(grown):
            self._tokens.hear(rows[i], ids[:, ids.shape[1] - grown + i], processed)
        self._drafted, self._accepted = self._drafted + len(rows) - 1, self._accepted + grown - 1
        if self._attention is not None:
            self._attention.stepped(len(rows) - 1, grown)

    def _follow(self, ids: Any) -> None:
        """A loop of the host's own may change ids or rows between its steps. Compared on the device, read when the call is over."""
        before, running = self.last_ids, self._running
        for old, new in ((before, running), (running, ids[:, :-1])):
            if old is not None and new is not None and old.shape == new.shape:
                self._only_appends.append((old == new).all())

    def _fits(self, rows: list[Any], ids: Any, grown: int) -> bool:
        """Whether the scores that were shown are those of the tokens that were chosen."""
        if self._beams is not None:
            return len(rows) == 1 and grown == 1
        if self._drafts:
            return 1 <= grown <= len(rows)
        return len(rows) == 1 and grown == 1 and rows[0].shape[0] == ids.shape[0]

    def stop(self, sequences: Any, failed: bool = False) -> None:
        """The call is over: computes what waits, on the device, and keeps ids of its own. No waiting for the device.

        `sequences`: returned ids [sequence, position], or None when there are none.
        """
        self._rows, self._processed, self._running = [], None, None
        self._failed = failed
        try:
            self._settle(sequences)
        finally:
            with suppress(Exception) if self._fault else nullcontext():  # the clock may be what failed
                self._end = self._clock.mark()

    def _settle(self, sequences: Any) -> None:
        if self.asked is None:
            if not self._tokens_reason:
                self._tokens_reason = "generation never began" if self._failed else "this model generates in a loop of its own"
            if self._attention_wanted and not self._attention_reason:
                self._attention_reason = self._tokens_reason
            self.asked = self._fallback()
        if self._failed:
            sequences = None if self.asked.beams > 1 else self.last_ids  # what was seen last of beams are candidates, not sequences
        if sequences is not None and getattr(sequences, "ndim", 0) == 2:
            self._sequences = sequences.detach().clone()  # the host may change what it was given
            if self.asked.stop_check is not None:
                self._matched = self.asked.stop_check(self._sequences)
        self.asked.stop_check = self.asked.time_check = self.asked.cache = None
        if self._fault:
            self.give_up_attention(self._attention_reason)
            return
        if not self._tokens_reason:
            self._tokens.stop()
        if self._attention is not None:
            self._attention.stop()

    def held_bytes(self) -> int:
        """Memory that `collect` will bring to the host."""
        return self._tokens.held_bytes() + (0 if self._attention is None else self._attention.held_bytes())

    def count(self) -> Recording:
        """Ids, lengths and finish reasons; waits for the device. Call `stop` before."""
        found, asked = Recording(), self.asked
        assert asked is not None, "stop() sets it"
        if self._end is not None:
            self._clock.seconds([self._end])  # reached when all values are there
        generated = answers.generated_ids(self._sequences, asked)
        self._found_paths = paths = self._paths(generated)
        matched = None if self._matched is None else self._matched.cpu().numpy()
        found.output_tokens, found.finish_reasons = answers.lengths_and_reasons(
            generated, asked, self._done_matrix(generated), None if matched is None or len(matched) != len(generated) else matched,
            None if paths is None else paths.lengths, self._failed, self._late,
        )
        found.input_tokens, found.copies = answers.input_tokens(asked, len(found.output_tokens)), max(1, asked.choices)
        found.token_ids = answers.joined(generated, found.output_tokens).astype(np.uint32)
        if asked.own_loop and not self._tokens_reason and not self._showed(generated):
            self._give_up("the loop returned other tokens than it showed, or changed them between its steps")
        return found

    def collect(self, found: Recording, fault: str = "") -> Recording:
        """Copies every signal to the host, once, into what `count` found. Like `count` safe on another thread."""
        asked = self.asked
        assert asked is not None, "stop() sets it"
        fault = fault or self._fault
        self._times(found, self._clock.seconds(self._marks), found.output_tokens)
        if self._attention is not None and asked.input_mask is not None and 0 in found.input_tokens:
            self.give_up_attention("attention where a mask hides the whole prompt of a row")
        if not fault and not self._tokens_reason:
            self._collect(found, found.output_tokens, self._found_paths)
        return self._statuses(found, fault)

    def _showed(self, generated: NDArray[np.int64]) -> bool:
        """Whether a loop of the host's own only ever appended to what it had shown, and returned what its last step held."""
        if not all(bool(same) for same in self._only_appends):
            return False
        if self.last_ids is None or self.asked is None:
            return not generated.size
        seen = answers.generated_ids(self.last_ids, self.asked)
        return seen.shape == generated.shape and bool((seen == generated).all())

    def _paths(self, generated: NDArray[np.int64]) -> Paths | None:
        """Where beams went and ended; None without beams, and where they cannot be traced."""
        if self._beams is None:
            return None
        paths = self._beams.paths(generated, self._done)
        if paths is None:
            self._give_up("a beam could not be traced back to its steps")
        return paths

    def _done_matrix(self, generated: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Bool [sequence, step]: where a criterion of the loop ended the sequence; None where its steps are not tokens."""
        rows, steps = generated.shape
        if self._drafts or not self._done or self._done[0].shape[0] != rows or not len(self._done) >= steps > 0:
            return None
        return np.stack([done.cpu().numpy() for done in self._done[:steps]], axis=1)

    def _times(self, found: Recording, moments: list[float], lengths: list[int]) -> None:
        """Time to first token, pace and the time between tokens. Tokens accepted together share a moment."""
        longest = max(lengths, default=0)
        exact = not self._tokens_reason and not self._fault
        if exact:
            moments = [moments[i] for i in self._mark_of_token]
        moments = moments[:longest]
        found.steps = len(moments)
        if not moments:
            return
        found.first_token_s, found.last_token_s = moments[0], moments[-1]
        if self._tokens_reason:
            found.steps = 1  # a step of this loop is not a token: the pace would be wrong
        if exact:
            between = np.diff(np.asarray(moments, dtype=np.float64), prepend=0.0).astype(np.float32)
            parts = [between[:length] for length in lengths]
            found.series[c.TOKEN_INTER_TOKEN_TIME] = np.concatenate(parts) if parts else between[:0]

    def _collect(self, found: Recording, lengths: list[int], paths: Paths | None) -> None:
        """Token and attention signals, cut to the generated tokens of each sequence."""
        steps = max(lengths, default=0)
        if steps and self._tokens.steps < steps:
            self._give_up("the loop did not show its scores at every step")
            found.series.clear()
            return
        straight = np.repeat(np.arange(len(lengths), dtype=np.int64)[:, None], max(steps, 1), axis=1)
        chosen, running = (straight, straight) if paths is None else (paths.candidates, paths.running)
        for name, values in self._tokens.collect(steps).items():
            found.series[name] = answers.followed(values, chosen, lengths) if steps else values.reshape(-1)
        if self._drafts:
            found.drafted, found.accepted = self._drafted, self._accepted
        if self._attention is not None and steps:
            heard = attention_series(self._attention, steps, lambda values: answers.followed(values, running, lengths))
            self._attention_reason = heard.reason
            found.series |= heard.series
            found.layers, found.layers_left_out, found.source_layers = heard.layers, heard.left_out, heard.source_layers
            if heard.partly:
                found.reasons.append(heard.partly)
            if c.SOURCE_POSITION in found.series:
                self._without_padding(found, lengths)

    def _without_padding(self, found: Recording, lengths: list[int]) -> None:
        """Source positions count from the first token of the prompt, not from its padding."""
        assert self.asked is not None
        padding = np.repeat([self.asked.prompt_length - tokens for tokens in found.input_tokens], lengths)
        places = found.series[c.SOURCE_POSITION].astype(np.int64) - padding[:, None, None].clip(0)
        found.series[c.SOURCE_POSITION] = places.clip(0).astype(np.uint32)

    def _statuses(self, found: Recording, fault: str) -> Recording:
        self.last_ids = self._attention = self._beams = self._sequences = self._matched = None
        self._done, self._marks, self._only_appends = [], [], []
        found.tokens_status = _status(fault, self._tokens_reason)
        off = not self._attention_wanted
        found.attention_status = c.STATUS_OFF if off else _status(fault or self._attention_fault, self._attention_reason)
        attention = self._attention_reason if self._attention_wanted else ""
        reasons = [fault] if fault else [self._tokens_reason, attention, *found.reasons]
        found.reasons = list(dict.fromkeys(reason for reason in reasons if reason))
        return found


def _status(fault: str, reason: str) -> str:
    if fault:
        return c.STATUS_ERROR
    return c.STATUS_UNSUPPORTED if reason else c.STATUS_RECORDED
