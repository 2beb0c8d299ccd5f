"""The drift page: what moved away from its baseline in a window, how far and since when, and all windows over time.

Not the comparison, which is the baselines flow's: stored windows are read back, a range that was not compared is compared now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cutaway_collector.baselines import attributes, changes, compare, embeddings, pins, stored
from cutaway_collector.baselines.attributes import Scope
from cutaway_collector.baselines.changes import Deployment
from cutaway_collector.baselines.compare import Drift
from cutaway_collector.baselines.embeddings import TextDrift
from cutaway_collector.baselines.pins import Baseline
from cutaway_collector.baselines.together import Together, together
from cutaway_collector.drift import rule
from cutaway_collector.score.device import Choice, Device
from cutaway_collector.search.points import Key
from cutaway_collector.web import charts, drift_charts, figures, query_edit, times, urls
from cutaway_collector.web.errors import BadParameter
from cutaway_collector.web.map_vectors import Vectors
from cutaway_collector.web.pages import drift_stream
from cutaway_collector.web.pages.drift_stream import Drawn, Stream
from cutaway_collector.web.site import Arguments, Site, Tab

WINDOWS_SHOWN: Final = 48
EMBED_WAIT_S: Final = 5.0
"""For embeddings that are not made yet; the page says how many are lacking."""
_MINUTE_NS: Final = 60 * times.NS
_STATISTICS: Final = {"ks": "KS", "chi2": "χ²", "wasserstein": "W₁/sd", "js": "JS"}


@dataclass(frozen=True, slots=True)
class Row:
    """One attribute of the window, as printed; shape is None where a side holds no value. verdict: steady, shifted or few."""

    title: str
    unit: str
    name: str
    shape: drift_charts.Shape | None
    before: str
    now: str
    moved: str
    statistic: str
    psi: str
    q: str
    n: int
    reference_n: int
    verdict: str
    since: str
    version: str
    url: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One attribute over all windows."""

    title: str
    cells: tuple[drift_charts.Cell, ...]


@dataclass(frozen=True, slots=True)
class Foreign:
    """One generation that is most unlike the reference: its address, the classifier's probability, its numbers as printed."""

    span_id: str
    url: str
    share: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """What all numbers say together, as printed."""

    words: str
    message: str
    texts: tuple[str, ...]
    headings: tuple[str, ...]
    foreign: tuple[Foreign, ...]


@dataclass(frozen=True, slots=True)
class DriftPage:
    """Everything the template may use. baseline is None where none is pinned; rows are empty where the window holds nothing."""

    tabs: tuple[Tab, ...]
    baseline: Baseline | None
    start_ns: int
    end_ns: int
    stored: bool
    reference: str
    version: str
    generations: int
    shifted: int
    rows: tuple[Row, ...]
    lanes: tuple[Lane, ...]
    marks: tuple[drift_charts.Mark, ...]
    ticks: tuple[charts.Tick, ...]
    lanes_start_ns: int
    lanes_end_ns: int
    earlier_url: str
    later_url: str
    newest_url: str
    search_url: str
    explain_url: str
    explained: Explained | None
    stream: Drawn | None
    stream_marks: tuple[drift_charts.Mark, ...]
    stream_ticks: tuple[charts.Tick, ...]
    at: str
    twin_url: str
    interval_minutes: int


@dataclass(frozen=True, slots=True)
class _Found:
    """What both the page and its twin show."""

    baselines: list[Baseline]
    baseline: Baseline | None
    window: tuple[int, int]
    stored: bool
    rows: list[Drift]
    history: list[Drift]
    deployments: list[Deployment]
    together: Together | None = None
    texts: Sequence[TextDrift] = ()
    stream: Stream | None = None


class Embedder:
    """Embeddings of texts for the visitor's tenant, and the device that compares them, chosen at the first look."""

    def __init__(self, vectors: Vectors, choice: Choice) -> None:
        self._vectors = vectors
        self._choice: Choice = choice
        self._device: Device | None = None

    def device(self) -> Device:
        """Where MMD^2's kernel runs: a GPU where there is one, as settings.score_device says."""
        self._device = self._device or Device(self._choice)
        return self._device

    def of(self, tenant: str) -> embeddings.Embed:
        """What `embeddings.of_texts` asks."""

        def embed(of: embeddings.Of, keys: Sequence[Key]) -> embeddings.Known:
            looked = self._vectors.look(tenant, of, keys, wait_s=EMBED_WAIT_S)
            known = {key: one.vector.astype(np.float64) for key, one in looked.known.items() if one.vector is not None}
            return embeddings.Known(known, looked.pending, looked.trouble)

        return embed


