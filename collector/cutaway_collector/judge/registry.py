"""Which text scorers there are: ours, and those that installed packages offer. Not the place that runs them (judging does).

A package adds one by an entry point in the group `cutaway.text_scorers`; its value is called without arguments and returns a
`contracts.TextScorer`:

    [project.entry-points."cutaway.text_scorers"]
    politeness = "my_package.politeness:Politeness"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from cutaway_collector.contracts import TextScorer
from cutaway_collector.errors import SettingsError
from cutaway_collector.judge.bleu import Bleu
from cutaway_collector.judge.injection import Injection
from cutaway_collector.judge.language import Language
from cutaway_collector.judge.linguistic import Linguistic
from cutaway_collector.judge.models import Models
from cutaway_collector.judge.policy import Policy
from cutaway_collector.judge.reference_model import ReferenceModel
from cutaway_collector.judge.refusal import Refusal
from cutaway_collector.judge.relevance import Relevance
from cutaway_collector.judge.rouge import Rouge
from cutaway_collector.judge.spelling import Spelling
from cutaway_collector.judge.toxicity import Toxicity

ENTRY_POINT_GROUP: Final = "cutaway.text_scorers"
LIGHT: Final[Mapping[str, Callable[[], TextScorer]]] = {
    "linguistic": Linguistic, "refusal": Refusal, "injection": Injection, "policy": Policy, "rouge": Rouge,
}
"""Need no package beyond the collector's own and no model."""
_EXTRA: Final[Mapping[str, Callable[[], TextScorer]]] = {
    "language": Language, "spelling": Spelling, "bleu": Bleu, "toxicity": Toxicity,
}
_MODELS: Final[Mapping[str, Callable[[Models], TextScorer]]] = {"relevance": Relevance, "reference_model": ReferenceModel}
OWN: Final = (*LIGHT, *_EXTRA, *_MODELS)


def text_scorers(chosen: str, models: Models, *, on_failure: Callable[[str, Exception], None]) -> list[TextScorer]:
    """The scorers of a setting: names with commas, where `light` stands for ours without packages and models and every plug-in,
    `all` for everything, `off` for none.

    A plug-in that cannot be loaded or is no TextScorer goes to on_failure(entry point name, exception) and is left out. Raises
    SettingsError for a name that there is not.
    """
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    groups = {"off": (), "light": (*LIGHT, *points), "all": (*OWN, *points)}
    wanted: dict[str, None] = {}
    for word in filter(None, (word.strip() for word in chosen.split(","))):
        if word not in (*groups, *OWN, *points):
            raise SettingsError(f"judge names text scorers, {word!r} is none: there are {', '.join((*groups, *OWN, *points))}")
        wanted |= dict.fromkeys(groups.get(word, (word,)))
    found: list[TextScorer] = []
    for name in wanted:
        try:
            found.append(_made(name, points, models))
        except Exception as error:
            on_failure(name, error)
    return found


def _made(name: str, points: Mapping[str, EntryPoint], models: Models) -> TextScorer:
    if name in _MODELS:
        return _MODELS[name](models)
    if name in OWN:
        return {**LIGHT, **_EXTRA}[name]()
    return _checked(points[name].load()(), points[name].value)


def _checked(candidate: Any, origin: str) -> TextScorer:
    for attribute in ("name", "version"):
        if not isinstance(getattr(candidate, attribute, None), str):
            raise TypeError(f"a text scorer has a `{attribute}` of type str, {origin} made a {type(candidate).__name__} "
                            "without: add it")
    if not callable(getattr(candidate, "score", None)):
        raise TypeError(f"a text scorer has a method `score`, {origin} made a {type(candidate).__name__} without: add it")
    scorer: TextScorer = candidate
    return scorer
