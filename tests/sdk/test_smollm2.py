"""The real model: values against a replay, text against the tokenizer, pipelines and streams as programs use them."""

from __future__ import annotations

import contextvars
import json
import threading
from typing import Any

import numpy as np
import pytest
import torch

import cutaway
from cutaway import conventions as c
from cutaway.testing import recorded, series
from sdk_helpers import replay

PROMPTS = ["The capital of France is", "List three colours of autumn leaves, then stop. Colours:"]


@pytest.mark.slow
def test_a_batch_of_unequal_prompts_equals_a_replay(smollm2: Any) -> None:
    """Ids and counts exact; surprisal and entropy within 1e-4 nats; attention entropy per layer within 1e-3 of eager."""
    model, tokenizer = smollm2
    prompt = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    with recorded(attention_layers_max=0) as spans:
        out = model.generate(**prompt, max_new_tokens=36, do_sample=False)
    (span,) = spans.get_finished_spans()
    width = prompt.input_ids.shape[1]

    assert span.attributes[c.USAGE_INPUT_TOKENS] == int(prompt.attention_mask.sum())
    for i in range(2):
        length = span.attributes[c.SEQUENCE_OUTPUT_TOKENS][i]
        truth = replay(model, prompt.input_ids[i], prompt.attention_mask[i], out[i, width:width + length])
        assert series(span, c.TOKEN_ID, i).tolist() == truth.ids.tolist()
        np.testing.assert_allclose(series(span, c.TOKEN_SURPRISAL, i), truth.surprisal, atol=1e-4)
        np.testing.assert_allclose(series(span, c.TOKEN_ENTROPY, i), truth.entropy, atol=1e-4)
        np.testing.assert_allclose(series(span, c.ATTENTION_ENTROPY, i), truth.attention.mean(-1), atol=1e-3)
        assert set(tokenizer.all_special_ids) & set(truth.ids[:-1].tolist()) == set()


@pytest.mark.slow
def test_sampling_is_bit_identical(smollm2: Any) -> None:
    """Under one seed the sampled ids are the same with and without instrumentation."""
    model, tokenizer = smollm2
    prompt = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.9, "top_p": 0.95}
    torch.manual_seed(7)
    bare = model.generate(**prompt, **options)
    torch.manual_seed(7)
    with recorded():
        heard = model.generate(**prompt, **options)

    assert torch.equal(bare, heard)


def test_a_batch_of_chats_is_a_chat_span_with_the_messages_of_every_row(smollm2: Any) -> None:
    """A pipeline with `batch_size` makes one `chat` span of several conversations; all their messages are on it."""
    from transformers import pipeline

    model, tokenizer = smollm2
    talk = pipeline("text-generation", model=model, tokenizer=tokenizer)
    chats = [[{"role": "user", "content": text}] for text in ("Say hi.", "Name a colour.")]
    with recorded(capture="text") as spans:
        talk(chats, batch_size=2, max_new_tokens=3, do_sample=False)
    (span,) = spans.get_finished_spans()

    assert span.attributes[c.OPERATION_NAME] == "chat"
    asked = [message["parts"][0]["content"] for message in json.loads(span.attributes[c.INPUT_MESSAGES])]
    assert asked == ["Say hi.", "Name a colour."]


def test_a_chat_pipeline_is_a_chat_span_with_its_messages(smollm2: Any) -> None:
    """pipeline("text-generation") with messages: a `chat` span, the conversation, the answer, its own tokenizer."""
    from transformers import pipeline

    model, tokenizer = smollm2
    talk = pipeline("text-generation", model=model, tokenizer=tokenizer)
    messages = [{"role": "user", "content": "Say hello."}]
    with recorded(capture="text") as spans:
        answer = talk(messages, max_new_tokens=8, do_sample=False)[0]["generated_text"][-1]["content"]
    (span,) = spans.get_finished_spans()

    assert span.name == "chat SmolLM2-135M-Instruct"
    assert span.attributes[c.OPERATION_NAME] == "chat"
    assert json.loads(span.attributes[c.INPUT_MESSAGES]) == [{"role": "user", "parts": [{"type": "text", "content": "Say hello."}]}]
    (message,) = json.loads(span.attributes[c.OUTPUT_MESSAGES])
    assert message["parts"] == [{"type": "text", "content": answer}]
    assert message["finish_reason"] == span.attributes[c.RESPONSE_FINISH_REASONS][0]
    assert "".join(span.attributes[c.TOKEN_TEXT]) == answer


def test_a_stream_read_in_another_thread(smollm2: Any) -> None:
    """TextIteratorStreamer as documented: the text is whole; with the context carried over the span is a child of the caller's."""
    from transformers import TextIteratorStreamer

    model, tokenizer = smollm2
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    with recorded(capture="text") as spans:
        with cutaway.span("request") as request:
            prompt = tokenizer(PROMPTS[0], return_tensors="pt")
            arguments = {**prompt, "max_new_tokens": 6, "do_sample": False, "streamer": streamer}
            thread = threading.Thread(target=contextvars.copy_context().run, args=(model.generate,), kwargs=arguments)
            thread.start()
            text = "".join(streamer)
            thread.join()
        parent = request.get_span_context().span_id
    generated = next(span for span in spans.get_finished_spans() if c.OPERATION_NAME in span.attributes)

    assert generated.parent.span_id == parent
    assert "".join(generated.attributes[c.TOKEN_TEXT]) == text
    assert generated.attributes[c.REQUEST_STREAM] is True


@pytest.mark.slow
def test_a_stop_string_is_the_reason_stop(smollm2: Any) -> None:
    """`stop_strings`: the sequence ends with it, the reason is `stop`, also where it falls on the last allowed token."""
    model, tokenizer = smollm2
    prompt = tokenizer("1 2 3 4 5 6", return_tensors="pt")
    with recorded() as spans:
        out = model.generate(**prompt, max_new_tokens=30, do_sample=False, stop_strings=["9"], tokenizer=tokenizer)
        length = out.shape[1] - prompt.input_ids.shape[1]
        model.generate(**prompt, max_new_tokens=length, do_sample=False, stop_strings=["9"], tokenizer=tokenizer)
    first, last = spans.get_finished_spans()

    assert length < 30
    assert first.attributes[c.REQUEST_STOP_SEQUENCES] == ("9",)
    assert first.attributes[c.USAGE_OUTPUT_TOKENS] == last.attributes[c.USAGE_OUTPUT_TOKENS] == length
    assert first.attributes[c.RESPONSE_FINISH_REASONS] == last.attributes[c.RESPONSE_FINISH_REASONS] == ("stop",)


@pytest.mark.parametrize("text", ["naïve 🦊漢字 👩‍👩‍👧 ok", "plain words", "ends inside 🦊"])
def test_pieces_join_to_the_answer(smollm2: Any, text: str) -> None:
    """Characters that span several tokens, joined emoji, and an answer cut inside a character: pieces join to the decoded text."""
    from cutaway import content

    _, tokenizer = smollm2
    ids = tokenizer(text).input_ids
    for length in range(len(ids) + 1):
        pieces = content.pieces(tokenizer, ids[:length])
        assert len(pieces) == length
        assert "".join(pieces) == tokenizer.decode(ids[:length], skip_special_tokens=True)