def twin(site: Site, args: Arguments, embedder: Embedder, tenant: str) -> dict[str, Any]:
    """The JSON twin. tenant: of the visitor. Raises BadParameter, StoreError."""
    found = _find(site, args, embedder, tenant)
    windows: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    for row in found.history:
        windows[row.start_ns, row.end_ns] += [row.attribute] if row.label == "shifted" else []
    return {
        "baselines": [one.shown() for one in found.baselines],
        "baseline": found.baseline.id if found.baseline else None,
        "window": {"start_ns": found.window[0], "end_ns": found.window[1], "stored": found.stored} if found.baseline else None,
        "rows": [row.shown() for row in found.rows],
        "windows": [{"start_ns": start, "end_ns": end, "shifted": names} for (start, end), names in windows.items()],
        "deployments": [one.shown() for one in found.deployments],
        **({"together": found.together.shown(), "texts": [one.shown() for one in found.texts]} if found.together else {}),
        **({"stream": found.stream.shown()} if found.stream else {}),
    }


def page(site: Site, args: Arguments, embedder: Embedder, tenant: str) -> DriftPage:
    """The page. tenant: of the visitor. Raises BadParameter, StoreError."""
    found = _find(site, args, embedder, tenant)
    one, (start_ns, end_ns) = found.baseline, found.window
    ends = sorted({row.end_ns for row in found.history})
    axis = (min((row.start_ns for row in found.history), default=start_ns), max([*ends, end_ns]))
    shapes = _shapes(site, one, start_ns, end_ns) if one and found.rows else {}
    earlier = [end for end in ends if end < end_ns]
    later = [end for end in ends if end > end_ns]

    chosen = {name: args.get(name) for name in ("of", "chart", "run_length")}

    def link(at: int | None) -> str:
        return urls.drift(baseline=one.id if one else "", at=at, **chosen)

    return DriftPage(
        tabs=tuple(Tab(_name(each, found.baselines), urls.drift(baseline=each.id), each is one, f"{each.service} · {each.model}")
                   for each in found.baselines),
        baseline=one, start_ns=start_ns, end_ns=end_ns, stored=found.stored,
        reference=found.rows[0].reference if found.rows else "", version=found.rows[0].service_version if found.rows else "",
        generations=max((row.n for row in found.rows), default=0),
        shifted=sum(row.label == "shifted" for row in found.rows),
        rows=tuple(_row(row, shapes.get(row.attribute)) for row in _ordered(found.rows)),
        lanes=_lanes(found.history, axis, end_ns) if found.history else (),
        marks=drift_charts.marks([(each.ns, each.version, each.previous) for each in found.deployments
                                  if axis[0] <= each.ns < axis[1]], *axis),
        ticks=charts.time_ticks(*axis), lanes_start_ns=axis[0], lanes_end_ns=axis[1],
        earlier_url=link(earlier[-1]) if earlier else "", later_url=link(later[0]) if later else "",
        newest_url=link(None) if later else "", explained=_explained(found.together, found.texts) if found.together else None,
        explain_url="" if found.together or not found.rows else urls.drift(
            baseline=one.id if one else "", at=args.get("at"), from_=args.get("from"), to=args.get("to"), explain=1),
        search_url=_search(one, start_ns, end_ns) if one else "",
        stream=drift_stream.drawn(found.stream, one) if found.stream and one else None,
        stream_marks=drift_charts.marks([(each.ns, each.version, each.previous) for each in found.deployments
                                         if found.stream and found.stream.axis[0] <= each.ns < found.stream.axis[1]],
                                        *found.stream.axis) if found.stream else (),
        stream_ticks=charts.time_ticks(*found.stream.axis) if found.stream else (), at=args.get("at", ""),
        twin_url=urls.drift(json=True, baseline=one.id if one else "", at=args.get("at"), from_=args.get("from"),
                            to=args.get("to"), explain=args.get("explain"), **chosen),
        interval_minutes=site.settings.drift_interval_minutes)


