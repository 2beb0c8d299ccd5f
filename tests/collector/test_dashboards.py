"""The Grafana dashboard: generated, well formed, and every query of it runs on a real engine over the real schema."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from itertools import combinations, product

import pytest
import yaml

from cutaway import conventions as c
from cutaway_collector.settings import Settings
from cutaway_collector.store import open_store
from grafana_helpers import ALL, View, expand
from helm_helpers import ROOT
from store_helpers import server

DASHBOARDS = ROOT / "dashboards"
DATABASE = "seen-by-grafana"
FILES = sorted((DASHBOARDS / "clickhouse").glob("*.json"))
DASHBOARD = json.loads(FILES[0].read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
NOW_S = int(time.time()) // 60 * 60
ODD_NAME = "it's a model, (new)"


def spans_sql(database):
    """Twelve generations and two oddities, as any OpenTelemetry exporter inserts them: attributes only, our columns by default."""
    rows = []
    for number in range(12):
        attributes = {c.OPERATION_NAME: "chat", c.REQUEST_MODEL: ODD_NAME if number % 3 else "smollm2",
                      c.USAGE_INPUT_TOKENS: 10 + number, c.USAGE_OUTPUT_TOKENS: 20 + number,
                      c.TIME_TO_FIRST_TOKEN: 0.1 * number, c.TIME_PER_OUTPUT_TOKEN: 0.02,
                      c.OUTPUT_PERPLEXITY: 1.5 + number, c.OUTPUT_SURPRISAL_MEAN: 0.4, c.OUTPUT_SURPRISAL_MAX: 7.5,
                      c.ATTENTION_ENTROPY_MEAN: 2.0, c.ATTENTION_ENTROPY_MIN: 0.25}
        if number == 5:  # failed before the first token: no signals
            attributes = {c.OPERATION_NAME: "chat", c.REQUEST_MODEL: "smollm2"}
        rows.append((number, f"service-{number % 2}", "Error" if number == 5 else "Ok", attributes))
    rows += [(90, "service-0", "Ok", {"http.route": "/"}),
             (91, "back\\slash", "Ok", {c.OPERATION_NAME: "chat", c.REQUEST_MODEL: "x\\"})]
    values = []
    for number, service, status, attributes in rows:
        pairs = ", ".join(f"{literal(key)}: {literal(str(value))}" for key, value in attributes.items())
        values.append(f"(fromUnixTimestamp64Nano({(NOW_S - 60 * (number % 6) - 30) * 10**9}), '{number:032x}', '{number:016x}', "
                      f"'generate', {literal(service)}, {(number + 1) * 10**8}, '{status}', {{{pairs}}})")
    return (f"INSERT INTO `{database}`.otel_traces "
            "(Timestamp, TraceId, SpanId, SpanName, ServiceName, Duration, StatusCode, SpanAttributes) VALUES " + ", ".join(values))


def literal(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A ClickHouse engine with the collector's schema and a few rows."""
    with server(tmp_path_factory.mktemp("grafana")) as running:
        store = open_store(Settings(clickhouse=running.url, database=DATABASE))
        store.command(spans_sql(DATABASE))
        for name in ("worst_window_surprisal", "seq_rep_4"):
            for version in (0, 1):  # the second replaces the first
                store.command(
                    f"INSERT INTO `{DATABASE}`.gen_ai_scores (Timestamp, ServiceName, GenAiModel, TraceId, SpanId, SeqIndex, "
                    "ScoreName, ScorerVersion, Source, Value, Version) SELECT Timestamp, ServiceName, GenAiModel, TraceId, SpanId, "
                    f"0, '{name}', '1', 'collector', {version / 2}, {version} FROM `{DATABASE}`.otel_traces "
                    "WHERE GenAiOperation != ''")
        yield store
        store.close()


def looking_at(**variables):
    chosen = {"database": DATABASE, "service": [ALL], "model": [ALL], "ui": "http://127.0.0.1:8088", "datasource": "uid"}
    return View(NOW_S - 3600, NOW_S, 60, chosen | variables)


VIEWS = {
    "everything": looking_at(),
    "one service": looking_at(service=["service-0"]),
    "several, oddly named": looking_at(service=["service-0", "service-1"], model=[ODD_NAME, "smollm2"]),
}
TARGETS = {f"{panel['title']} {target['refId']}": (panel, target) for panel in PANELS for target in panel["targets"]}


def find(title):
    return next(panel for panel in PANELS if panel["title"] == title)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize(("panel", "target"), TARGETS.values(), ids=TARGETS)
def test_every_panel_query_answers(panel, target, view, engine):
    """Each query runs as Grafana would send it, gives rows, and the columns that the panel's kind and its links need."""
    result = engine.query(expand(target["rawSql"], view))
    assert result.rows
    if panel["type"] == "timeseries":
        assert result.columns[0] == "time"
        assert target["format"] == 0
        numbers = [value for row in result.rows for value in row[1:] if isinstance(value, int | float)]
        assert any(value == value for value in numbers)
    else:
        assert target["format"] == 1
    if panel["type"] == "stat":
        assert len(result.rows) == len(result.columns) == 1
        assert isinstance(result.rows[0][0], int | float)
    named = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    assert named <= set(result.columns)
    linked = set(re.findall(r"__data\.fields\.(\w+)", json.dumps(panel["fieldConfig"])))
    assert linked <= set(result.columns)


