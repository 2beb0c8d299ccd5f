"""A fault of ours at every place where generating touches us: the host never sees it, the span ends and says so, once."""

from __future__ import annotations

import ast
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import cutaway
from cutaway import configuration, generation, steps
from cutaway import conventions as c
from cutaway.record.recorder import Recorder
from cutaway.tap import session
from cutaway.testing import TickClock, recorded, tiny_model
from sdk_helpers import batch


class Planted(Exception):
    """The fault."""


class Letters:
    """A tokenizer: every id is one letter."""

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return "".join(chr(97 + int(i) % 26) for i in ids)


def broken(*given: Any, **named: Any) -> Any:
    raise Planted


BEAMS = {"num_beams": 2, "do_sample": False}
DRAFTS = {"prompt_lookup_num_tokens": 2, "do_sample": False, "repetition_penalty": 1.0}
EVERYTHING = {"attention": "full", "alternatives": 2, "attention_sources": 2}
TEXT = {"capture": "text", "tokenizer": Letters(), "redact": lambda attribute, text: text}
PROMPT = {"prompt_surprisal": True}
RECORDED, ERROR, OFF = c.STATUS_RECORDED, c.STATUS_ERROR, ""
"""OFF: no span at all."""


@dataclass(frozen=True)
class Fault:
    """`where`: module, or module:Class; what the span then says of tokens and attention, and whether it names the fault."""

    where: str
    name: str
    tokens: str = ERROR
    attention: str = ERROR
    told: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    configured: dict[str, Any] = field(default_factory=dict)

    @property
    def owner(self) -> Any:
        module, _, kind = self.where.partition(":")
        found = importlib.import_module(f"cutaway.{module}")
        return getattr(found, kind) if kind else found


RECORDER, ATTENTION, TOKENS = "record.recorder:Recorder", "record.attention:AttentionRecorder", "record.tokens:TokenRecorder"

FAULTS = [
    *(Fault(RECORDER, name) for name in (
        "prepared", "stop_strings", "logits", "processed", "chosen", "hears_tokens", "hears_attention", "stop", "collect", "count",
    )),
    *(Fault(RECORDER, name, RECORDED) for name in ("ear",)),
    Fault(RECORDER, "awaits_pass", options=DRAFTS),
    Fault(RECORDER, "held_bytes", RECORDED, RECORDED, told=False),
    Fault("record.attention:LayerEar", "hear", RECORDED),
    *(Fault(ATTENTION, name) for name in ("stepped", "stop", "keep", "block_sight")),
    Fault(ATTENTION, "held_bytes", RECORDED, RECORDED, told=False),
    *(Fault(TOKENS, name) for name in ("hear", "settle", "stop", "collect")),
    *(Fault("record.beams:Beams", name, options=BEAMS) for name in ("choose", "paths")),
    *(Fault("record.answers", name) for name in ("generated_ids", "lengths_and_reasons", "input_tokens", "joined", "followed")),
    *(Fault("measure", name) for name in ("token_moments", "signals_of", "scratch_rows", "sampled_surprisal", "attention_signals")),
    Fault("measure", "alternatives", configured=EVERYTHING),
    Fault("measure", "attention_sources", configured=EVERYTHING),
    *(Fault("record", name) for name in ("Recorder", "Options", "clock_for")),
    *(Fault("tap", name) for name in ("devices_of", "sequences_of")),
    Fault("tap", "call_of", OFF),
    Fault("tap.patches", "prepared_by"),
    *(Fault("machine:Machine", name, *said) for name, said in {"begin": (), "attributes": (RECORDED, RECORDED)}.items()),
    Fault("configuration", "tracer", OFF),
    Fault("configuration", "redact"),
    Fault("configuration", "instruments", RECORDED, RECORDED, told=False),
    Fault("metrics:Instruments", "record", RECORDED, RECORDED, told=False),
    Fault("worker:Worker", "submit", RECORDED, RECORDED, told=False),
    *(Fault("encode", name) for name in ("request_attributes", "answer_attributes", "series_attributes", "arranged", "pack")),
    Fault("dialect", "translated"),
    *(Fault("sequences", name, RECORDED, RECORDED) for name in ("attributes", "middle_third", "prompt_attributes")),
    Fault("evaluations", "events", RECORDED, RECORDED),
    *(Fault("words", name, RECORDED, RECORDED, configured=TEXT) for name in ("read", "show", "send")),
    *(Fault("content", name, RECORDED, RECORDED, configured=TEXT) for name in ("decode", "pieces", "prompts")),
    *(Fault("prompt", name, RECORDED, RECORDED, configured=PROMPT) for name in ("measure", "collect")),
    *(Fault("tap", name, RECORDED, RECORDED, configured=PROMPT) for name in ("more_than_ids", "fresh_cache")),
]

