"""Writes the Grafana dashboards from Python: `python dashboards/generate.py`. Not a client of Grafana; it writes files.

The classic model (schemaVersion 39, Grafana 11.6 and later read it and migrate it on load), made for file provisioning: a fixed
uid, no id, and the data source chosen by a variable. A test fails while a committed file differs from what this writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
sys.path.insert(0, str(HERE))  # queries.py lies beside this script; a dashboard folder is no package

import queries as q  # noqa: E402  (found through the line above)

TARGET: Final = HERE / "clickhouse" / "generation-overview.json"
README: Final = HERE / "README.md"
MARKS: Final = ("<!-- panels, written by generate.py -->\n", "<!-- end of panels -->")

PLUGIN: Final = "grafana-clickhouse-datasource"
SOURCE: Final = {"type": PLUGIN, "uid": "${datasource}"}
TIMESERIES_FORMAT, TABLE_FORMAT = 0, 1

Panel = dict[str, Any]


def target(sql: str, format: int, ref: str = "A") -> dict[str, Any]:
    """One query of a panel."""
    return {"datasource": SOURCE, "editorType": "sql", "format": format, "queryType": "timeseries" if format == 0 else "table",
            "rawSql": sql, "refId": ref}


def panel(kind: str, title: str, question: str, sql: str, unit: str, width: int, height: int, **more: Any) -> Panel:
    """What every panel has. `question` is its description; place and id are given by `arrange`."""
    defaults = {"unit": unit, **more.pop("defaults", {})}
    return {
        "type": kind, "title": title, "description": question, "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "gridPos": {"w": width, "h": height},
        "options": more.pop("options", {}),
        "targets": [target(sql, TIMESERIES_FORMAT if kind == "timeseries" else TABLE_FORMAT)],
    }


def stat(title: str, question: str, sql: str, unit: str, red_from: float | None = None) -> Panel:
    """One number for the whole time range."""
    steps: list[dict[str, Any]] = [{"color": "text", "value": None}]
    if red_from is not None:
        steps.append({"color": "red", "value": red_from})
    return panel(
        "stat", title, question, sql, unit, 6, 4,
        defaults={"thresholds": {"mode": "absolute", "steps": steps}, "noValue": "–"},
        options={"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                 "colorMode": "value", "graphMode": "none"},
    )


def lines(title: str, question: str, sql: str, unit: str, width: int = 12, *, stacked: bool = False) -> Panel:
    """Lines over time; stacked areas where the values add up."""
    style = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 25 if stacked else 5, "showPoints": "auto", "spanNulls": False,
             "stacking": {"mode": "normal" if stacked else "none", "group": "A"}}
    return panel(
        "timeseries", title, question, sql, unit, width, 8,
        defaults={"custom": style, "min": 0},
        options={"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                 "tooltip": {"mode": "multi", "sort": "desc"}},
    )


def table(title: str, question: str, sql: str, units: dict[str, str]) -> Panel:
    """Rows with links to cutaway's own pages: a SpanId opens the generation, a TraceId its trace."""
    def column(name: str, *properties: dict[str, Any]) -> dict[str, Any]:
        return {"matcher": {"id": "byName", "options": name}, "properties": list(properties)}

    def link(title: str, path: str) -> dict[str, Any]:
        return {"id": "links", "value": [{"title": title, "url": "${ui:raw}" + path, "targetBlank": True}]}

    return panel(
        "table", title, question, sql, "none", 24, 9,
        defaults={"custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False}, "noValue": "–"},
        overrides=[
            *(column(name, {"id": "unit", "value": unit}) for name, unit in units.items()),
            column("Started", {"id": "unit", "value": "dateTimeAsIso"}),
            column("TraceId", link("Open the trace", "/trace/${__data.fields.TraceId}"), {"id": "custom.width", "value": 290}),
            column("SpanId", link("Open the generation", "/gen/${__data.fields.SpanId}"), {"id": "custom.width", "value": 160}),
        ],
        options={"showHeader": True, "cellHeight": "sm"},
    )


def panels() -> list[Panel]:
    """The dashboard from top to bottom: how much, how fast, how sure, and which ones."""
    finite = "isFinite({})".format
    return [
        stat("Generations", "How many generations ran in this time?", q.single("count() AS generations"), "short"),
        stat("Failed", "Which share of them ended in an error?", q.single("countIf(StatusCode = 'Error') / count() AS failed"),
             "percentunit", 0.05),
        stat("Time to first token, p95", "How long do all but the slowest 5 % wait for the first token?",
             q.single("quantile(0.95)(TimeToFirstTokenS) AS p95"), "s"),
        stat("Perplexity, median", "How sure is the model of an ordinary answer?",
             q.single("quantile(0.5)(Perplexity) AS p50", finite("Perplexity")), "none"),
        lines("Generations a minute", "How busy is each model?",
              q.over_time_by_model("count() * 60 / $__interval_s AS generations"), "cpm", stacked=True),
        lines("Errors a minute", "Do calls fail, and since when?",
              q.over_time("countIf(StatusCode = 'Error') * 60 / $__interval_s AS errors"), "cpm"),
        lines("Time to first token", "How long do people wait before anything appears?",
              q.over_time(*q.quantiles("TimeToFirstTokenS", 0.5, 0.95, 0.99)), "s"),
        lines("Output tokens a second", "How much do all models write together, and how fast does one call write?",
              q.over_time("sum(OutputTokens) / $__interval_s AS `all calls`",
                          "quantileIf(0.5)(1 / TimePerOutputTokenS, TimePerOutputTokenS > 0) AS `one call, median`"),
              "suffix: tok/s"),
        lines("Tokens a minute", "What do the models read, and what do they write?",
              q.over_time("sum(InputTokens) * 60 / $__interval_s AS input",
                          "sum(OutputTokens) * 60 / $__interval_s AS output"),
              "suffix: tok/min", stacked=True),
        lines("Perplexity", "Is the model less sure of its answers than it was?",
              q.over_time(*q.quantiles("Perplexity", 0.5, 0.95), where=finite("Perplexity")), "none"),
        lines("Surprisal", "How unexpected is a token on average, and at its worst?",
              q.over_time("avg(SurprisalMean) AS mean", "quantile(0.95)(SurprisalMax) AS `worst token, p95`",
                          where=finite("SurprisalMean")), "suffix: nats"),
        lines("Attention entropy", "Does attention stay spread, or does a layer collapse onto one token?",
              q.over_time("avg(AttentionEntropyMean) AS mean", "quantile(0.05)(AttentionEntropyMin) AS `narrowest layer, p5`",
                          where=finite("AttentionEntropyMean")), "suffix: nats"),
        lines("Worst window", "How unsure is the model in the worst 16 tokens of an answer?",
              q.scores_over_time("worst_window_surprisal"), "suffix: nats"),
        lines("Repetition", "Which share of an answer goes round in circles (seq-rep-4)?",
              q.scores_over_time("seq_rep_4"), "percentunit"),
        table("Slowest generations", "Which calls took longest?",
              q.top(["Duration", "TimeToFirstTokenS AS TTFT", "InputTokens AS Input", "OutputTokens AS Output",
                     "StatusCode AS Status"], "Duration DESC", "Duration > 0"), {"Duration": "ns", "TTFT": "s"}),
        table("Least certain generations", "Of which answers was the model least sure? (Short ones swing more.)",
              q.top(["Perplexity", "SurprisalMax AS `Worst token`", "AttentionEntropyMin AS `Narrowest layer`",
                     "OutputTokens AS Output"], "Perplexity DESC", finite("Perplexity")),
              {"Worst token": "suffix: nats", "Narrowest layer": "suffix: nats"}),
    ]


def arrange(found: list[Panel]) -> list[Panel]:
    """Gives ids and places: left to right, a new line when the 24 columns are full."""
    x = y = 0
    line_height = 0
    for number, item in enumerate(found, start=1):
        place = item["gridPos"]
        if x + place["w"] > 24:
            x, y, line_height = 0, y + line_height, 0
        item["id"] = number
        item["gridPos"] = {"x": x, "y": y, **place}
        x, line_height = x + place["w"], max(line_height, place["h"])
    return found


def variables() -> list[dict[str, Any]]:
    """Data source, database, services, models, and where cutaway's own pages are."""
    def query(name: str, label: str, sql: str, **more: Any) -> dict[str, Any]:
        return {"type": "query", "name": name, "label": label, "datasource": SOURCE, "definition": sql,
                "query": {"editorType": "sql", "format": TABLE_FORMAT, "rawSql": sql, "refId": name},
                "current": {}, "options": [], "hide": 0, "refresh": 2, "regex": "", "sort": 0, "skipUrlSync": False,
                "multi": False, "includeAll": False, **more}

    everything = {"multi": True, "includeAll": True, "allValue": None, "current": {"text": ["All"], "value": ["$__all"]}}
    address = "http://127.0.0.1:8088"
    return [
        {"type": "datasource", "name": "datasource", "label": "Data source", "query": PLUGIN, "current": {}, "options": [],
         "hide": 0, "refresh": 1, "regex": "", "multi": False, "includeAll": False, "skipUrlSync": False},
        query("database", "Database", q.DATABASES, refresh=1),
        query("service", "Service", q.choices("ServiceName"), **everything),
        query("model", "Model", q.choices("GenAiModel", q.SERVICE), **everything),
        {"type": "textbox", "name": "ui", "label": "cutaway's address", "query": address, "hide": 0, "skipUrlSync": False,
         "current": {"text": address, "value": address}, "options": [{"selected": True, "text": address, "value": address}]},
    ]


def dashboard() -> dict[str, Any]:
    """The whole file."""
    return {
        "uid": "cutaway-generation-overview", "title": "Generation overview", "tags": ["cutaway", "gen_ai"],
        "description": "What generative models did: traffic, speed, certainty, and the calls worth opening.",
        "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 2, "fiscalYearStartMonth": 0, "timezone": "",
        "time": {"from": "now-6h", "to": "now"}, "refresh": "30s", "timepicker": {}, "annotations": {"list": []},
        "links": [{"type": "link", "title": "Search in cutaway", "url": "${ui:raw}/search", "icon": "external link",
                   "targetBlank": True, "asDropdown": False, "includeVars": False, "keepTime": False, "tags": [], "tooltip": ""}],
        "templating": {"list": variables()},
        "panels": arrange(panels()),
    }


def text() -> str:
    """The dashboard as it is committed."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def readme(current: str) -> str:
    """The README with its table of panels brought up to date."""
    before, rest = current.split(MARKS[0])
    rows = "".join(f"| {item['title']} | {item['description']} |\n" for item in panels())
    return before + MARKS[0] + "| Panel | The question it answers |\n| --- | --- |\n" + rows + MARKS[1] + rest.split(MARKS[1])[1]


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
