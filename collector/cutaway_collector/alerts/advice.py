"""What to look at next, beside each alert: one sentence by the kind of the condition and of what is measured. Not a runbook: the
rule's own `runbook` comes with it.
"""

from __future__ import annotations

from typing import Final

from cutaway_collector.alerts.rules import Rule

_BY_KIND: Final = {
    "no_data": "Is the sender running, and does it reach the collector? `cutaway doctor` says what the collector sees; /readyz and "
               "the sender's own log say the rest.",
    "chart": "Open the drift page and choose the attribute under Charts: since when the stream leaves its reference, and which "
             "service.version was deployed then.",
    "drift": "Open the drift page: which attribute moved, from when on, and which service.version was deployed then. Where the new "
             "traffic is what you want, pin a new baseline.",
}
_BY_WORD: Final = (
    (("loop", "repetition", "repeat", "distinct"),
     "Open some of the spans: a loop shows as a band of low surprisal and entropy at the end of the answer. Compare temperature, "
     "repetition penalty and max_new_tokens with those of the calm ones."),
    (("toxic", "profan", "safety", "refus", "injection"),
     "Read the spans with the largest score before acting on the rate: sort the search by it. Then compare prompt templates and "
     "model versions among them."),
    (("perplexity", "surprisal", "rauq", "window", "nll", "entropy", "uncertain"),
     "Sort the search by perplexity and open the first: a high plateau is a foreign prompt or a wrong template, single peaks are "
     "facts the model does not know."),
    (("attn", "attention", "sink", "lookback"),
     "Open a generation's attention map beside a calm one's: a low lookback means that the prompt is ignored, a sink near 1 that a "
     "layer looks nowhere."),
    (("ttft", "tpot", "duration", "tps", "latency"),
     "Compare token counts first (facets of the search), then load: cpu and memory of the spans, and the waterfall of a slow trace "
     "against a fast one."),
    (("error", "status"),
     "Open the failed spans: the status message and the exception event say what went wrong; facets of error and model say where."),
)
_MEMORISED: Final = ("The windows page names the document and the traces: read both. Is the text in a prompt template or in "
                     "retrieved context, or does the model recite it?")
_OF_WINDOWS: Final = {
    "surprisal_rise": "Open the example traces of the windows page: from which token on does the surprisal climb? Compare the "
                      "length of answers, and of contexts, with what the model was trained on.",
    "memorised_share": _MEMORISED, "memorised_words": _MEMORISED,
}
_OF_ANSWERS: Final = ("Read the example traces of the windows page side by side. Was one prompt asked again and again, does a "
                      "cache answer, or did temperature, prompt template or model change? A service whose answers are rightly "
                      "alike (labels, extraction) is left out by query: -service:NAME.")
_OTHERWISE: Final = "Open the search of the window, sort by what the rule measures, and compare the first spans with the last."


def advice(rule: Rule) -> str:
    """What to look at for this rule."""
    if rule.condition.kind in _BY_KIND:
        return _BY_KIND[rule.condition.kind]
    if rule.source == "windows":
        return _OF_WINDOWS.get(rule.score, _OF_ANSWERS)
    text = " ".join((rule.field, rule.score, rule.of, rule.query, rule.name)).lower()
    return next((said for words, said in _BY_WORD if any(word in text for word in words)), _OTHERWISE)
