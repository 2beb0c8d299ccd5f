"""Does the answer speak of what was asked, and does each sentence follow the one before? Cosines of sentence embeddings.

Not truth: an answer that is wrong about the right thing is relevant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cutaway_collector.contracts import Judged, Texts
from cutaway_collector.judge.extras import need
from cutaway_collector.judge.models import Loaded, Models
from cutaway_collector.judge.words import cut, sentences

PIECES_MAX: Final = 256
"""Word pieces of a text that are embedded, as MiniLM was trained to."""
SENTENCES_MAX: Final = 32
_BATCH: Final = 32


class Relevance:
    """relevance: cosine of prompt and answer. coherence: mean cosine of neighbours among the answer's first 32 sentences.
    """

    name = "relevance"
    version = "1"

    def __init__(self, models: Models) -> None:
        self._models = models

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """contracts.TextScorer.score of prompts and answers. Raises MissingExtra."""
        model = self._models.embedding(self.name)
        said = [sentences(cut(text))[:SENTENCES_MAX] for text in texts.answer]
        wanted = {cut(text): 0 for texts_of in (texts.prompt, texts.answer, *said) for text in texts_of if text.strip()}
        vectors = dict(zip(wanted, embed(model, list(wanted)), strict=True))
        pairs = zip(texts.prompt, texts.answer, strict=True)
        relevance = [float(vectors[cut(prompt)] @ vectors[cut(answer)]) if prompt.strip() and answer.strip() else np.nan
                     for prompt, answer in pairs]
        coherence = [float(np.mean([vectors[one] @ vectors[other] for one, other in pairwise(each)]))
                     if len(each) > 1 else np.nan for each in said]
        return {"relevance": Judged(np.array(relevance, np.float64)), "coherence": Judged(np.array(coherence, np.float64))}


def embed(model: Loaded, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Unit vectors [n, width]: the mean of the last layer over the pieces of each text."""
    torch = need("torch", Relevance.name)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    rows: list[Any] = []
    for start in range(0, len(order), _BATCH):
        batch = model.tokenizer([texts[row] for row in order[start:start + _BATCH]], padding=True, truncation=True,
                                max_length=PIECES_MAX, return_tensors="pt")

        def forward(network: Any, device: str, batch: Any = batch) -> Any:
            given = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.inference_mode():
                hidden = network(**given).last_hidden_state
            mask = given["attention_mask"][..., None].to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(mean, dim=1).double().cpu().numpy()

        rows.extend(model.run(forward))
    vectors = np.zeros((len(texts), len(rows[0]) if rows else 0))
    vectors[order] = np.array(rows).reshape(len(rows), -1)
    return vectors
