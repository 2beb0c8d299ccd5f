"""Listens to one generation and keeps what it hears on the device, to be copied once at the end.

Not the hooks (tap.py), not the formulas (measure.py): it is told what happens and calls the functions it was given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cutaway import conventions as c
from cutaway.attention import AttentionRecorder
from cutaway.beams import Beams, Paths, filled
from cutaway.steps import Clock, Measures, Prepared, Recording


class HostClock:
    """Wall time of the host, in seconds: exact where the device is the host."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def mark(self) -> float:
        """Now."""
        return time.perf_counter()

    def seconds(self, marks: Sequence[float]) -> list[float]:
        """Seconds from the start to each mark."""
        return [mark - self._start for mark in marks]


class DeviceClock:
    """CUDA events: a mark is when the device gets there, not when the host queued it, and costs no synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = self.mark()

    def mark(self) -> torch.cuda.Event:
        """An event recorded in the current stream."""
        event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, marks: Sequence[torch.cuda.Event]) -> list[float]:
        """Waits for the last mark, then seconds from the start to each."""
        if marks:
            marks[-1].synchronize()
        return [self._start.elapsed_time(mark) / 1e3 for mark in marks]


_EXACT_MODES: Final = ("greedy_search", "sample", "beam_search", "beam_sample")


def clock_for(device: Any) -> Clock:
    """The clock that fits where the model runs."""
    return DeviceClock(device) if getattr(device, "type", "cpu") == "cuda" else HostClock()


class Recorder:
    """Hears one call of `generate` (see steps.Listener) and ends as a Recording.

    `tokens`: reason why token signals cannot be exact, or "" to record them. `attention`: likewise; None when it is switched off.
    `fallback`: what the arguments say of the prompt, for a call that never told how it was prepared.
    """

    def __init__(
        self, measures: Measures, clock: Clock, tokens: str, attention: str | None, fallback: Callable[[], Prepared]
    ) -> None:
        self._measures = measures
        self._clock = clock
        self._tokens_reason = tokens
        self._attention_wanted = attention is not None
        self._attention_reason = attention or ""
        self._attention: AttentionRecorder | None = None
        self._fallback = fallback
        self.asked: Prepared | None = None
        self.last_ids: Any = None
        self._fault = ""
        self._row: Any = None
        self._running: Any = None
        self._beams: Beams | None = None
        self._signals: list[Any] = []
        self._done: list[Any] = []
        self._marks: list[Any] = []

    def prepared(self, prepared: Prepared) -> None:
        """The call is about to run: decides what can be exact in it."""
        self.asked = prepared
        if not self._tokens_reason and prepared.mode not in _EXACT_MODES:
            self._tokens_reason = f"token signals are not exact in the mode {prepared.mode}"
        elif not self._tokens_reason and prepared.beams > 1:
            self._beams = Beams(prepared)
        if self._tokens_reason and not self._attention_reason:
            self._attention_reason = self._tokens_reason.replace("token signals are", "attention signals are")
        if not self._attention_reason and prepared.encoder_decoder:
            self._attention_reason = "attention of encoder-decoder models (self, cross and encoder attention share their layers)"
        if self._attention_wanted and not self._attention_reason:
            self._attention = AttentionRecorder(self._measures.attention_entropy, prepared.deferrable)

    @property
    def hears_attention(self) -> bool:
        """Whether the tap should pass attention on."""
        return self._attention is not None

    @property
    def hears_tokens(self) -> bool:
        """Whether the tap should pass logits on."""
        return not self._tokens_reason

    def attention(self, layer: int, query: Any, key: Any, mask: Any, details: dict[str, Any]) -> None:
        """See Listener; `details` holds scale and softcap."""
        if self._attention is not None:
            self._attention.hear(len(self._marks), layer, query, key, mask, details["scale"], details["softcap"])

    def fail(self, reason: str) -> None:
        """Listening failed: counts and ids remain, every signal of the call is dropped and reported as `error`."""
        self._fault = reason

    def stop_strings(self, check: Any) -> None:
        """The criterion that finds stop strings, or None."""
        if self.asked is not None:
            self.asked.stop_check = check

    def give_up_attention(self, reason: str) -> None:
        """Attention turned out not to be exact: nothing of it is reported."""
        self._attention, self._attention_reason = None, reason

    def logits(self, ids: Any, scores: Any, shared: bool) -> None:
        """Keeps the raw row until its token is chosen; a copy only where somebody may change it in place."""
        if not self._tokens_reason:
            self._row, self._running = scores.clone() if shared else scores, ids

    def chosen(self, ids: Any, done: Any) -> None:
        """A token was chosen in every row."""
        self._marks.append(self._clock.mark())
        self._done.append(done)
        self.last_ids = ids
        if self._row is None:
            return
        row, self._row = self._row, None
        if self._beams is not None:
            try:
                row = row[self._beams.choose(self._running, ids)]
            except MemoryError:
                self._beams, self._tokens_reason = None, "beam search over this many steps"
                self.give_up_attention(self._tokens_reason)
                return
        self._signals.append(self._measures.token_signals(row, ids[:, -1]))

    def finish(self, sequences: Any, failed: bool = False, fault: str = "") -> Recording:
        """`sequences`: returned ids [sequence, position], or None when there are none. Copies everything to the host, once."""
        found = Recording()
        fault = fault or self._fault
        if self.asked is None:
            self._unprepared(failed)
            self.asked = self._fallback()
        asked = self.asked
        if failed and asked.beams > 1:
            sequences = None  # what was seen last are candidates, not sequences
        generated = self._generated_ids(sequences, asked)
        paths = self._paths(generated)
        lengths, reasons = self._lengths(generated, sequences, asked, failed, None if paths is None else paths.lengths)
        found.output_tokens, found.finish_reasons = lengths, reasons
        found.input_tokens, found.copies = self._input_tokens(asked, len(lengths)), max(1, asked.choices)
        found.token_ids = _joined(generated, lengths).astype(np.uint32)
        self._times(found, lengths)
        if self._attention is not None and asked.input_mask is not None and 0 in found.input_tokens:
            self.give_up_attention("attention where a mask hides the whole prompt of a row")
        if not fault and not self._tokens_reason:
            self._collect(found, lengths, paths)
        return self._statuses(found, fault)

    def _unprepared(self, failed: bool) -> None:
        """Nothing was heard: the call failed early, or ran outside of the loops we know."""
        if not self._tokens_reason:
            self._tokens_reason = "generation never began" if failed else "this model generates in a loop of its own"
        if self._attention_wanted and not self._attention_reason:
            self._attention_reason = self._tokens_reason

    def _generated_ids(self, sequences: Any, asked: Prepared) -> NDArray[np.int64]:
        """Returned ids without the prompt, int64 [sequence, step] on the host."""
        if sequences is None or getattr(sequences, "ndim", 0) != 2:
            return np.zeros((asked.rows * max(1, asked.choices), 0), dtype=np.int64)  # nothing was returned
        host: NDArray[np.int64] = sequences[:, asked.prompt_length:].detach().cpu().numpy().astype(np.int64)
        return host

    def _paths(self, generated: NDArray[np.int64]) -> Paths | None:
        """Where beams went and ended; None without beams, and where they cannot be traced."""
        if self._beams is None:
            return None
        paths = self._beams.paths(generated, self._done)
        if paths is None:
            self._tokens_reason = "a beam could not be traced back to its steps"
            self.give_up_attention(self._tokens_reason)
        return paths

    def _lengths(
        self, generated: NDArray[np.int64], sequences: Any, asked: Prepared, failed: bool, traced: list[int] | None
    ) -> tuple[list[int], list[str]]:
        """Generated tokens of each sequence, and why it ended. `traced`: lengths of beams that are known exactly."""
        steps = generated.shape[1]
        end_ids = np.zeros(0, dtype=np.int64) if asked.end_ids is None else asked.end_ids.detach().cpu().numpy().reshape(-1)
        ended = np.isin(generated, end_ids)
        stops = ended if asked.beams > 1 else self._done_matrix(generated.shape, ended)
        limits = [steps] * generated.shape[0] if asked.beams == 1 else filled(generated, asked)
        full = steps == 0 or (asked.max_length is not None and asked.prompt_length + steps >= asked.max_length)
        matched = self._stop_strings(sequences, generated.shape[0], asked)
        lengths, reasons = [], []
        for i in range(generated.shape[0]):
            hits = np.flatnonzero(stops[i])
            length = traced[i] if traced is not None else int(hits[0]) + 1 if hits.size else limits[i]
            at_end = length > 0 and bool(ended[i, length - 1])
            if failed and not at_end and not (hits.size and length < steps):
                reason = "error"
            elif at_end or (matched is not None and bool(matched[i])):
                reason = "stop"
            else:
                reason = "length" if (full and length == steps) or asked.time_limited else "stop"
            lengths.append(length)
            reasons.append(reason)
        return lengths, reasons

    def _done_matrix(self, shape: tuple[int, ...], ended: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bool [sequence, step]: where a criterion ended the sequence; from the loop itself, else from the end-of-sequence ids."""
        rows, steps = shape
        if self._done and self._done[0].shape[0] == rows and len(self._done) >= steps > 0:
            matrix: NDArray[np.bool_] = torch.stack(self._done[:steps], dim=1).cpu().numpy()
            return matrix
        return ended

    def _stop_strings(self, sequences: Any, rows: int, asked: Prepared) -> NDArray[np.bool_] | None:
        """Which sequences end in a stop string: asked only where there are stop strings and rows of one length."""
        if asked.stop_check is None or sequences is None or getattr(sequences, "ndim", 0) != 2:
            return None
        found: NDArray[np.bool_] = asked.stop_check(sequences).cpu().numpy()
        return found if found.shape[0] == rows else None

    def _input_tokens(self, asked: Prepared, sequences: int) -> list[int]:
        """Prompt tokens of each sequence, padding excluded."""
        if asked.input_mask is None:
            return [asked.input_length] * sequences
        sums = asked.input_mask[:, -asked.input_length:].sum(-1).cpu().tolist()
        rows = [int(value) for value in sums]
        if len(rows) != sequences and rows:
            group = max(1, len(rows) // max(1, asked.rows))
            first_of_row = rows[::group]
            rows = [value for value in first_of_row for _ in range(max(1, sequences // max(1, len(first_of_row))))]
        return rows

    def _times(self, found: Recording, lengths: list[int]) -> None:
        """Time to first token, pace and the time between tokens."""
        moments = self._clock.seconds(self._marks)
        found.steps = min(len(moments), max(lengths, default=0))
        moments = moments[: found.steps]
        if not moments:
            return
        found.first_token_s, found.last_token_s = moments[0], moments[-1]
        if self._tokens_reason:
            found.steps = 1  # a step of this loop is not a token: the pace would be wrong
        between = np.diff(np.asarray(moments, dtype=np.float64), prepend=0.0).astype(np.float32)
        if not self._tokens_reason and not self._fault:
            found.inter_token_s = np.concatenate([between[:length] for length in lengths]) if lengths else between[:0]

    def _collect(self, found: Recording, lengths: list[int], paths: Paths | None) -> None:
        """Token and attention signals, cut to the generated tokens of each sequence."""
        steps = max(lengths, default=0)
        if steps and len(self._signals) < steps:
            self._tokens_reason = "the loop did not show its scores at every step"
            self.give_up_attention(self._tokens_reason)
            found.inter_token_s = None
            return
        straight = np.repeat(np.arange(len(lengths), dtype=np.int64)[:, None], max(steps, 1), axis=1)
        chosen, running = (straight, straight) if paths is None else (paths.candidates, paths.running)
        if steps == 0:
            found.surprisal = found.entropy = found.margin = np.zeros(0, dtype=np.float32)
            found.rank = np.zeros(0, dtype=np.uint32)
        else:
            signals = torch.stack(self._signals[:steps]).cpu().numpy()  # [step, signal, row]
            surprisal, entropy, margin, rank = (_followed(signals[:, i].T, chosen, lengths) for i in range(4))
            found.surprisal, found.entropy, found.margin = surprisal, entropy, margin
            found.rank = rank.astype(np.uint32)
        if self._attention is not None and steps:
            _, values, reason = self._attention.finish(steps)
            if values is None:
                self._attention_reason = reason
            else:
                by_token = values.permute(1, 3, 0, 2).numpy()  # [row, step, layer, head]
                found.attention = _followed(by_token, running, lengths)

    def _statuses(self, found: Recording, fault: str) -> Recording:
        self._row = self._running = self._beams = self.last_ids = self._attention = None
        self._signals, self._done, self._marks = [], [], []
        found.tokens_status = _status(fault, self._tokens_reason)
        found.attention_status = _status(fault, self._attention_reason) if self._attention_wanted else c.STATUS_OFF
        reasons = [fault] if fault else [self._tokens_reason, self._attention_reason if self._attention_wanted else ""]
        found.reasons = list(dict.fromkeys(reason for reason in reasons if reason))
        return found


def _status(fault: str, reason: str) -> str:
    if fault:
        return c.STATUS_ERROR
    return c.STATUS_UNSUPPORTED if reason else c.STATUS_RECORDED


def _followed(values: NDArray[Any], rows: NDArray[np.int64], lengths: list[int]) -> NDArray[Any]:
    """[row, step, ...] -> values of each sequence along the rows it went through, one sequence after another."""
    return np.concatenate([values[rows[i, :length], np.arange(length)] for i, length in enumerate(lengths)])


def _joined(values: NDArray[Any], lengths: list[int]) -> NDArray[Any]:
    """[sequence, step] -> the first `lengths[i]` of each row, one after another."""
    return np.concatenate([values[i, :length] for i, length in enumerate(lengths)]) if lengths else values.reshape(-1)[:0]
