"""What the attributes of other tools mean in our columns: the table from which DDL, decoder and documentation take it.

Not code that reads spans: `columns.py` turns a source into a DEFAULT expression, the decoder into compiled look-ups, and both must
agree. Attributes themselves are stored as they came, whatever they are called.

Names were read in: OpenTelemetry's gen_ai attributes up to v1.36 and v1.41 (opentelemetry-semantic-conventions 0.66b2),
openinference-semantic-conventions 0.1.42, opentelemetry-semantic-conventions-ai 0.4.9 and 0.5.1 (OpenLLMetry), vLLM's
vllm/tracing/utils.py, ai 5.0.277 (Vercel's AI SDK), and what OpenLIT 1.45 writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OPENTELEMETRY_OLD: Final = "OpenTelemetry up to 1.36"
OPENTELEMETRY: Final = "OpenTelemetry"
OPENINFERENCE: Final = "OpenInference"
OPENLLMETRY: Final = "OpenLLMetry"
OPENLIT: Final = "OpenLIT"
VLLM: Final = "vLLM"
AI_SDK: Final = "AI SDK"


@dataclass(frozen=True, slots=True)
class Source:
    """One attribute that may fill a column.

    dialect: who writes it. words: (what it says, what that means here), the former in lower case, for letter case does not count.
    rest: what a text means that is not in `words`: None for itself, "" for nothing, so that the next source is asked, or a word.
    divisor: what a number is divided by to come to the column's unit.
    """

    name: str
    dialect: str = ""
    words: tuple[tuple[str, str], ...] = ()
    rest: str | None = None
    divisor: float = 1.0

    @property
    def verbatim(self) -> bool:
        """Whether a text is taken as it came."""
        return not self.words and self.rest is None


_SYSTEMS: Final = (
    # as the conventions replaced the values
    ("vertex_ai", "gcp.vertex_ai"), ("gemini", "gcp.gemini"), ("az.ai.inference", "azure.ai.inference"),
    ("az.ai.openai", "azure.ai.openai"), ("xai", "x_ai"),
    # OpenLLMetry of 2025 and before
    ("openai", "openai"), ("anthropic", "anthropic"), ("cohere", "cohere"), ("mistralai", "mistral_ai"), ("groq", "groq"),
    ("azure", "azure.ai.openai"), ("aws", "aws.bedrock"), ("google", "gcp.gen_ai"), ("vertexai", "gcp.vertex_ai"),
    ("watsonx", "ibm.watsonx.ai"), ("hugging_face", "huggingface"), ("huggingface", "huggingface"), ("ollama", "ollama"),
    # the AI SDK names the endpoint with the provider
    ("openai.chat", "openai"), ("openai.responses", "openai"), ("openai.completion", "openai"), ("openai.embedding", "openai"),
)
_OPENINFERENCE_PROVIDERS: Final = (
    ("mistralai", "mistral_ai"), ("vertexai", "gcp.vertex_ai"), ("google", "gcp.gen_ai"), ("azure", "azure.ai.openai"),
    ("aws", "aws.bedrock"), ("xai", "x_ai"),
)

OPERATION: Final = (
    Source("llm.request.type", OPENLLMETRY,
           (("chat", "chat"), ("completion", "text_completion"), ("embedding", "embeddings")), ""),
    # A prompt that is one text is a completion; the span's kind alone says LLM for a chat as well.
    Source("llm.prompts.0.prompt.text", OPENINFERENCE, rest="text_completion"),
    Source("openinference.span.kind", OPENINFERENCE,
           (("llm", "chat"), ("embedding", "embeddings"), ("tool", "execute_tool"), ("agent", "invoke_agent"),
            ("retriever", "retrieval")), ""),
    Source("traceloop.span.kind", OPENLLMETRY,
           (("workflow", "invoke_workflow"), ("agent", "invoke_agent"), ("tool", "execute_tool")), ""),
    # Only the calls to a model: the spans around them sum up what these did, and would count twice.
    Source("ai.operationId", AI_SDK,
           (("ai.generatetext.dogenerate", "chat"), ("ai.streamtext.dostream", "chat"), ("ai.generateobject.dogenerate", "chat"),
            ("ai.streamobject.dostream", "chat"), ("ai.embed.doembed", "embeddings"), ("ai.embedmany.doembed", "embeddings"),
            ("ai.toolcall", "execute_tool")), ""),
    # vLLM names no operation; its engine is handed tokens, whatever they were made of.
    Source("gen_ai.latency.e2e", VLLM, rest="text_completion"),
)
PROVIDER: Final = (
    Source("gen_ai.system", OPENTELEMETRY_OLD, _SYSTEMS),
    Source("llm.provider", OPENINFERENCE, _OPENINFERENCE_PROVIDERS),
    Source("llm.system", OPENINFERENCE, _OPENINFERENCE_PROVIDERS),
    Source("ai.model.provider", AI_SDK, _SYSTEMS[-4:]),
)
MODEL: Final = (
    Source("llm.request.model_name", OPENINFERENCE),
    Source("llm.model_name", OPENINFERENCE),
    Source("embedding.model_name", OPENINFERENCE),
    Source("reranker.model_name", OPENINFERENCE),
    Source("ai.model.id", AI_SDK),
    Source("gen_ai.response.model", OPENTELEMETRY),
)
CONVERSATION: Final = (
    Source("session.id", OPENINFERENCE),
    Source("traceloop.association.properties.session_id", OPENLLMETRY),
)
INPUT_TOKENS: Final = (
    Source("gen_ai.usage.prompt_tokens", OPENTELEMETRY_OLD),
    Source("llm.token_count.prompt", OPENINFERENCE),
)
OUTPUT_TOKENS: Final = (
    Source("gen_ai.usage.completion_tokens", OPENTELEMETRY_OLD),
    Source("llm.token_count.completion", OPENINFERENCE),
)
TIME_TO_FIRST_TOKEN: Final = (
    Source("gen_ai.latency.time_to_first_token", VLLM),
    Source("gen_ai.server.time_to_first_token", OPENLIT),
    Source("ai.response.msToFirstChunk", AI_SDK, divisor=1000.0),
)
TIME_PER_OUTPUT_TOKEN: Final = (Source("gen_ai.server.time_per_output_token", OPENLIT),)
