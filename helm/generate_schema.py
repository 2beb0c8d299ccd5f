"""Writes helm/cutaway/values.schema.json: the chart's values, with the collector's settings taken from its own table.

Run it after a setting was added: `python helm/generate_schema.py`. A test fails while the file differs. Not used by helm itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cutaway_collector import settings

TARGET = Path(__file__).parent / "cutaway" / "values.schema.json"

BY_CHART = frozenset({
    "data", "clickhouse", "spool", "otlp_grpc", "otlp_http", "ui", "insecure_bind", "keys", "tls_certificate", "tls_key",
})
"""Settings that follow from other values of the chart, or are fixed in a pod."""

TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}
FREE: dict[str, Any] = {"type": "object"}
"""Objects of Kubernetes' own making (resources, contexts): its API server checks them."""
WORDS: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}
PORT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION: dict[str, Any] = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
QUANTITY: dict[str, Any] = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"}


def choice(*values: str) -> dict[str, Any]:
    """One of these words."""
    return {"type": "string", "enum": list(values)}


CHOICES: dict[str, dict[str, Any]] = {"score_device": choice("auto", "cpu", "cuda"), "auth": choice("auto", "required", "off")}
"""Settings that are one of a few words."""


def several(items: dict[str, Any]) -> dict[str, Any]:
    """A list of these."""
    return {"type": "array", "items": items}


def seconds(least: int = 1) -> dict[str, Any]:
    """Whole seconds."""
    return {"type": "integer", "minimum": least}


def closed(**properties: Any) -> dict[str, Any]:
    """An object with these keys and no other: a misspelt value is an error, not silence."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def setting(row: settings.SettingRow) -> dict[str, Any]:
    """One setting of the collector."""
    if isinstance(row.default, bool):
        kind: dict[str, Any] = FLAG
    elif isinstance(row.default, int):
        kind = {"type": "integer", "minimum": row.least, "maximum": row.most}
    else:
        kind = CHOICES.get(row.name, TEXT)
    return {**kind, "description": f"{row.help}; default {row.default}"}


def schema() -> dict[str, Any]:
    """The whole schema of values.yaml."""
    values = closed(
        mode=choice("single"),
        image=closed(repository={**TEXT, "minLength": 1}, tag=TEXT, pullPolicy=choice("Always", "IfNotPresent", "Never")),
        imagePullSecrets=several(closed(name=TEXT)),
        nameOverride=TEXT,
        fullnameOverride=TEXT,
        insecureBind=FLAG,
        tls=closed(secret=TEXT),
        keys=closed(secret=TEXT),
        clickhouse=closed(url={**TEXT, "pattern": "^$|^https?://[^@]+$"}, secret=closed(name=TEXT, key={**TEXT, "minLength": 1})),
        persistence=closed(
            enabled=FLAG, size=QUANTITY, storageClassName=TEXT, annotations=WORDS,
            accessModes=several(choice("ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany")),
        ),
        settings=closed(**{row.name: setting(row) for row in settings.table() if row.name not in BY_CHART}),
        extraEnv=several(FREE),
        terminationGracePeriodSeconds={"type": ["integer", "null"], "minimum": 1},
        service=closed(type=choice("ClusterIP", "NodePort", "LoadBalancer"), annotations=WORDS,
                       ports=closed(otlpGrpc=PORT, otlpHttp=PORT, ui=PORT)),
        serviceAccount=closed(create=FLAG, name=TEXT, annotations=WORDS),
        serviceMonitor=closed(enabled=FLAG, interval=DURATION, labels=WORDS, endpoint=FREE),
        networkPolicy=closed(enabled=FLAG, **{"from": several(FREE)}),
        resources=FREE,
        podSecurityContext=FREE,
        securityContext=FREE,
        probes=closed(startupSeconds=seconds(3), periodSeconds=seconds(), timeoutSeconds=seconds()),
        podAnnotations=WORDS,
        podLabels=WORDS,
        nodeSelector=WORDS,
        tolerations=several(FREE),
        affinity=FREE,
        priorityClassName=TEXT,
        **{"global": FREE},
    )
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the cutaway chart", **values}


def text() -> str:
    """The file as it is committed."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
