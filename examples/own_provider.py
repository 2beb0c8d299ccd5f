"""Bring your own TracerProvider: cutaway adds its spans to it and never touches the global one."""

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import cutaway
from cutaway import smollm2

model, tokenizer = smollm2.load()

provider = TracerProvider(resource=Resource.create({"service.name": "own-provider", "team": "search"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # OTEL_EXPORTER_OTLP_ENDPOINT and friends apply

cutaway.configure(tracer_provider=provider, tokenizer=tokenizer)
cutaway.instrument()

tracer = provider.get_tracer("my.application")
with tracer.start_as_current_span("handle request"):  # your own spans and cutaway's share one trace
    inputs = tokenizer("The three primary colours are", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)

print(tokenizer.decode(output[0], skip_special_tokens=True))
cutaway.shutdown()  # hands the last spans to your provider, which stays open
provider.shutdown()
