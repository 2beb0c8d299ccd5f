"""Records what other tools' instrumentations send for the same calls, as OTLP/JSON in tests/dialects.

Not a test. It needs packages that the tests do not, in an environment of its own:

    pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-common openai httpx PACKAGE[==VERSION] ...
    python tests/record_dialects.py openinference|openllmetry|opentelemetry|opentelemetry_latest [name of the file]

Each tool watches the real `openai` client talk to a server on a socket of this machine, which answers as the real one does.
Versions of the packages stand in each file.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dialects"
PACKAGES = {
    "openinference": ("openinference-instrumentation-openai", "openinference-semantic-conventions"),
    "openllmetry": ("opentelemetry-instrumentation-openai", "opentelemetry-semantic-conventions-ai"),
    "opentelemetry": ("opentelemetry-instrumentation-openai-v2", "opentelemetry-semantic-conventions"),
    "opentelemetry_latest": ("opentelemetry-instrumentation-openai-v2", "opentelemetry-semantic-conventions"),
}
MODEL, ANSWERED = "gpt-4o-mini", "gpt-4o-mini-2024-07-18"
QUESTION, ANSWER = "Which bird says quack?", "The duck does."
USAGE = {"prompt_tokens": 24, "completion_tokens": 5, "total_tokens": 29}


class OpenAI(BaseHTTPRequestHandler):
    """The three calls below, answered as api.openai.com would."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked.get("stream"):
            body = b"".join(b"data: " + part + b"\n\n" for part in (*map(_dumps, self._chunks()), b"[DONE]"))
            kind = "text/event-stream"
        else:
            body, kind = _dumps(self._answer()), "application/json"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> dict[str, Any]:
        if self.path.endswith("/embeddings"):
            return {"object": "list", "model": "text-embedding-3-small", "usage": {"prompt_tokens": 6, "total_tokens": 6},
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]}
        head = {"id": "cmpl-1", "created": 1700000000, "model": ANSWERED, "usage": USAGE}
        if self.path.endswith("/chat/completions"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}
            return {**head, "object": "chat.completion", "choices": [choice]}
        choice = {"index": 0, "finish_reason": "length", "text": ANSWER, "logprobs": None}
        return {**head, "object": "text_completion", "model": "gpt-3.5-turbo-instruct", "choices": [choice]}

    def _chunks(self) -> list[dict[str, Any]]:
        head = {"id": "cmpl-2", "object": "chat.completion.chunk", "created": 1700000000, "model": ANSWERED}
        deltas = [{"role": "assistant", "content": "The duck"}, {"content": " does."}]
        parts: list[dict[str, Any]] = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        return [*parts, {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {**head, "choices": [], "usage": USAGE}]

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def _instrumentor(tool: str) -> Any:
    if tool == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference

        return OpenInference()
    if tool == "openllmetry":
        from opentelemetry.instrumentation.openai import OpenAIInstrumentor as Traceloop

        return Traceloop()
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor as Official

    return Official()


def _talk(port: int) -> None:
    """A chat, a streamed chat, an embedding and a completion."""
    import openai

    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": QUESTION}]
    client.chat.completions.create(model=MODEL, messages=messages, temperature=0.5, max_tokens=20)
    for _ in client.chat.completions.create(model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}):
        pass
    client.embeddings.create(model="text-embedding-3-small", input=QUESTION)
    client.completions.create(model="gpt-3.5-turbo-instruct", prompt=QUESTION, max_tokens=5)


def _hexadecimal(value: Any) -> Any:
    """Ids as OTLP/JSON writes them; protobuf's own JSON has base64."""
    if isinstance(value, list):
        return [_hexadecimal(each) for each in value]
    if isinstance(value, dict):
        return {key: base64.b64decode(each).hex() if key in ("traceId", "spanId", "parentSpanId") else _hexadecimal(each)
                for key, each in value.items()}
    return value


def record(tool: str, name: str) -> None:
    """Writes tests/dialects/<name>.json."""
    if tool == "opentelemetry_latest":
        os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "gen_ai_latest_experimental"
        os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
    else:
        os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "true"
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": name}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    server = ThreadingHTTPServer(("127.0.0.1", 0), OpenAI)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _instrumentor(tool).instrument(tracer_provider=provider)
    _talk(server.server_port)
    server.shutdown()
    request = _hexadecimal(MessageToDict(encode_spans(kept.get_finished_spans()), use_integers_for_enums=True))
    versions = {name: version(name) for name in ("openai", *PACKAGES[tool])}
    text = json.dumps({"recorded with": versions, "request": request}, indent=1, ensure_ascii=False)
    FOLDER.joinpath(f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[-1])
