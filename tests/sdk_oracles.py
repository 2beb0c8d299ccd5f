"""Oracles for every token and attention signal, from whole logits and whole attention matrices in float64, by code of their own.

Two sources: one teacher-forced pass over a finished sequence, and the same `generate` again under the eager kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cutaway import conventions as c
from cutaway.testing import recorded, series

HEADS = ".heads"
SIGNALS = (
    c.ATTENTION_ENTROPY, c.ATTENTION_NORMALIZED_ENTROPY, c.ATTENTION_SINK, c.ATTENTION_LAST_KEY, c.ATTENTION_LOOKBACK,
)
TOKENS_ATOL = 2e-4
LAYERS_ATOL = 2e-4
HEADS_ATOL = {c.ATTENTION_ENTROPY: 3e-3}
"""Series for every head travel as float16: 5e-4 of values up to 1, 2e-3 of entropies up to 4."""

Truth = dict[str, Any]
"""Series of one sequence by attribute name: [token], [token, layer] or [token, layer, head]."""


# --- Formulas ------------------------------------------------------------------------------------------------------------

def token_truth(logits: Any, answer: Any) -> Truth:
    """Logits [token, vocabulary], answer [token]."""
    rows = logits.double()
    p = rows.softmax(-1)
    each = torch.distributions.Categorical(logits=rows)
    surprisal = torch.nn.functional.cross_entropy(rows, answer, reduction="none")
    information = torch.where(p > 0, -p.log(), 0.0)
    ordered = rows.sort(-1, descending=True).values
    return {
        c.TOKEN_SURPRISAL: surprisal.numpy(), c.TOKEN_ENTROPY: each.entropy().numpy(),
        c.TOKEN_VARENTROPY: (p * (information - each.entropy()[:, None]) ** 2).sum(-1).numpy(),
        c.TOKEN_MARGIN: (ordered[:, 0] - ordered[:, 1]).numpy(),
        c.TOKEN_RANK: (rows > rows.gather(-1, answer[:, None])).sum(-1).numpy(),
        c.TOKEN_MIN_P_MASS: torch.where(p >= 0.1 * p.amax(-1, keepdim=True), p, 0.0).sum(-1).numpy(),
    }


def rows_truth(weights: Any, visible: Any, prompt: Any, learned_sink: bool = False) -> Any:
    """The five signals of attention rows: weights [head, query, key] float64, visible bool [query, key], prompt bool [key].

    Returns [signal, query, head]. A row's masses are those of the kernel; its entropy is over the real keys alone.
    """
    real = torch.where(visible, weights, 0.0)
    total, count = real.sum(-1), visible.sum(-1)
    entropy = torch.special.entr(real / total[..., None]).sum(-1)
    normalized = torch.where(count > 1, entropy / count.double().log(), 0.0)
    places = [row.nonzero()[:, 0] for row in visible]
    queries = torch.arange(len(places))
    first, last = (real[:, queries, torch.stack([place[end] for place in places])] for end in (0, -1))
    old_count, new_count = (visible & prompt).sum(-1), (visible & ~prompt).sum(-1)
    old = torch.where(old_count > 0, (real * prompt).sum(-1) / old_count, 0.0)
    new = torch.where(new_count > 0, (real * ~prompt).sum(-1) / new_count, 0.0)
    sink = 1.0 - total if learned_sink else first
    return torch.stack((entropy, normalized, sink, last, old / (old + new))).transpose(1, 2).numpy()


def attention_truth(by_layer: list[Any]) -> Truth:
    """by_layer: of each layer [signal, token, head] -> series of layers and of heads."""
    whole = np.stack(by_layer, axis=2)  # [signal, token, layer, head]
    found: Truth = {}
    for i, name in enumerate(SIGNALS):
        found[name], found[name + HEADS] = whole[i].mean(-1), whole[i]
    return found


# --- What a query may see ------------------------------------------------------------------------------------------------

def text_config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)


def reach(model: Any, layer: int) -> Callable[[Any, Any], Any]:
    """(query positions, key positions) -> bool, for a layer of the model: causal, sliding or chunked, from its configuration."""
    config = text_config(model)
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    kind = kinds[layer] if kinds else "sliding_attention" if window else "full_attention"
    if kind == "sliding_attention":
        return lambda query, key: (key <= query) & (query - key < window)
    if kind == "chunked_attention":
        return lambda query, key: (key <= query) & (key // config.attention_chunk_size == query // config.attention_chunk_size)
    return lambda query, key: key <= query


# --- One teacher-forced pass ---------------------------------------------------------------------------------------------

@contextmanager
def eager(model: Any) -> Iterator[None]:
    """The model under its eager kernel, which returns its weights."""
    used = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(used)


@torch.no_grad()
def forced(
    model: Any, prompt: Any, mask: Any, answer: Any, layers: list[int] | None = None, attention: bool = True, **extra: Any
) -> Truth:
    """A decoder-only model run once over one finished sequence without its padding. prompt, mask, answer: 1-D tensors.

    layers: which layers attend, when not all of them; extra: further inputs of the model (images).
    """
    kept = prompt[mask.bool()]
    ids = torch.cat([kept, answer])[None]
    if attention:
        with eager(model):
            out = model(ids, output_attentions=True, **extra)
    else:
        out = model(ids, **extra)
    rows = slice(len(kept) - 1, len(kept) - 1 + len(answer))
    found = token_truth(out.logits[0, rows], answer)
    if not attention:
        return found
    places = torch.arange(ids.shape[1])
    sink = getattr(model.config, "model_type", "") == "gpt_oss"
    weights = [each for each in out.attentions if each is not None]
    used = layers if layers is not None else list(range(len(weights)))
    assert len(used) == len(weights)
    by_layer = []
    for layer, each in zip(used, weights, strict=True):
        visible = reach(model, layer)(places[rows, None], places[None])
        by_layer.append(rows_truth(each[0, :, rows].double(), visible, places < len(kept), sink))
    return found | attention_truth(by_layer)


@torch.no_grad()
def forced_pair(model: Any, prompt: Any, mask: Any, answer: Any) -> Truth:
    """An encoder-decoder model run once: self-attention signals, and the entropy of cross-attention over the real prompt.

    The padding stays: an encoder may count positions from it.
    """
    start = torch.tensor([model.generation_config.decoder_start_token_id])
    fed = torch.cat([start, answer[:-1]])[None]
    with eager(model):
        out = model(input_ids=prompt[None], attention_mask=mask[None], decoder_input_ids=fed, output_attentions=True)
    found = token_truth(out.logits[0], answer)
    places = torch.arange(fed.shape[1])
    causal = places[None] <= places[:, None]
    found |= attention_truth([rows_truth(each[0].double(), causal, places < 1) for each in out.decoder_attentions])
    cross = np.stack([torch.special.entr(each[0].double()).sum(-1).T.numpy() for each in out.cross_attentions], axis=1)
    return found | {c.CROSS_ATTENTION_ENTROPY: cross.mean(-1), c.CROSS_ATTENTION_ENTROPY_HEADS: cross}


# --- The same generation again -------------------------------------------------------------------------------------------

def regenerated(model: Any, ids: Any, mask: Any, **options: Any) -> tuple[Any, list[Truth]]:
    """`generate` without cutaway under the eager kernel: its ids, and every row's values from the logits and matrices it returns.

    Values go on after a row has ended; compare as many as it has tokens. The sampled surprisal comes from the processed scores.
    """
    with eager(model):
        out = model.generate(
            ids, attention_mask=mask, return_dict_in_generate=True, output_logits=True, output_scores=True, output_attentions=True,
            **options,
        )
    rows, prompt = out.sequences.shape[0], ids.shape[1]
    each = rows // ids.shape[0]
    truths = []
    for row in range(rows):
        answer = out.sequences[row, prompt:]
        found = token_truth(torch.stack([step[row] for step in out.logits]), answer)
        scores = torch.stack([step[row] for step in out.scores]).double().log_softmax(-1)
        found[c.TOKEN_SAMPLED_SURPRISAL] = -scores.gather(-1, answer[:, None])[:, 0].numpy()
        seen = torch.cat([mask[row // each].bool(), torch.ones(len(answer), dtype=torch.bool)])
        truths.append(found | attention_truth([
            np.concatenate(
                [_step(model, layer, step[layer][row], seen, prompt, t) for t, step in enumerate(out.attentions)], axis=1
            ) for layer in range(len(out.attentions[0]))
        ]))
    return out.sequences, truths


def _step(model: Any, layer: int, weights: Any, seen: Any, prompt: int, step: int) -> Any:
    """Weights [head, query, key] of one layer and one step of one row -> [signal, 1, head]."""
    here = prompt + step - 1  # the position whose query predicts this token
    width = weights.shape[-1]
    places = torch.arange(width) + max(0, here + 1 - width)  # a window that slid holds the newest keys
    real = torch.zeros(width, dtype=torch.bool)
    real[places <= here] = seen[places[places <= here]]
    visible = real & reach(model, layer)(torch.tensor(here), places)
    sink = getattr(model.config, "model_type", "") == "gpt_oss"
    return rows_truth(weights[:, -1:].double(), visible[None], places < prompt, sink)


# --- Comparing -----------------------------------------------------------------------------------------------------------

def compare(span: Any, sequence: int, truth: Truth, errors: dict[str, float]) -> None:
    """Every series of the truth, of one sequence of the span; the largest error of each name goes into `errors`."""
    for name, wanted in truth.items():
        got = np.asarray(series(span, name, sequence), dtype=np.float64)
        wanted = np.asarray(wanted, dtype=np.float64)[:len(got)]
        assert got.shape == wanted.shape, name
        if name.endswith(HEADS):
            atol = HEADS_ATOL.get(name.removesuffix(HEADS), 1e-3)
        else:
            atol = 0.0 if name == c.TOKEN_RANK else LAYERS_ATOL if got.ndim > 1 else TOKENS_ATOL
        np.testing.assert_allclose(got, wanted, atol=atol, rtol=1e-4, err_msg=name)
        if got.size:
            errors[name] = max(errors.get(name, 0.0), float(np.abs(got - wanted).max()))


def check(
    model: Any, span: Any, out: Any, ids: Any, mask: Any, attention: bool = True, layers: list[int] | None = None, **extra: Any
) -> dict[str, float]:
    """Every sequence of the span against a teacher-forced pass of its own; the largest errors by name.

    Ids, lengths and statuses too: what was returned must be what was recorded.
    """
    sequences = out if isinstance(out, torch.Tensor) else out.sequences
    copies = sequences.shape[0] // ids.shape[0]
    pair = model.config.is_encoder_decoder
    prompt = 1 if pair else ids.shape[1]
    errors: dict[str, float] = {}
    wanted = ("recorded", "recorded" if attention else span.attributes[c.ATTENTION_STATUS])
    assert statuses(span) == wanted, span.attributes.get(c.STATUS_REASON)
    for i in range(sequences.shape[0]):
        length = span.attributes[c.SEQUENCE_OUTPUT_TOKENS][i]
        answer = sequences[i, prompt:prompt + length]
        assert series(span, c.TOKEN_ID, i).tolist() == answer.tolist()
        of_row = (model, ids[i // copies], mask[i // copies], answer)
        compare(span, i, forced_pair(*of_row) if pair else forced(*of_row, layers, attention, **extra), errors)
    return errors


def statuses(span: Any) -> tuple[str, str]:
    return span.attributes[c.TOKENS_STATUS], span.attributes[c.ATTENTION_STATUS]


# --- With and without ----------------------------------------------------------------------------------------------------

@dataclass
class Both:
    """A call without cutaway and the same call with it."""

    bare: Any
    out: Any
    span: Any

    @property
    def sequences(self) -> Any:
        return self.out if isinstance(self.out, torch.Tensor) else self.out.sequences


def marks(model: Any) -> list[Any]:
    """Everything an instrument might leave on a model: hooks and attributes of every module, and how it attends."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found: list[Any] = [getattr(model.config, "_attn_implementation", None)]
    for name, module in model.named_modules():
        values = vars(module)
        found.append((name, sorted(values), [len(values.get(hook, ())) for hook in hooks], type(module).forward))
    return found


