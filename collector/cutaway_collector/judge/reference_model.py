"""How expected is the answer to another language model? Its perplexity, teacher-forced.

Not the perplexity of the model that wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.contracts import Judged, Texts
from cutaway_collector.judge.extras import need
from cutaway_collector.judge.models import Loaded, Models
from cutaway_collector.judge.words import cut

TOKENS_MAX: Final = 1024
"""Tokens of prompt and answer together that are read: the end of the prompt, the beginning of the answer."""
_PROMPT_TOKENS_MAX: Final = 512
_FORWARD_TOKENS: Final = 2048
"""Tokens of one forward pass, padding included: bounds the logits, which are the bulk of the memory."""


class ReferenceModel:
    """reference_perplexity: exp of the mean surprisal of the answer's tokens, given system prompt and prompt in the reference
    model's chat template, where it has one.
    """

    name = "reference_model"
    version = "1"

    def __init__(self, models: Models) -> None:
        self._models = models

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """contracts.TextScorer.score of answers given prompts. Raises MissingExtra."""
        model = self._models.reference(self.name)
        asked = [_prompt(model.tokenizer, cut(system), cut(prompt))
                 for system, prompt in zip(texts.system, texts.prompt, strict=True)]
        said = [model.tokenizer(cut(text), add_special_tokens=False)["input_ids"] if text.strip() else [] for text in texts.answer]
        surprisal = mean_surprisals(model, asked, said)
        return {"reference_perplexity": Judged(np.exp(np.minimum(surprisal, 700.0)))}


def _prompt(tokenizer: Any, system: str, prompt: str) -> list[int]:
    """Token ids of what comes before the answer, at least one."""
    if tokenizer.chat_template and prompt.strip():
        turns = [{"role": "system", "content": system}] * bool(system.strip()) + [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = tokenizer(f"{system}\n\n{prompt}".strip())["input_ids"]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return list(ids[-_PROMPT_TOKENS_MAX:]) or [start if start is not None else 0]


def mean_surprisals(model: Loaded, asked: Sequence[Sequence[int]], said: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """float64 [n], nats a token: -log p of each token of `said` given all before it, averaged; NaN for an empty answer."""
    torch = need("torch", ReferenceModel.name)
    whole = [[*before, *after][:TOKENS_MAX] for before, after in zip(asked, said, strict=True)]
    means = np.full(len(whole), np.nan)
    for batch in _batches([len(ids) if after else 0 for ids, after in zip(whole, said, strict=True)]):
        width = max(len(whole[row]) for row in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        judged = torch.zeros((len(batch), width - 1), dtype=torch.bool)
        for place, row in enumerate(batch):  # padding on the right: a causal model does not see it
            size, before = len(whole[row]), len(asked[row])
            ids[place, :size] = torch.tensor(whole[row])
            mask[place, :size] = 1
            judged[place, before - 1:size - 1] = True

        def forward(network: Any, device: str, ids: Any = ids, mask: Any = mask, judged: Any = judged) -> Any:
            with torch.inference_mode():
                logits = network(input_ids=ids.to(device), attention_mask=mask.to(device)).logits[:, :-1]
                chosen = logits[judged.to(device)].float()
                wanted = ids[:, 1:][judged].to(device)
                losses = torch.zeros(judged.shape, dtype=torch.float64)
                losses[judged] = torch.nn.functional.cross_entropy(chosen, wanted, reduction="none").double().cpu()
            return (losses.sum(1) / judged.sum(1)).numpy()

        means[batch] = model.run(forward)
    return means


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of similar length, so many as fit into one pass; a row of length 0 is in none."""
    batches: list[list[int]] = []
    for row in sorted((row for row, length in enumerate(lengths) if length), key=lambda row: lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= _FORWARD_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