def _find(site: Site, args: Arguments, embedder: Embedder, tenant: str) -> _Found:
    now_ns = site.now_ns()
    baselines = pins.listed(site.store)
    one = _chosen(baselines, args.get("baseline", ""))
    if one is None:
        return _Found(baselines, None, (0, 1), False, [], [], [])
    start, end = times.parse(args.get("from", ""), now_ns, "from"), times.parse(args.get("to", "now"), now_ns, "to")
    at = times.parse(args.get("at", ""), now_ns, "at")
    history = stored.read(site.store, one, windows=WINDOWS_SHOWN, before_ns=2**63 - 1 if at is None else at + 12 * _length(site))
    if start is not None and end is not None:
        if start >= end:
            raise BadParameter("from lies before to, here it does not", hint="exchange the two")
        window, rows = (start, end), compare.compare(site.store, one, start, end)
        kept = False
    elif history and at is None:
        window, kept = (history[-1].start_ns, history[-1].end_ns), True
        rows = [row for row in history if row.end_ns == window[1] and row.start_ns == window[0]]
    else:
        end_ns = now_ns // _length(site) * _length(site) if at is None else at
        rows = [row for row in history if row.end_ns == end_ns]
        kept = bool(rows)
        window = (rows[0].start_ns if rows else end_ns - _length(site), end_ns)
        rows = rows or compare.compare(site.store, one, *window)
    explained, texts = None, list[TextDrift]()
    if rows and args.get("explain"):
        reference = rows[0].reference
        explained = together(site.store, one, *window, embedder.device(), reference=reference)
        texts = embeddings.of_texts(site.store, one, *window, embedder.of(tenant), embedder.device(), reference=reference)
    before_ns = 2**63 - 1 if at is None else at + 12 * _length(site)
    stream = drift_stream.find(site, one, history, args, before_ns) if history or args.get("of") else None
    reach = (min([window[0], *(row.start_ns for row in history), *(stream.axis[:1] if stream else ())]),
             max([window[1], *(row.end_ns for row in history)]))
    return _Found(baselines, one, window, kept, rows, history, _deployments(site, one, reach), explained, texts, stream)


def _length(site: Site) -> int:
    return (site.settings.drift_interval_minutes or 60) * _MINUTE_NS


def _chosen(baselines: Sequence[Baseline], id: str) -> Baseline | None:
    if not id:
        return baselines[0] if baselines else None
    found = [one for one in baselines if one.id == id or (len(id) >= 8 and one.id.startswith(id))]
    if len(found) != 1:
        raise BadParameter(f"there is no baseline {id[:40]!r}", hint="the drift page without parameters lists them")
    return found[0]


