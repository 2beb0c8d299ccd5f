"""How much of the reference does the answer repeat? BLEU of one sentence, by sacrebleu. Applies where a reference travels."""

from __future__ import annotations

from collections.abc import Mapping

from cutaway_collector.contracts import Judged, Texts
from cutaway_collector.judge.extras import need
from cutaway_collector.judge.values import NONE, Verdict, judged
from cutaway_collector.judge.words import cut


class Bleu:
    """bleu: 0 to 100, sacrebleu's sentence_bleu (13a tokens, exponential smoothing, effective order)."""

    name = "bleu"
    version = "1"

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """contracts.TextScorer.score of answers against references. Raises MissingExtra."""
        bleu = need("sacrebleu", self.name)
        return {"bleu": judged([
            Verdict(float(bleu.sentence_bleu(cut(answer), [cut(reference)]).score)) if reference.strip() else NONE
            for answer, reference in zip(texts.answer, texts.reference, strict=True)])}
