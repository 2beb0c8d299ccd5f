"""Which text scorers there are: ours, and those that installed packages offer. Not the place that runs them (judging does).

A package adds one by an entry point in the group `cutaway.text_scorers`; its value is called without arguments and returns a
`contracts.TextScorer`:

    [project.entry-points."cutaway.text_scorers"]
    politeness = "my_package.politeness:Politeness"

A plug-in may hang, and the other scorers wait for it: it is asked in a thread of its own, and left out where it does not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from cutaway_collector.contracts import Judged, Texts, TextScorer
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
from cutaway_collector.patience import Patience

ENTRY_POINT_GROUP: Final = "cutaway.text_scorers"
PLUG_IN_SECONDS_MAX: Final = 120.0
"""For a batch: models are slow, and the other scorers of texts wait behind it."""
LIGHT: Final[Mapping[str, Callable[[], TextScorer]]] = {
    "linguistic": Linguistic, "refusal": Refusal, "injection": Injection, "policy": Policy, "rouge": Rouge,
}
"""Need no package beyond the collector's own and no model."""
_EXTRA: Final[Mapping[str, Callable[[], TextScorer]]] = {
    "language": Language, "spelling": Spelling, "bleu": Bleu, "toxicity": Toxicity,
}
_MODELS: Final[Mapping[str, Callable[[Models], TextScorer]]] = {"relevance": Relevance, "reference_model": ReferenceModel}
OWN: Final = (*LIGHT, *_EXTRA, *_MODELS)


class PlugIn:
    """A plug-in as a scorer that always comes back."""

    def __init__(self, scorer: TextScorer) -> None:
        self.name, self.version = scorer.name, scorer.version
        self._scorer = scorer
        self._patience = Patience[Mapping[str, Judged]](PLUG_IN_SECONDS_MAX)

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """As the plug-in. Raises NoAnswer where it hangs."""
        return self._patience.call(lambda: self._scorer.score(texts))

    @property
    def spent_s(self) -> float:
        """Processor time that it took, in threads of its own."""
        return self._patience.spent_s


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
    return PlugIn(_checked(points[name].load()(), points[name].value))


def _checked(candidate: Any, origin: str) -> TextScorer:
    for attribute in ("name", "version"):
        if not isinstance(getattr(candidate, attribute, None), str):
            raise TypeError(f"a text scorer has a `{attribute}` of type str, {origin} made a {type(candidate).__name__} "
                            "without: add it")
    if not callable(getattr(candidate, "score", None)):
        raise TypeError(f"a text scorer has a method `score`, {origin} made a {type(candidate).__name__} without: add it")
    scorer: TextScorer = candidate
    return scorer