EXEMPT = {
    "configuration.settings": "also asked by whoever configures; it fails only with the environment, which test_settings covers",
    "configuration.clock": "returns what configure stored",
    "configuration.scope": "a ContextVar",
    "configuration.finisher": "the worker itself, see worker:Worker",
    "configuration.tokenizer": "returns what was stored",
    "words.NO_TOKENIZER": "a text", "words.Words": "a bare dataclass", "prompt.Prompted": "a bare dataclass",
    "tap.prepared_from": "asked only where nothing was prepared: test_a_call_that_was_never_prepared",
    "tap.BATCHES": "a text", "record.BatchRecorder": "continuous batching has a suite of its own",
    "measure.sampled_surprisal": "planted as a function of measure",
    "fail": "reports a fault and only assigns: test_a_fault_in_the_report_of_a_fault",
    "fail_attention": "reports a fault: test_a_fault_in_the_report_of_a_fault",
    "give_up_attention": "only assigns; asked for by the tap where attention is not exact",
}


def run(model: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Returned ids and the random state afterwards."""
    ids, mask = batch(1 if "prompt_lookup_num_tokens" in options else 2)
    torch.manual_seed(3)
    decoding = {"do_sample": True, "repetition_penalty": 1.2, "max_new_tokens": 5, "min_new_tokens": 5, **options}
    return model.generate(ids, attention_mask=mask, **decoding), torch.random.get_rng_state()


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.where}.{fault.name}")
def test_a_fault_never_reaches_the_host(
    fault: Fault, monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The ids and the random state are those of the bare call; one line is logged; the span ends and says what it lacks and why;
    the next call without the fault is as if there had been none."""
    model = tiny_model()
    bare, random_after = run(model, fault.options)
    unguarded()
    with recorded(**fault.configured) as spans:
        with monkeypatch.context() as patch:
            is_property = isinstance(getattr(fault.owner, fault.name), property)
            patch.setattr(fault.owner, fault.name, property(broken) if is_property else broken)
            out, random_now = run(model, fault.options)
            found = spans.get_finished_spans()
        assert torch.equal(out, bare)
        assert torch.equal(random_now, random_after)
        assert len(complaints(caplog)) == 1, complaints(caplog)
        assert len(found) == (fault.tokens != OFF)
        for span in found:
            said = span.attributes
            assert (said.get(c.TOKENS_STATUS), said.get(c.ATTENTION_STATUS)) == (fault.tokens, fault.attention)
            assert ("a fault in cutaway (Planted)" in said.get(c.STATUS_REASON, "")) is fault.told
        run(model, fault.options)
        clean = spans.get_finished_spans()[-1]
    assert clean.attributes[c.TOKENS_STATUS] == clean.attributes[c.ATTENTION_STATUS] == RECORDED
    assert "fault" not in clean.attributes.get(c.STATUS_REASON, "")
    assert len(complaints(caplog)) == 1


def test_every_hook_of_a_listener_has_a_fault() -> None:
    """Whoever adds a method that the tap calls, a measure or a clock's method adds a fault here."""
    planted = {(fault.where, fault.name) for fault in FAULTS}

    def names(kind: Any) -> set[str]:
        return {name for base in kind.__mro__ if base.__module__.startswith("cutaway") for name in vars(base) if name[0] != "_"}

    of_listener = names(session.Hearing) | {name for name in vars(Recorder) if name[0] != "_"}
    assert {name for name in of_listener if (RECORDER, name) not in planted} - set(EXEMPT) == set()
    assert {name for name in names(steps.Measures) if ("measure", name) not in planted} == set()
    assert {name for name in names(steps.Ear) if ("record.attention:LayerEar", name) not in planted} == set()
    assert names(steps.Clock) == set(CLOCK_FAULTS)


def test_every_stage_of_the_flow_has_a_fault() -> None:
    """Whatever generation.py asks of another module is broken once, or is exempt for a reason."""
    modules = {"configuration", "dialect", "encode", "evaluations", "sequences", "words", "tap", "record", "measure", "prompt"}
    asked = {
        f"{node.value.id}.{node.attr}" for node in ast.walk(ast.parse(Path(generation.__file__).read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    planted = {f"{fault.where}.{fault.name}" for fault in FAULTS}

    assert len(asked) > 15
    assert asked - planted - set(EXEMPT) == set()


CLOCK_FAULTS = ("mark", "seconds")


@pytest.mark.parametrize("name", CLOCK_FAULTS)
def test_a_clock_that_fails(
    name: str, monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """No time is told, the ids are the host's, and there is one line."""
    model = tiny_model()
    bare, _ = run(model, {})
    unguarded()
    monkeypatch.setattr(TickClock, name, broken)
    with recorded(clock=lambda device: TickClock()) as spans:
        out, _ = run(model, {})
        (span,) = spans.get_finished_spans()

    assert torch.equal(out, bare)
    assert span.attributes[c.TOKENS_STATUS] == span.attributes[c.ATTENTION_STATUS] == ERROR
    assert c.TIME_TO_FIRST_TOKEN not in span.attributes
    assert len(complaints(caplog)) == 1


def test_a_fault_in_the_report_of_a_fault(
    monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Hearing fails, and so does saying so: the host sees neither."""
    model = tiny_model()
    bare, _ = run(model, {})
    unguarded()
    for name in ("logits", "ear", "fail", "fail_attention"):
        monkeypatch.setattr(Recorder, name, broken)
    with recorded() as spans:
        out, _ = run(model, {})
        (span,) = spans.get_finished_spans()

    assert torch.equal(out, bare)
    assert c.TOKEN_SURPRISAL not in span.attributes
    assert complaints(caplog)


def test_a_call_that_was_never_prepared(
    monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Only the arguments tell of it, and reading them fails too: the host's exception passes, the span ends with both."""
    model, (ids, mask) = tiny_model(), batch(1)
    unguarded()
    monkeypatch.setattr("cutaway.tap.prepared_from", broken)

    class Gone:
        def put(self, value: Any) -> None:
            raise KeyError("the program's own")

        def end(self) -> None: ...

    with recorded() as spans:
        monkeypatch.setattr("cutaway.tap.patches.prepared_by", broken)
        with pytest.raises(KeyError, match="own"):
            model.generate(ids, attention_mask=mask, max_new_tokens=2, streamer=Gone())
        (span,) = spans.get_finished_spans()

    assert span.attributes[c.TOKENS_STATUS] == ERROR
    assert span.attributes[c.ERROR_TYPE] == "KeyError"
    assert complaints(caplog)


class _Processor(SpanProcessor):
    """A processor of the host's that fails at one place."""

    def __init__(self, place: str) -> None:
        setattr(self, place, broken)


@pytest.mark.parametrize("place", ["on_start", "on_end"])
@pytest.mark.parametrize("full", [False, True], ids=["handed over", "at once"])
def test_a_span_processor_that_fails(
    place: str, full: bool, monkeypatch: pytest.MonkeyPatch, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Of the host's own provider, on the finishing thread and on the host's: generations go on, one line."""
    model = tiny_model()
    bare, _ = run(model, {})
    provider = TracerProvider()
    provider.add_span_processor(_Processor(place))
    if full:
        monkeypatch.setattr(configuration.finisher, "submit", lambda job, size: False)
    unguarded()
    with recorded(tracer_provider=provider):
        out, _ = run(model, {})
        run(model, {})
        assert configuration.finisher.drain(30)

    assert torch.equal(out, bare)
    assert len(complaints(caplog)) == 1


class _Exporter(SpanExporter):
    """An exporter that fails at one place."""

    def __init__(self, place: str) -> None:
        setattr(self, place, broken)

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@pytest.mark.parametrize("place", ["export", "shutdown"])
def test_an_exporter_that_fails(place: str, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    """Ours to contain: one line, and generations go on."""
    model = tiny_model()
    bare, _ = run(model, {})
    unguarded()
    cutaway.configure(exporter=_Exporter(place), delay_ms=0, flush_seconds_max=5)
    cutaway.instrument()
    try:
        outs = [run(model, {})[0] for _ in range(2)]
        cutaway.flush()
    finally:
        cutaway.uninstrument()
        cutaway.shutdown()

    assert all(torch.equal(out, bare) for out in outs)
    assert len(complaints(caplog)) == 1


@pytest.mark.parametrize(("name", "options"), [("tokenizer", {"tokenizer": object()}), ("redact", {"redact": broken})])
def test_what_the_host_gave_fails(
    name: str, options: dict[str, Any], unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A tokenizer that cannot decode, a redaction hook that raises: numbers are recorded, no text leaves, the span says why."""
    model = tiny_model()
    bare, _ = run(model, {})
    unguarded()
    with recorded(**{**TEXT, **options}) as spans:
        out, _ = run(model, {})
        (span,) = spans.get_finished_spans()

    assert torch.equal(out, bare)
    assert span.attributes[c.TOKENS_STATUS] == span.attributes[c.ATTENTION_STATUS] == RECORDED
    assert c.TOKEN_TEXT not in span.attributes
    assert span.attributes[c.STATUS_REASON]
    assert len(complaints(caplog)) == 1


@pytest.mark.parametrize("name", ["set_attributes", "add_event", "end"])
def test_a_span_that_fails(name: str, unguarded: Callable[[], None], caplog: pytest.LogCaptureFixture) -> None:
    """A provider with spans of its own kind: whatever they refuse, the host's ids come back."""
    from opentelemetry.sdk.trace import Span

    model = tiny_model()
    bare, _ = run(model, {})
    unguarded()
    with recorded(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Span, name, broken)
        out, _ = run(model, {})
        assert configuration.finisher.drain(30)

    assert torch.equal(out, bare)
    assert len(complaints(caplog)) == 1


def test_the_helpers_would_notice() -> None:
    """Without containment the planted fault does reach the host: the checks above are not empty."""
    with recorded(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "chosen", broken)
        with pytest.raises(Planted):
            run(tiny_model(), {})


