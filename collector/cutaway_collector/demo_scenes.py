"""What the demo generates: some twenty small scenes, each a different way a model can be sure, unsure, stuck or wrong.

Not a benchmark: seeds are fixed so that two people see the same thing. Every scene returns its trace id.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import trace as otel

import cutaway


@dataclass(frozen=True, slots=True)
class Stage:
    """The model and its tokenizer."""

    model: Any
    tokenizer: Any

    def chat(self, question: str) -> Any:
        """Chat-template inputs for one question."""
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )

    def answer(self, question: str, **options: Any) -> str:
        """One traced answer: greedy unless the options say otherwise."""
        options = {"max_new_tokens": 48, "do_sample": False, **options}
        inputs = self.chat(question)
        output = self.model.generate(**inputs, **options)
        return str(self.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    def complete(self, text: str, **options: Any) -> str:
        """Raw completion, without a chat template."""
        inputs = self.tokenizer(text, return_tensors="pt")
        return str(self.tokenizer.decode(self.model.generate(**inputs, **options)[0], skip_special_tokens=True))


@dataclass(frozen=True, slots=True)
class Scene:
    """A title for the progress bar, the span name, and what happens inside it."""

    title: str
    name: str
    act: Callable[[Stage], object]

    def play(self, stage: Stage) -> str:
        """Runs the scene in a span of its own; the error scene's exception ends here. Returns the trace id, 32 hex digits."""
        trace_id = ""

        def traced() -> None:
            nonlocal trace_id
            trace_id = format(otel.get_current_span().get_span_context().trace_id, "032x")
            self.act(stage)

        with contextlib.suppress(_Expected):
            cutaway.trace(name=self.name)(traced)()
        return trace_id


class _Expected(Exception):
    """The error the error scenes are about."""


def _seeded(seed: int) -> None:
    import torch

    torch.manual_seed(seed)


def _uncertain(stage: Stage) -> None:
    _seeded(7)
    stage.answer("Invent a colour nobody has seen and describe it.", do_sample=True, temperature=1.4, top_k=0, max_new_tokens=64)


def _hot(stage: Stage) -> None:
    _seeded(11)
    stage.answer("Write one line of nonsense.", do_sample=True, temperature=2.0, top_k=0, max_new_tokens=48)


def _choices(stage: Stage) -> None:
    _seeded(3)
    stage.answer("Name a city.", do_sample=True, temperature=0.9, num_return_sequences=4, max_new_tokens=24)


def _batch(stage: Stage) -> None:
    questions = ["What is 2 + 2?", "Name three primary colours.", "Who wrote Hamlet, and in which century did they live?", "Hi"]
    texts = [
        stage.tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, tokenize=False)
        for q in questions
    ]
    inputs = stage.tokenizer(texts, return_tensors="pt", padding=True)
    stage.model.generate(**inputs, max_new_tokens=40, do_sample=False)


def _stream(stage: Stage) -> None:
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(stage.tokenizer, skip_prompt=True)
    inputs = stage.chat("Tell me about the sea in two sentences.")
    options = {**inputs, "streamer": streamer, "max_new_tokens": 48, "do_sample": False}
    # A new thread starts with an empty context: taking a copy of ours along keeps the generation a child of this span.
    worker = threading.Thread(target=contextvars.copy_context().run, args=(stage.model.generate,), kwargs=options)
    worker.start()
    for _ in streamer:
        pass
    worker.join()


def _pipeline(stage: Stage) -> None:
    from transformers import pipeline

    speak = pipeline("text-generation", model=stage.model, tokenizer=stage.tokenizer)
    speak([{"role": "user", "content": "Give me a title for a book about bees."}], max_new_tokens=24, do_sample=False)


def _retrieval(stage: Stage) -> None:
    with cutaway.span("retrieve", {"retrieval.documents": 2}):
        facts = "The lighthouse was built in 1854. It is 31 metres tall."
    with cutaway.span("answer"):
        stage.answer(f"Context: {facts}\nQuestion: How tall is the lighthouse?")


def _agent(stage: Stage) -> None:
    with cutaway.span("plan"):
        stage.answer("List two steps for making tea.", max_new_tokens=40)
    with cutaway.span("tool.call", {"tool.name": "kettle"}):
        pass
    with cutaway.span("summarise"):
        stage.answer("Summarise: boil water, then steep the leaves.", max_new_tokens=32)


def _async(stage: Stage) -> None:
    @cutaway.trace(name="async handler")
    async def handle() -> str:
        await asyncio.sleep(0)
        return stage.answer("What is the opposite of cold?", max_new_tokens=16)

    asyncio.run(handle())


def _generator(stage: Stage) -> None:
    @cutaway.trace(name="chapters")
    def chapters() -> Iterator[str]:
        for subject in ("rivers", "mountains"):
            yield stage.answer(f"One sentence about {subject}.", max_new_tokens=28)

    list(chapters())


def _out_of_vocabulary(stage: Stage) -> None:
    import torch

    try:
        stage.model.generate(input_ids=torch.tensor([[10**6]]), max_new_tokens=4)
    except IndexError as error:
        raise _Expected("a token id beyond the vocabulary") from error


def _long_context(stage: Stage) -> None:
    boxes = enumerate(("red", "blue", "green", "grey") * 6)
    notes = " ".join(f"Note {number}: the {colour} box is on shelf {number * 3 % 11}." for number, colour in boxes)
    stage.answer(f"{notes}\nOn which shelf is the last red box?", max_new_tokens=32)


SCENES: Final[tuple[Scene, ...]] = (
    Scene("a certain answer", "capital", lambda s: s.answer("What is the capital of France?")),
    Scene("an uncertain answer", "invent", _uncertain),
    Scene("very hot sampling", "nonsense", _hot),
    Scene("a loop", "loop", lambda s: s.complete("the cat sat on the mat. " * 6, max_new_tokens=96, do_sample=False)),
    Scene("a loop, penalised", "loop penalised", lambda s: s.complete(
        "the cat sat on the mat. " * 6, max_new_tokens=64, do_sample=False, repetition_penalty=1.3)),
    Scene("a batch of unequal rows", "batch", _batch),
    Scene("four samples of one prompt", "choices", _choices),
    Scene("a stream", "stream", _stream),
    Scene("a pipeline", "title", _pipeline),
    Scene("arithmetic", "arithmetic", lambda s: s.answer("What is 17 times 23?")),
    Scene("code", "code", lambda s: s.answer("Write a Python function that reverses a string.", max_new_tokens=64)),
    Scene("another language", "translate", lambda s: s.answer("Translate to French: the weather is fine today.")),
    Scene("emoji and accents", "emoji", lambda s: s.complete(
        "Café ☕, naïve, 日本, emoji: 😀 😃", max_new_tokens=32, do_sample=False)),
    Scene("retrieval", "retrieval", _retrieval),
    Scene("an agent of three steps", "agent", _agent),
    Scene("an async handler", "async", _async),
    Scene("a generator function", "book", _generator),
    Scene("a long context", "shelves", _long_context),
    Scene("cut off at the limit", "cut off", lambda s: s.answer("Tell me a long story.", max_new_tokens=12)),
    Scene("an error", "broken request", _out_of_vocabulary),
)
"""In the order they run."""
