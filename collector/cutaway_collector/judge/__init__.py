"""Judges what was said: scores from the words of prompt and answer, by rule or by model. Not the thread that runs them.

    linguistic       sentences, variety, what is left open      light    refusal      does it decline?
    injection        attacks in the prompt, leaks of the system prompt   policy       categories of a content policy, by pattern
    rouge            against a reference: ROUGE, exact match    light    toxicity     profanity and offence, by a linear model
    language         which language, and is it the prompt's?             spelling     misspelt words, by word list
    bleu             against a reference: sacrebleu                      relevance    prompt to answer, sentence to sentence, MiniLM
    reference_model  perplexity of the answer under another language model

One small file each, named for what it judges, with one `contracts.TextScorer`. `registry` chooses among them and finds plug-ins;
`extras` imports what may be missing; `models` holds device and memory; `words` cuts texts; `triggers` counts how often.
"""

from cutaway_collector.judge.models import Models
from cutaway_collector.judge.registry import ENTRY_POINT_GROUP, LIGHT, text_scorers
from cutaway_collector.judge.triggers import trigger_rates

__all__ = ["ENTRY_POINT_GROUP", "LIGHT", "Models", "text_scorers", "trigger_rates"]
