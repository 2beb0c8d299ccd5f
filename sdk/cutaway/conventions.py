"""Every span, attribute and unit cutaway emits: the vocabulary shared by the SDK, the collector and the documentation.

Not a copy of a conventions package: `gen_ai.*` names follow the OpenTelemetry GenAI semantic conventions v1.41 (the last
released text, https://github.com/open-telemetry/semantic-conventions/tree/v1.41.0/docs/gen-ai); names under `cutaway.*` are
ours, because no convention exists yet for what a model felt while it generated. Standard library only: the collector imports
this module, and `import cutaway` must stay light.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
"""Schema URL put on the instrumentation scope."""

SCOPE_NAME: Final = "cutaway"
"""Instrumentation scope of every span we create."""

PROVIDER_HUGGINGFACE: Final = "huggingface"
"""Value of `gen_ai.provider.name`. The enumeration has no member for an in-process model; custom values are allowed."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One span attribute: its name, OTLP type, unit ("" where none applies), when it is present, and what it says."""

    name: str
    type: str
    unit: str
    level: str
    help: str


_TABLE: list[Attribute] = []


def _attribute(name: str, type: str, unit: str, level: str, help: str) -> str:
    _TABLE.append(Attribute(name, type, unit, level, help))
    return name


# --- GenAI semantic conventions v1.41 -------------------------------------------------------------------------------------
OPERATION_NAME: Final = _attribute("gen_ai.operation.name", "string", "", "always",
    "`chat` when the prompt came as chat messages, otherwise `text_completion`")
PROVIDER_NAME: Final = _attribute("gen_ai.provider.name", "string", "", "always", "`huggingface`")
REQUEST_MODEL: Final = _attribute("gen_ai.request.model", "string", "", "when known", "`model.config.name_or_path`")
REQUEST_CHOICE_COUNT: Final = _attribute("gen_ai.request.choice.count", "int", "{sequence}", "when not 1",
    "`num_return_sequences`")
REQUEST_SEED: Final = _attribute("gen_ai.request.seed", "int", "", "when given", "`seed` given to the decorator or the span around the call")
REQUEST_STREAM: Final = _attribute("gen_ai.request.stream", "boolean", "", "when streaming", "true when a streamer was passed")
REQUEST_MAX_TOKENS: Final = _attribute("gen_ai.request.max_tokens", "int", "{token}", "when set", "`max_new_tokens`")
REQUEST_TEMPERATURE: Final = _attribute("gen_ai.request.temperature", "double", "", "when sampling", "`temperature`")
REQUEST_TOP_P: Final = _attribute("gen_ai.request.top_p", "double", "", "when sampling and set", "`top_p`")
REQUEST_TOP_K: Final = _attribute("gen_ai.request.top_k", "double", "", "when sampling and set", "`top_k` (a double in v1.41)")
REQUEST_STOP_SEQUENCES: Final = _attribute("gen_ai.request.stop_sequences", "string[]", "", "when set", "`stop_strings`")
RESPONSE_MODEL: Final = _attribute("gen_ai.response.model", "string", "", "when known", "the model that answered; equals the request's")
RESPONSE_FINISH_REASONS: Final = _attribute("gen_ai.response.finish_reasons", "string[]", "", "always",
    "one per sequence: `stop` (end-of-sequence token or stop string), `length` (token limit) or `error`")
RESPONSE_TIME_TO_FIRST_CHUNK: Final = _attribute("gen_ai.response.time_to_first_chunk", "double", "s", "when streaming",
    "time from the call to the first generated token reaching the streamer")
USAGE_INPUT_TOKENS: Final = _attribute("gen_ai.usage.input_tokens", "int", "{token}", "always",
    "prompt tokens of all rows, without padding")
USAGE_OUTPUT_TOKENS: Final = _attribute("gen_ai.usage.output_tokens", "int", "{token}", "always",
    "generated tokens of all returned sequences, without padding; the end-of-sequence token counts")
INPUT_MESSAGES: Final = _attribute("gen_ai.input.messages", "string (JSON)", "", "opt-in", "the prompt, one message list per call")
OUTPUT_MESSAGES: Final = _attribute("gen_ai.output.messages", "string (JSON)", "", "opt-in", "the answers, one message per sequence")
CONVERSATION_ID: Final = _attribute("gen_ai.conversation.id", "string", "", "when given", "passed to the decorator; never made up")
ERROR_TYPE: Final = _attribute("error.type", "string", "", "on error", "class of the exception that ended the call")

# --- What the model felt: one value a span --------------------------------------------------------------------------------
TIME_TO_FIRST_TOKEN: Final = _attribute("cutaway.time_to_first_token", "double", "s", "when a token was generated",
    "time from the call to the first generated token, prefill included")
TIME_PER_OUTPUT_TOKEN: Final = _attribute("cutaway.time_per_output_token", "double", "s", "from two steps up",
    "(last token - first token) / (steps - 1): the decoding pace without prefill")
OUTPUT_PERPLEXITY: Final = _attribute("cutaway.output.perplexity", "double", "", "with token signals",
    "exp(mean surprisal) over every generated token of every sequence, under the raw logits")
OUTPUT_SURPRISAL_MEAN: Final = _attribute("cutaway.output.surprisal.mean", "double", "nats", "with token signals",
    "mean of -log p(token) under the raw logits")
OUTPUT_SURPRISAL_MAX: Final = _attribute("cutaway.output.surprisal.max", "double", "nats", "with token signals",
    "largest surprisal of one token")
