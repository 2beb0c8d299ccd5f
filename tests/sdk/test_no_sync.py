"""While a model generates, nothing of ours waits for the device: no value of a tensor is read on the host, no shape depends on one.

On a CPU nothing waits anyway; what is forbidden here is what would make a GPU wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cutaway.record import attention as attention_module
from cutaway.record.attention import LayerEar
from cutaway.record.recorder import Recorder
from cutaway.testing import recorded, tiny_model
from generate_modes import HEARD, MODES, generate

WAITING = {
    "aten._local_scalar_dense", "aten.item", "aten.equal", "aten.nonzero", "aten.masked_select", "aten.unique_dim", "aten._unique",
    "aten._unique2", "aten.unique_consecutive", "aten.is_nonzero", "aten.allclose", "aten.repeat_interleave.Tensor",
    "aten.bincount", "aten.histc",
}
"""Operators that hand a value to the host, or whose result's shape depends on values."""

HOST_METHODS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "nonzero")
"""Methods of a tensor that wait for it."""


class Waited(AssertionError):
    """Something of ours waited for the device."""


class _Watch(TorchDispatchMode):
    """Refuses operators that wait, copies to the host among them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = f"aten.{func._schema.name.partition('::')[2]}"
        overload = f"{name}.{func._overloadname}"
        by_mask = name in ("aten.index", "aten.index_put_") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        to_host = name == "aten._to_copy" and str((kwargs or {}).get("device")) == "cpu" and args[0].device.type != "cpu"
        if name in WAITING or overload in WAITING or by_mask or to_host:
            raise Waited(overload)
        return func(*args, **(kwargs or {}))


def _watched(function: Callable[..., Any], count: list[int]) -> Callable[..., Any]:
    """The same function, in which nothing may wait."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        def refuse(name: str) -> Callable[..., Any]:
            def refused(*given: Any, **named: Any) -> Any:
                raise Waited(f"Tensor.{name}")
            return refused

        def moved(tensor: Any, *given: Any, **named: Any) -> Any:
            if any(isinstance(each, str) and each == "cpu" for each in (*given, *named.values())):
                raise Waited("Tensor.to('cpu')")  # a device object is that of another tensor: here, the model's own
            return to(tensor, *given, **named)

        count[0] += 1
        to = torch.Tensor.to
        with pytest.MonkeyPatch.context() as patch, _Watch():
            for name in HOST_METHODS:
                patch.setattr(torch.Tensor, name, refuse(name))
            patch.setattr(torch.Tensor, "to", moved)
            patch.setattr(torch.cuda, "synchronize", refuse("synchronize"))
            patch.setattr(torch.cuda.Event, "synchronize", refuse("Event.synchronize"))
            return function(*args, **kwargs)

    return watched


@contextmanager
def nothing_waits() -> Iterator[list[int]]:
    """Wraps every method that hears a step; yields how often one of them ran."""
    count = [0]
    with pytest.MonkeyPatch.context() as patch:
        for name in HEARD:
            patch.setattr(Recorder, name, _watched(getattr(Recorder, name), count))
        patch.setattr(LayerEar, "hear", _watched(LayerEar.hear, count))
        yield count


@pytest.mark.parametrize(("family", "mode"), [*(("llama", mode) for mode in MODES), ("gemma2", "greedy"), ("gemma2", "beams")])
def test_no_step_waits_for_the_device(family: str, mode: str) -> None:
    """Everything we can record is switched on; a padded batch, more than one block of steps."""
    model = tiny_model(family)
    bare = generate(model, mode)
    with nothing_waits() as count, recorded(attention="full", alternatives=3, attention_sources=3) as spans:
        out = generate(model, mode)
        (span,) = spans.get_finished_spans()

    assert torch.equal(out, bare)
    assert count[0] > 40
    assert span.attributes["cutaway.token.status"] == "recorded"


@pytest.mark.parametrize("plant", [
    lambda t: t.item() if t.numel() == 1 else t.sum().item(), lambda t: t.cpu(), lambda t: t.tolist(), lambda t: t.numpy(),
    lambda t: bool(t.sum()), lambda t: t.to("cpu"), lambda t: t.nonzero(), lambda t: t[t > 0], lambda t: torch.nonzero(t),
    lambda t: torch.unique(t), lambda t: torch.masked_select(t, t > 0), lambda t: torch.equal(t, t), lambda t: float(t.sum()),
    lambda t: torch.cuda.synchronize(),
], ids=["item", "cpu", "tolist", "numpy", "bool", "to", "nonzero", "mask", "torch.nonzero", "unique", "masked_select", "equal",
        "float", "synchronize"])
def test_the_watch_bites(plant: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to wait, planted where a step is heard, is refused."""
    heard = Recorder.chosen

    def planted(self: Any, ids: Any, done: Any) -> None:
        plant(ids)
        heard(self, ids, done)

    monkeypatch.setattr(Recorder, "chosen", planted)
    model = tiny_model()
    with nothing_waits(), recorded(), pytest.raises(Waited):
        generate(model, "greedy", 2)


@pytest.mark.parametrize("place", ["hear", "keep"])
def test_the_watch_bites_where_attention_is_heard(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the ear of a layer, and where its blocks are computed."""
    owner: Any = LayerEar if place == "hear" else attention_module.AttentionRecorder
    original = getattr(owner, place)

    def planted(self: Any, first: Any, second: Any, *rest: Any) -> Any:
        (second if place == "hear" else second[0]).sum().item()
        return original(self, first, second, *rest)

    monkeypatch.setattr(owner, place, planted)
    model = tiny_model()
    with nothing_waits(), recorded(), pytest.raises(Waited):
        generate(model, "greedy", 40)


def test_the_watch_covers_all_that_is_called_at_a_step() -> None:
    """A new method of the listener is watched too, or it only reports."""
    from cutaway.tap.session import Hearing

    asked = {name for base in Hearing.__mro__ if base.__module__.startswith("cutaway") for name in vars(base) if name[0] != "_"}
    reporting = {"fail", "fail_attention", "give_up_attention", "hears_attention", "hears_tokens", "awaits_pass"}

    assert asked - set(HEARD) == reporting