def random_states() -> list[Any]:
    """Of the CPU and of every GPU."""
    return [torch.random.get_rng_state(), *torch.cuda.get_rng_state_all()]


def both(model: Any, call: Callable[[], Any], seed: int = 3, **options: Any) -> Both:
    """Runs `call` bare and recorded under one seed, and requires that nothing tells them apart: ids, scores and logits bit for bit,
    the random state afterwards, and what is on the model. `options` go to `cutaway.configure`."""
    torch.manual_seed(seed)
    bare = call()
    after, before = random_states(), marks(model)
    torch.manual_seed(seed)
    with recorded(**{"attention": "full", **options}) as spans:
        out = call()
    (span,) = spans.get_finished_spans()
    assert all(torch.equal(a, b) for a, b in zip(random_states(), after, strict=True))
    assert marks(model) == before
    assert type(out) is type(bare)
    if isinstance(bare, torch.Tensor):
        assert torch.equal(out, bare)
    else:
        assert torch.equal(out.sequences, bare.sequences)
        for name in ("scores", "logits"):
            assert all(torch.equal(a, b) for a, b in zip(bare.get(name) or (), out.get(name) or (), strict=True))
        if bare.get("sequences_scores") is not None:
            assert torch.equal(out.sequences_scores, bare.sequences_scores)
    return Both(bare, out, span)
