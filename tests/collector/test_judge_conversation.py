"""Spans as texts: which answer belongs to which prompt, in every dialect, and what is a system prompt."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway_collector import decode
from cutaway_collector.judging.conversation import SEQUENCES_MAX, Said, sequences
from cutaway_collector.messages import ATTRIBUTES, messages
from decode_helpers import rows

FOLDER = Path(__file__).parents[1] / "dialects"
TALKING = ("openinference", "openllmetry", "openllmetry_old", "opentelemetry_latest")


def message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def span(asked: list[tuple[str, str]], answers: list[str], **attributes: str) -> dict[str, str]:
    return {"gen_ai.input.messages": json.dumps([message(*each) for each in asked]),
            "gen_ai.output.messages": json.dumps([message("assistant", answer) for answer in answers]), **attributes}


@pytest.mark.parametrize("tool", TALKING)
def test_every_dialect_is_read_by_its_names(tool: str) -> None:
    """The names that are fetched are all that the reader needs: the rest of a recorded span changes nothing."""
    payload = json.dumps(json.loads(FOLDER.joinpath(f"{tool}.json").read_text())["request"]).encode()
    spoken = 0
    for row in rows(decode.decode_json(payload, received_ns=time.time_ns()).spans):
        attributes = {key.decode(): value.decode() for key, value in row["SpanAttributes"]}
        kept = {name: value for name, value in attributes.items() if re.search(ATTRIBUTES, name)}
        assert messages(kept) == messages(attributes)
        assert len(kept) < len(attributes)
        spoken += "The duck does." in {said.answer for said in sequences(kept)}
    assert spoken > 0


def test_a_conversation() -> None:
    """The prompt is the last question with what tools said to it; instructions are the system prompt; each choice is a sequence."""
    asked = [("system", "Be brief."),("developer", "No jokes."), ("user", "first"), ("assistant", "earlier answer"), ("user",
                                                                                                                       "second"),
             ("assistant", "look_up({})"), ("tool", "a result")]
    found = sequences(span(asked, ["one", "two"]))
    assert found == [Said(0, "second\na result", "one", "", "Be brief.\nNo jokes."), Said(1, "second\na result", "two", "",
                                                                                          "Be brief.\nNo jokes.")]


def test_a_batch() -> None:
    """Rows of a batch are messages of a user each; the answers to one stand together."""
    found = sequences(span([("user", "p"), ("user", "q")], ["p1", "p2", "q1", "q2"]))
    assert [(said.sequence, said.prompt, said.answer) for said in found] == [
        (0, "p", "p1"), (1, "p", "p2"), (2, "q", "q1"), (3, "q", "q2")]


def test_two_questions_and_one_answer_are_no_batch() -> None:
    """An answer that cannot belong to each of them answers the last."""
    assert [said.prompt for said in sequences(span([("user", "p"), ("user", "q")], ["a"]))] == ["q"]


TEMPLATES = {
    "ChatML": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n",
    "Llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
               "<|end_header_id|>\n\nHi?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "Zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nHi?</s>\n<|assistant|>\n",
    "Phi": "<|system|>Be brief.<|end|><|user|>Hi?<|end|><|assistant|>",
    "Llama 2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi? [/INST]",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_chat_templates_are_taken_apart(template: str) -> None:
    """A prompt as the model's own template spells it gives system prompt and question."""
    (said,) = sequences(span([("user", TEMPLATES[template])], ["Hello."]))
    assert (said.system, said.prompt, said.answer) == ("Be brief.", "Hi?", "Hello.")


def test_templates_without_a_system_prompt() -> None:
    """Gemma and Mistral have none; earlier turns do not belong to the prompt."""
    gemma = ("<bos><start_of_turn>user\nfirst<end_of_turn>\n<start_of_turn>model\nyes<end_of_turn>\n"
             "<start_of_turn>user\nHi?<end_of_turn>\n<start_of_turn>model\n")
    assert [(said.system, said.prompt) for said in sequences(span([("user", gemma)], ["a"]))] == [("", "Hi?")]
    mistral = "<s>[INST] first [/INST] yes</s>[INST] Hi? [/INST]"
    assert [(said.system, said.prompt) for said in sequences(span([("user", mistral)], ["a"]))] == [("", "Hi?")]


@pytest.mark.parametrize(("attribute", "references"), [
    ("right", ["right", "right"]), ('["one", "two"]', ["one", "two"]), ('["one"]', ["one", ""]), ("[1, 2]", ["[1, 2]"] * 2),
    ("[unfinished", ["[unfinished"] * 2), ("", ["", ""]),
])
def test_references(attribute: str, references: list[str]) -> None:
    """One text for all sequences, or a JSON list of one each; what is no such list is a text."""
    given_ = span([("user", "q")], ["a", "b"], **{"cutaway.reference.text": attribute})
    assert [said.reference for said in sequences(given_)] == references


def test_prompts_without_an_answer_and_spans_without_text() -> None:
    """A prompt alone is judged as a prompt; nothing is made of nothing; answers are bounded."""
    assert sequences({"gen_ai.input.messages": json.dumps([message("user", "q")])}) == [Said(0, "q", "", "", "")]
    assert sequences({}) == []
    assert len(sequences(span([("user", "q")], ["a"] * 500))) <= SEQUENCES_MAX


@given(st.dictionaries(st.sampled_from(["gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.prompt", "input.value",
                                        "cutaway.reference.text", "llm.output_messages.0.message.content"]),
                       st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)
                                                | st.dictionaries(st.sampled_from(["role", "parts", "content", "text", "x"]),
                                                                  inner),
                                                max_leaves=8).map(json.dumps)))
def test_whatever_is_sent_is_read(attributes: dict[str, str]) -> None:
    """Any JSON in any place gives texts, numbered from 0, and no exception."""
    found = sequences(attributes)
    assert [said.sequence for said in found] == list(range(len(found)))
    assert all(isinstance(text, str) for said in found for text in said[1:])