def test_every_variable_query_answers(engine):
    """The drop-downs offer the database, services and models that are there, without names that quoting does not survive."""
    offered = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["definition"] == variable["query"]["rawSql"]
            sql = expand(variable["query"]["rawSql"], VIEWS["everything"])
            offered[variable["name"]] = [row[0] for row in engine.query(sql).rows]
    assert DATABASE in offered.pop("database")
    assert offered == {"service": ["service-0", "service-1"], "model": sorted([ODD_NAME, "smollm2"])}


def test_panels_count_what_was_inserted(engine):
    """The figures are right: 13 generations of which one failed; the least certain and the slowest come first."""
    view = VIEWS["everything"]

    def rows(title):
        return engine.query(expand(find(title)["targets"][0]["rawSql"], view)).rows

    assert rows("Generations") == [(13,)]
    assert rows("Failed")[0][0] == pytest.approx(1 / 13)
    assert sum(row[2] for row in rows("Generations a minute")) == pytest.approx(13)
    assert sum(row[1] for row in rows("Errors a minute")) == pytest.approx(1)
    assert sum(row[1] for row in rows("Tokens a minute")) == sum(10 + number for number in range(12) if number != 5)
    assert max(row[2] for row in rows("Output tokens a second")) == pytest.approx(50)
    assert [row[-1] for row in rows("Least certain generations")][:2] == [f"{11:016x}", f"{10:016x}"]
    assert rows("Slowest generations")[0][-1] == f"{91:016x}"
    assert {row[2] for row in rows("Repetition")} == {0.5}  # of two versions of a score the newer counts, once


def test_filters_leave_out_what_was_not_chosen(engine):
    """Choosing a service and an oddly named model counts their generations only."""
    view = looking_at(service=["service-0"], model=[ODD_NAME])
    rows = engine.query(expand(find("Generations")["targets"][0]["rawSql"], view)).rows
    assert rows == [(sum(1 for number in range(12) if number % 2 == 0 and number % 3),)]


def _generator():
    spec = importlib.util.spec_from_file_location("generate_dashboards", DASHBOARDS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_files_are_what_the_generator_writes():
    """JSON and README table are up to date; else run `python dashboards/generate.py`."""
    generator = _generator()
    assert [generator.TARGET] == FILES
    assert generator.TARGET.read_text(encoding="utf-8") == generator.text()
    assert generator.README.read_text(encoding="utf-8") == generator.readme(generator.README.read_text(encoding="utf-8"))


def test_the_dashboard_can_be_provisioned():
    """A fixed uid, no id, a schema Grafana migrates itself, no import-only inputs."""
    assert re.fullmatch(r"[a-z0-9-]{1,40}", DASHBOARD["uid"])
    assert "id" not in DASHBOARD
    assert "__inputs" not in DASHBOARD
    assert DASHBOARD["schemaVersion"] >= 39


def test_ids_are_unique():
    """Panel ids are unique in the dashboard, refIds in their panel, variable names among themselves."""
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    for names in ([panel["id"] for panel in PANELS], variables, *([t["refId"] for t in panel["targets"]] for panel in PANELS)):
        assert names
        assert len(names) == len(set(names))


def test_panels_lie_in_the_grid_without_overlap():
    """Every panel is inside the 24 columns, and no two share a cell."""
    cells = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert min(place.values()) >= 0
        assert 0 < place["w"] <= 24 - place["x"]
        columns, lines = (range(place[at], place[at] + place[size]) for at, size in (("x", "w"), ("y", "h")))
        cells[panel["id"]] = set(product(columns, lines))
    for (a, mine), (b, yours) in combinations(cells.items(), 2):
        assert mine, a
        assert not mine & yours, (a, b)


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_panels_say_what_they_answer(panel):
    """A panel has a title, a question, a unit, and takes its data source from the variable, as its targets do."""
    assert panel["title"]
    assert "?" in panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["type"] in {"stat", "timeseries", "table"}
    chosen = {"type": "grafana-clickhouse-datasource", "uid": "${datasource}"}
    assert all(chosen == source for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])))


def test_links_lead_to_pages_of_the_ui():
    """The tables link to /gen and /trace at the address that the `ui` variable holds."""
    urls = set(re.findall(r'"url": "([^"]+)"', json.dumps(DASHBOARD)))
    assert urls == {"${ui:raw}/search", "${ui:raw}/gen/${__data.fields.SpanId}", "${ui:raw}/trace/${__data.fields.TraceId}"}


def test_an_unknown_macro_fails_instead_of_reaching_the_engine():
    """The expansion in these tests knows no more than the plugin: a misspelt macro or variable is an error."""
    for sql in ("SELECT $__timefilter(Timestamp)", "SELECT ${nobody}", "SELECT ${model:csv}"):
        with pytest.raises(ValueError, match=r"macro|variable|format"):
            expand(sql, VIEWS["several, oddly named"])


def test_provisioning_names_the_plugin_and_the_folder():
    """The data source is the plugin the dashboard asks for; the provider reads the folder the README names."""
    source = yaml.safe_load((DASHBOARDS / "provisioning" / "datasources" / "clickhouse.yaml").read_text(encoding="utf-8"))
    provider = yaml.safe_load((DASHBOARDS / "provisioning" / "dashboards" / "cutaway.yaml").read_text(encoding="utf-8"))
    assert [item["type"] for item in source["datasources"]] == [PANELS[0]["datasource"]["type"]]
    assert provider["providers"][0]["options"]["path"] + "/" in (DASHBOARDS / "README.md").read_text(encoding="utf-8")