def _deployments(site: Site, one: Baseline, reach: tuple[int, int]) -> list[Deployment]:
    scope = Scope(one.tenant, one.service, one.model, *reach)
    return changes.deployments(site.store, scope, max(1, (reach[1] - reach[0]) // (WINDOWS_SHOWN * changes.BUCKETS)))


def _name(one: Baseline, among: Sequence[Baseline]) -> str:
    alike = [each for each in among if (each.service, each.model) == (one.service, one.model)]
    parts = [one.service, one.model]
    if len(alike) > 1:
        parts += [one.version or "any version"] if len({each.version for each in alike}) > 1 else []
        parts += [one.tenant or "no tenant"] if len({each.tenant for each in alike}) > 1 else []
    return " · ".join(parts)


def _shapes(site: Site, one: Baseline, start_ns: int, end_ns: int) -> dict[str, drift_charts.Shape | None]:
    out: dict[str, drift_charts.Shape | None] = {}
    for name, cells in compare.histograms(site.store, one, start_ns, end_ns).items():
        if all(isinstance(key, int) for key in cells):
            out[name] = drift_charts.numbers({int(key): pair for key, pair in cells.items()}, attributes.title(name)[1])
        else:
            out[name] = drift_charts.labels({str(key): pair for key, pair in cells.items()})
    return out


def _ordered(rows: Sequence[Drift]) -> list[Drift]:
    """What shifted first, the surest of them on top; then as the attributes are listed."""
    order = {name: index for index, name in enumerate(attributes.TITLES)}

    def rank(row: Drift) -> tuple[bool, float, int, str]:
        shifted = row.label == "shifted"
        return not shifted, (row.q or 0.0) if shifted else 0.0, order.get(row.attribute, len(order)), row.attribute

    return sorted(rows, key=rank)


def _row(row: Drift, shape: drift_charts.Shape | None) -> Row:
    title, unit = attributes.title(row.attribute)
    show = drift_charts.percent if row.ks is None else figures.number
    since = f"{figures.day(row.changed_ns)} {figures.clock(row.changed_ns)[:5]}" if row.changed_ns is not None else ""
    return Row(
        title=title, unit=unit, name=row.attribute, shape=shape, before=show(row.reference_level), now=show(row.level),
        moved=row.moved,
        statistic=f"{_STATISTICS.get(row.statistic, row.statistic)} {figures.number(row.value)}", psi=figures.number(row.psi),
        q=figures.ABSENT if row.q is None else _p(row.q), n=row.n,
        reference_n=row.reference_n, verdict=row.label, since=since, version=row.change_version,
        url=_search(row.baseline, row.start_ns, row.end_ns, row))


def _search(one: Baseline, start_ns: int, end_ns: int, row: Drift | None = None) -> str:
    """The window's generations; for a number the ones first that it moved to, for a category those that carry it."""
    query = f"service:{query_edit.quoted(one.service)} model:{query_edit.quoted(one.model)}"
    sort = ""
    if row is not None and row.attribute in attributes.CATEGORIES and row.moved != pins.OTHER:
        query += f" {row.attribute}:{query_edit.quoted(row.moved)}"
    elif row is not None and (row.attribute in attributes.NUMBERS or row.attribute.startswith("score.")):
        sort = row.attribute if row.level < row.reference_level else f"-{row.attribute}"
    return urls.search(q=query, from_=times.iso(start_ns), to=times.iso(end_ns), sort=sort)


def _explained(found: Together, texts: Sequence[TextDrift]) -> Explained:
    said = []
    if found.p is not None:
        said.append(f"Their numbers, all at once, {'differ' if found.p < rule.ALPHA else 'cannot be told apart'} from those of the "
                    f"reference: MMD² {figures.number(found.mmd2)} of their ranks, p {_p(found.p)}")
    if found.auc_p is not None:
        said.append(f"A classifier that sees them {'tells' if found.auc_p < rule.ALPHA else 'cannot tell'} both windows apart: "
                    f"AUC {figures.number(found.auc)} where 0.5 is guessing, p {_p(found.auc_p)}")
    names = [name for name in attributes.NUMBERS if any(values[name] is not None for _, _, values in found.foreign)]
    return Explained(f"{found.n:,} generations of this window against {found.reference_n:,} of the reference", found.message,
                     (*said, *map(_of_texts, texts)),
                     tuple(attributes.title(name)[0] for name in names), tuple(
        Foreign(span, urls.generation(span), drift_charts.percent(share), tuple(figures.number(values[name]) for name in names))
        for span, share, values in found.foreign))


def _of_texts(found: TextDrift) -> str:
    name = {"prompt": "Prompts", "answer": "Answers"}[found.of]
    if found.p is None:
        return f"{name}: {found.message}"
    told = f"{name} {'differ in meaning' if found.p < rule.ALPHA else 'cannot be told apart'} from those of the reference"
    return (f"{told}: MMD² {figures.number(found.mmd2)} of their embeddings, p {_p(found.p)}, {found.n:,} against "
            f"{found.reference_n:,}")


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else figures.number(value)


def _lanes(history: Sequence[Drift], axis: tuple[int, int], at_ns: int) -> tuple[Lane, ...]:
    by_name: defaultdict[str, list[tuple[int, int, str, str]]] = defaultdict(list)
    for row in history:
        words = f"{figures.day(row.end_ns)} {figures.clock(row.start_ns)[:5]} to {figures.clock(row.end_ns)[:5]} UTC: {row.label}"
        words += "" if row.q is None else f", q {figures.number(row.q)}"
        by_name[row.attribute].append((row.start_ns, row.end_ns, row.label, words))
    order = list(attributes.TITLES)
    names = sorted(by_name, key=lambda name: (order.index(name) if name in order else len(order), name))
    return tuple(Lane(attributes.title(name)[0], drift_charts.cells(by_name[name], *axis, at_ns)) for name in names)
