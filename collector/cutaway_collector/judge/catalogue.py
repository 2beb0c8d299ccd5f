"""What each score of a text means, as data: the help page and the tables of scores say it. Computes nothing."""

from __future__ import annotations

from typing import Final

from cutaway_collector.contracts import ScoreName as Score

_CATEGORIES: Final = {
    "harassment": "insults and threats to whoever reads it", "hate": "hate against a group of people", "violence": "violence",
    "self_harm": "self-harm", "sexual": "sexual content", "illicit": "weapons, drugs, malware and the like",
    "personal_data": "addresses, numbers and other data of a person",
}
SCORES: Final[tuple[Score, ...]] = (
    Score("sentence_count", "linguistic", "sentences", "sentences of the answer"),
    Score("words_per_sentence", "linguistic", "words", "mean length of the answer's sentences"),
    Score("type_token_ratio", "linguistic", "", "different words over words, of the answer's first 200: low is monotonous"),
    Score("unclosed_marks", "linguistic", "marks", "brackets, quotes and code fences of the answer without a partner"),
    Score("ends_mid_sentence", "linguistic", "", "1 where the answer breaks off in the middle of a sentence, else 0"),
    Score("refusal", "refusal", "", "1 where the answer declines to answer, by the phrases with which models refuse, else 0"),
    Score("prompt_injection", "injection", "", "0 to 1: signs of an attack in the prompt; the label is its kind"),
    Score("system_prompt_leak", "injection", "", "share of the system prompt that the answer repeats in one run of words"),
    *(Score(f"policy_{category}", "policy", "", f"1 where the answer matches a pattern of {what}, else 0: the mean is a rate")
      for category, what in _CATEGORIES.items()),
    Score("rouge_1", "rouge", "", "0 to 1: words that the answer shares with the reference"),
    Score("rouge_2", "rouge", "", "0 to 1: pairs of words that the answer shares with the reference"),
    Score("rouge_l", "rouge", "", "0 to 1: the longest sequence of words that the answer shares with the reference"),
    Score("exact_match", "rouge", "", "1 where the answer is the reference, but for case, blanks and marks at its ends, else 0"),
    Score("language", "language", "", "how sure the answer's language is, 0 to 1; the label is its code"),
    Score("language_match", "language", "", "1 where prompt and answer are in one language, else 0"),
    Score("misspelt_share", "spelling", "", "share of the answer's words that stand in no word list"),
    Score("bleu", "bleu", "", "0 to 100: how much of the reference the answer repeats, by BLEU of one sentence"),
    Score("toxicity", "toxicity", "", "0 to 1: how likely the worst sentence of the answer is profane or offensive; English"),
    Score("relevance", "relevance", "", "cosine of what prompt and answer mean, by a sentence model: low is beside the point"),
    Score("coherence", "relevance", "", "mean cosine of neighbouring sentences of the answer, by a sentence model"),
    Score("reference_perplexity", "reference_model", "", "perplexity of the answer under another model: high is unexpected"),
)
"""In the order of the scorers. A score that does not apply (NaN) has no row."""