OUTPUT_ENTROPY_MEAN: Final = _attribute("cutaway.output.entropy.mean", "double", "nats", "with token signals",
    "mean entropy of the next-token distribution")
ATTENTION_ENTROPY_MEAN: Final = _attribute("cutaway.attention.entropy.mean", "double", "nats", "with attention signals",
    "mean over generated tokens, layers and heads of the entropy of the attention row that predicted the token")
ATTENTION_ENTROPY_MIN: Final = _attribute("cutaway.attention.entropy.min", "double", "nats", "with attention signals",
    "smallest layer value (mean over heads) of any generated token: how narrowly the model looked at its narrowest")
TOKENS_STATUS: Final = _attribute("cutaway.token.status", "string", "", "always",
    "`recorded`, `off`, `truncated`, `unsupported` or `error`: whether the token series below are there, and why not")
ATTENTION_STATUS: Final = _attribute("cutaway.attention.status", "string", "", "always",
    "`recorded`, `off`, `truncated`, `unsupported` or `error`: whether the attention series are there, and why not")
STATUS_REASON: Final = _attribute("cutaway.status.reason", "string", "", "when a status is not `recorded` or `off`",
    "what was not recorded and why, in words")
DECODING_MODE: Final = _attribute("cutaway.decoding.mode", "string", "", "always",
    "transformers' generation mode: `greedy_search`, `sample`, `beam_search`, ...")

# --- One value a sequence (row of the batch, times num_return_sequences) --------------------------------------------------
SEQUENCE_INPUT_TOKENS: Final = _attribute("cutaway.sequence.input_tokens", "int[]", "{token}", "always",
    "prompt tokens of each sequence, without padding")
SEQUENCE_OUTPUT_TOKENS: Final = _attribute("cutaway.sequence.output_tokens", "int[]", "{token}", "always",
    "generated tokens of each sequence; cuts the token series below into sequences")
SEQUENCE_PERPLEXITY: Final = _attribute("cutaway.sequence.perplexity", "double[]", "", "with token signals",
    "perplexity of each sequence; NaN for an empty one")

# --- One value a token: packed series (see SERIES_HEADER), all sequences one after another --------------------------------
TOKEN_ID: Final = _attribute("cutaway.token.id", "bytes (uint32)", "", "unless capture is `numbers`", "generated token ids")
TOKEN_SURPRISAL: Final = _attribute("cutaway.token.surprisal", "bytes (float32)", "nats", "with token signals",
    "-log p(token) under softmax of the raw logits, before any processor or warper")
TOKEN_ENTROPY: Final = _attribute("cutaway.token.entropy", "bytes (float32)", "nats", "with token signals",
    "entropy of softmax of the raw logits")
TOKEN_MARGIN: Final = _attribute("cutaway.token.margin", "bytes (float32)", "nats", "with token signals",
    "log p(first choice) - log p(second choice)")
TOKEN_RANK: Final = _attribute("cutaway.token.rank", "bytes (uint32)", "", "with token signals",
    "number of tokens with a larger logit than the chosen one: 0 is the model's first choice")
TOKEN_INTER_TOKEN_TIME: Final = _attribute("cutaway.token.inter_token_time", "bytes (float32)", "s", "with token signals",
    "time since the previous token; for the first token, time since the call")
TOKEN_TEXT: Final = _attribute("cutaway.token.text", "string[]", "", "opt-in", "generated tokens as text pieces; joined they are the answer")
ATTENTION_ENTROPY: Final = _attribute("cutaway.attention.entropy", "bytes (float32)", "nats", "with attention signals",
    "[token, layer]: entropy of the attention row that predicted the token, mean over heads")
ATTENTION_ENTROPY_HEADS: Final = _attribute("cutaway.attention.entropy.heads", "bytes (float16)", "nats",
    "with attention signals, when it fits `series_bytes_max`", "[token, layer, head]: the same, every head")

ATTRIBUTES: Final[tuple[Attribute, ...]] = tuple(_TABLE)
"""Every attribute we emit, in the order of the documentation."""

STATUS_RECORDED: Final = "recorded"
STATUS_OFF: Final = "off"
STATUS_TRUNCATED: Final = "truncated"
STATUS_UNSUPPORTED: Final = "unsupported"
STATUS_ERROR: Final = "error"

CONTENT_EVENT: Final = "gen_ai.client.inference.operation.details"
"""Name of the span event that carries messages when the capture mode asks for events."""

# --- Packed series -------------------------------------------------------------------------------------------------------
SERIES_VERSION: Final = 1
SERIES_HEADER: Final = struct.Struct("<BBHIII")
"""Little-endian header of a packed series, 16 bytes: version u8 (1), dtype code u8, zero u16, tokens u32, layers u32,
heads u32. `layers` and `heads` are 1 for plain token series. The values follow, little-endian, row-major
[token, layer, head], nothing after them. `bytes` cost 4 B a float32 where OTLP doubles cost 11 B and ten times the encoding."""

SERIES_DTYPES: Final[dict[int, str]] = {1: "<f4", 2: "<u4", 3: "<f2"}
"""dtype code -> NumPy dtype string."""

TOKEN_SERIES: Final[tuple[str, ...]] = (
    TOKEN_ID, TOKEN_SURPRISAL, TOKEN_ENTROPY, TOKEN_MARGIN, TOKEN_RANK, TOKEN_INTER_TOKEN_TIME,
)
ATTENTION_SERIES: Final[tuple[str, ...]] = (ATTENTION_ENTROPY, ATTENTION_ENTROPY_HEADS)
