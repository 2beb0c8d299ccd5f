"""Keeps what a pipeline shows after each step: a moment, the size of its latents and of their change, whether they are finite.

Not a hook and not a span: it is handed latents and gives arrays. Nothing here waits for the device before `finish`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from cutaway import conventions as c
from cutaway import guard
from cutaway.steps import Clock

STEPS_MAX: Final = 10_000
"""Steps kept of one call: a limit on memory. What follows is counted, and the status says `truncated`."""


@dataclass(slots=True)
class Denoising:
    """What is known of the steps of one call when it is over."""

    status: str
    """`recorded`, `truncated`, `unsupported` or `error`, as `cutaway.diffusion.status`."""
    steps: int | None = None
    """Steps that ran; None where the pipeline does not tell."""
    nonfinite_step: int | None = None
    """First step whose latents held NaN or infinity, from 0."""
    series: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Attribute name (of `conventions.DIFFUSION_SERIES`) -> float32 [step]."""
    reasons: list[str] = field(default_factory=list)


class Recorder:
    """Hears the steps of one call, on the thread that runs it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[Any] = []
        self._timesteps: list[Any] = []
        self._measured: list[Any] = []
        self._previous: Any = None
        self._steps = 0
        self._unheard = ""
        self._fault = ""
        self.joined = False
        """Whether the pipeline took our callback."""
        self.elsewhere = False
        """Whether steps of other pipelines came through the callback of this one."""
        self.arguments: dict[str, Any] = {}
        """The call's arguments by name, as the method that runs the steps got them."""

    def unsupported(self, reason: str) -> None:
        """The steps of this call cannot be heard; a method below may still join."""
        self._unheard = reason

    def fail(self, reason: str) -> None:
        """Listening itself failed: the series would have holes, so there will be none."""
        self._fault = reason
        self._previous = None

    def step(self, timestep: Any, latents: Any) -> None:
        """One step is over. `timestep`: number or tensor; `latents`: float tensor of any shape, or anything else: none."""
        self._steps += 1
        if self._fault or self._steps > STEPS_MAX:
            return
        self._marks.append(self._clock.mark())
        self._timesteps.append(_number(timestep))
        measured = None
        if isinstance(latents, torch.Tensor) and latents.is_floating_point() and latents.numel():
            with torch.no_grad():
                measured, self._previous = latent_signals(latents.detach(), self._previous)
        self._measured.append(measured)

    def finish(self, failed: bool) -> Denoising:
        """Copies what was measured to the host, once. `failed`: the host's call ended in an exception."""
        self._previous = None
        if self._fault:
            return Denoising(c.STATUS_ERROR, self._steps, reasons=[self._fault])
        if not self.joined:
            return Denoising(c.STATUS_UNSUPPORTED, reasons=[self._unheard or "the pipeline ended before its steps could be heard"])
        if not self._steps and not failed:
            inside = "its steps ran in other pipelines, which have spans of their own" if self.elsewhere else "it reported no step"
            return Denoising(c.STATUS_UNSUPPORTED, reasons=[f"step series: {inside}"])
        found = Denoising(c.STATUS_RECORDED, self._steps)
        if self._steps > STEPS_MAX:
            found.status = c.STATUS_TRUNCATED
            found.reasons.append(f"step series cut to the first {STEPS_MAX} of {self._steps} steps")
        seconds = np.asarray(self._clock.seconds(self._marks), dtype=np.float64)
        found.series[c.DIFFUSION_STEP_TIME] = np.diff(seconds, prepend=0.0).astype(np.float32)
        found.series[c.DIFFUSION_STEP_TIMESTEP] = _fetch(self._timesteps)
        measured = [each for each in self._measured if each is not None]
        if not measured:
            if self._steps:
                found.reasons.append("latent norm and change: the pipeline handed out no latents")
            return found
        rows = np.full((len(self._measured), 3), np.nan, dtype=np.float32)
        rows[[each is not None for each in self._measured]] = _fetch([value for each in measured for value in each]).reshape(-1, 3)
        found.series[c.DIFFUSION_LATENT_NORM] = np.ascontiguousarray(rows[:, 0])
        found.series[c.DIFFUSION_LATENT_CHANGE] = np.ascontiguousarray(rows[:, 1])
        broken = np.flatnonzero(rows[:, 2] == 0)
        found.nonfinite_step = int(broken[0]) if broken.size else None
        return found


def latent_signals(latents: Any, previous: Any) -> tuple[tuple[Any, Any, Any], Any]:
    """((norm, change, finite), copy): root mean square of `latents` and of `latents - previous`, 1 where every value is finite.

    `latents`: float tensor of any shape; `previous`: float32 tensor, or None. All three are float32 scalars on the device, except
    that the change is NaN where there is no `previous` of the same shape. The copy, float32, is the next `previous`: the pipeline
    may go on to write into its own tensor.
    """
    values = latents.to(torch.float32, copy=True)
    root = values.numel() ** 0.5
    change: Any = float("nan")
    if previous is not None and previous.shape == values.shape and previous.device == values.device:
        change = torch.linalg.vector_norm(values - previous) / root
    finite = torch.isfinite(latents).all()
    return (torch.linalg.vector_norm(values) / root, change, finite), values


def _number(value: Any) -> Any:
    """A timestep as a float where it is known, as a tensor where reading it would wait for the device."""
    if isinstance(value, torch.Tensor):
        first = value.detach().reshape(-1)[:1]
        return float(first) if first.device.type == "cpu" and first.numel() else first if first.numel() else float("nan")
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _fetch(values: Sequence[Any]) -> NDArray[np.float32]:
    """Floats and one-element tensors -> float32 [value], with one copy from each device."""
    found = np.full(len(values), np.nan, dtype=np.float32)
    places: dict[Any, list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, torch.Tensor):
            places.setdefault(value.device, []).append(i)
        else:
            found[i] = value
    for indices in places.values():
        found[indices] = torch.stack([values[i].reshape(()).to(torch.float32) for i in indices]).cpu().numpy()
    return found


def give_up(recorder: Recorder, where: str, error: Exception) -> None:
    """A fault of ours ends this recording, and nothing else."""
    recorder.fail(guard.reason(error))
    guard.contain(where, error)
