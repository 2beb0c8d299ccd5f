"""The first run: where this collector listens, how to send it a first span, and sample data for whoever has none yet.

Not a form of configuration: it shows what is so. It stays at its own address when spans have arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cutaway_collector import search as verb
from cutaway_collector.contracts import Submit
from cutaway_collector.search import sample
from cutaway_collector.settings import Settings, split_address
from cutaway_collector.web import urls
from cutaway_collector.web.site import Site

EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104  compared with, not bound
UNKNOWN: Final = "ADDRESS-PRINTED-AT-START"
_IDS: Final = "od -An -N{} -tx1 /dev/urandom | tr -d ' \\n'"


@dataclass(frozen=True, slots=True)
class Intake:
    """How spans come in. submit: where the sample data goes, the road of all spans. addresses: (gRPC, HTTP) as host:port, asked
    when a page is made, for the receivers start after the UI."""

    submit: Submit
    addresses: Callable[[], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Snippet:
    """Something to copy."""

    title: str
    note: str
    text: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """A span that has arrived, as printed."""

    name: str
    service: str
    url: str


@dataclass(frozen=True, slots=True)
class FirstRun:
    """Everything the template may use. may_load: sample data can be loaded, by this visitor and in this process."""

    snippets: tuple[Snippet, ...]
    grpc: str
    http: str
    arrived: Arrival | None
    may_load: bool
    sample_loaded: bool
    sample_service: str
    sample_url: str
    poll_url: str


def page(site: Site, intake: Intake | None, *, host: str, may_load: bool) -> FirstRun:
    """host: by which the visitor reached the UI. Raises StoreError."""
    grpc, http = _endpoints(site.settings, intake, host)
    return FirstRun(
        _snippets(site.settings, grpc, http), grpc, http, arrived(site), may_load and intake is not None, sample.loaded(site.store),
        sample.SERVICE, urls.search(q=f"service:{sample.SERVICE}"), urls.start(json=True))


def twin(site: Site, intake: Intake | None, *, host: str) -> dict[str, Any]:
    """{"arrived": {"name", "service", "url"} or null, "otlp_grpc", "otlp_http", "sample_loaded"}. Raises StoreError."""
    grpc, http = _endpoints(site.settings, intake, host)
    first = arrived(site)
    return {"arrived": first and {"name": first.name, "service": first.service, "url": first.url}, "otlp_grpc": grpc,
            "otlp_http": http, "sample_loaded": sample.loaded(site.store)}


def arrived(site: Site) -> Arrival | None:
    """The newest span. Raises StoreError."""
    for query in ("is:generation", ""):
        rows = verb.find(site.store, verb.SearchRequest(q=query, limit=1), rows_max=1)["rows"]
        if rows:
            return Arrival(rows[0]["name"], rows[0]["service"], urls.trace(rows[0]["trace_id"], span=rows[0]["span_id"]))
    return None


def _endpoints(settings: Settings, intake: Intake | None, host: str) -> tuple[str, str]:
    """The URLs a sender is given."""
    scheme = "https" if settings.tls_certificate else "http"
    grpc, http = intake.addresses() if intake else (settings.otlp_grpc, settings.otlp_http)
    return f"{scheme}://{_reachable(grpc, host)}", f"{scheme}://{_reachable(http, host)}"


def _reachable(address: str, host: str) -> str:
    """host:port of a listener: one on every address is reached by the name that reached the UI."""
    bound, port = split_address("address", address)
    if not port:
        return UNKNOWN
    name = host if bound in EVERYWHERE else bound
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _snippets(settings: Settings, grpc: str, http: str) -> tuple[Snippet, ...]:
    keys = settings.auth_required
    python = ", headers={\"authorization\": \"Bearer YOUR-KEY\"}" if keys else ""
    variable = "\nexport OTEL_EXPORTER_OTLP_HEADERS='authorization=Bearer YOUR-KEY'" if keys else ""
    header = "\n  -H 'authorization: Bearer YOUR-KEY' \\" if keys else ""
    span = (f'"traceId":"\'$({_IDS.format(16)})\'","spanId":"\'$({_IDS.format(8)})\'","name":"hello","kind":1,'
            '"startTimeUnixNano":"\'$(date +%s)\'000000000","endTimeUnixNano":"\'$(date +%s)\'100000000"')
    return (
        Snippet("Python, with a model of Hugging Face", "Three lines around the code you have: every generation becomes a span, "
                "with the surprisal, entropy and attention of each token.",
                f'# pip install "cutaway[hf]"\nimport cutaway\n\ncutaway.configure(endpoint="{grpc}"{python})\n'
                "cutaway.instrument()\n\n@cutaway.trace\ndef answer(question):\n"
                '    inputs = tokenizer(question, return_tensors="pt")\n    return model.generate(**inputs, max_new_tokens=64)'),
        Snippet("Any OpenTelemetry sender", "For any language and any framework that exports OTLP: spans of LLM calls are "
                "understood in the spelling of the OpenTelemetry, OpenInference and OpenLLMetry conventions.",
                f"export OTEL_EXPORTER_OTLP_ENDPOINT={http}\nexport OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf{variable}"),
        Snippet("One span by hand", "To see whether the way is free.",
                f"curl {http}/v1/traces -H 'content-type: application/json' \\{header}\n"
                '  -d \'{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"by-hand"}}]},\n'
                f'  "scopeSpans":[{{"spans":[{{{span}}}]}}]}}]}}\''),
    )
