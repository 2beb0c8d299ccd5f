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
    "`chat` when the prompt came as chat messages, `generate_content` for a diffusion pipeline, otherwise `text_completion`")
PROVIDER_NAME: Final = _attribute("gen_ai.provider.name", "string", "", "always", "`huggingface`")
REQUEST_MODEL: Final = _attribute("gen_ai.request.model", "string", "", "when known", "`model.config.name_or_path`, or the pipeline's `name_or_path`")
REQUEST_CHOICE_COUNT: Final = _attribute("gen_ai.request.choice.count", "int", "{sequence}", "when not 1",
    "`num_return_sequences`, or a pipeline's `num_images_per_prompt`")
REQUEST_SEED: Final = _attribute("gen_ai.request.seed", "int", "", "when given", "`seed` given to the decorator or the span around the call, or that of the generator given to a diffusion pipeline")
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
ERROR_TYPE: Final = _attribute("error.type", "string", "", "on error", "class of the exception that ended the call; `request_failed` when only requests of a batch failed")

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
OUTPUT_NLL: Final = _attribute("cutaway.output.nll", "double", "nats", "with token signals",
    "sum of the surprisal of every generated token of every sequence: the negative log-likelihood of the answer")
OUTPUT_BITS_PER_BYTE: Final = _attribute("cutaway.output.bits_per_byte", "double", "bit/By", "when a tokenizer is known",
    "negative log-likelihood in bits over the bytes of the answers as UTF-8: comparable between tokenizers")
OUTPUT_WORST_WINDOW: Final = _attribute("cutaway.output.worst_window", "double", "nats", "with token signals",
    "largest of the sequences' `cutaway.sequence.worst_window`")
OUTPUT_SURPRISAL_SLOPE: Final = _attribute("cutaway.output.surprisal.slope", "double", "nats", "with token signals, from 8 tokens up",
    "largest of the sequences' mean surprisal of the last quarter minus that of the first: errors that feed on themselves make it grow")
OUTPUT_RAUQ: Final = _attribute("cutaway.output.rauq", "double", "nats", "with `cutaway.sequence.rauq`", "largest of the sequences' `cutaway.sequence.rauq`")
OUTPUT_REPETITION: Final = _attribute("cutaway.output.repetition", "double", "", "from 4 tokens up", "largest of the sequences' `cutaway.sequence.repetition`")
OUTPUT_LOOP_PERIOD: Final = _attribute("cutaway.output.loop_period", "int", "{token}", "when a sequence ends in a loop",
    "shortest of the sequences' `cutaway.sequence.loop_period` that is not 0")
OUTPUT_COMPRESSION_RATIO: Final = _attribute("cutaway.output.compression_ratio", "double", "", "when a tokenizer is known",
    "largest of the sequences' `cutaway.sequence.compression_ratio`")
ATTENTION_ENTROPY_MEAN: Final = _attribute("cutaway.attention.entropy.mean", "double", "nats", "with attention signals",
    "mean over generated tokens, recorded layers and heads of the entropy of the attention row that predicted the token")
ATTENTION_ENTROPY_MIN: Final = _attribute("cutaway.attention.entropy.min", "double", "nats", "with attention signals",
    "smallest layer value (mean over heads) of any generated token: how narrowly the model looked at its narrowest")
ATTENTION_NORMALIZED_ENTROPY_MEAN: Final = _attribute("cutaway.attention.normalized_entropy.mean", "double", "", "with attention signals",
    "mean of the entropy divided by the logarithm of the number of visible keys: 1 is uniform at any length")
ATTENTION_SINK_MEAN: Final = _attribute("cutaway.attention.sink.mean", "double", "", "with attention signals", "mean sink mass")
ATTENTION_LAST_KEY_MEAN: Final = _attribute("cutaway.attention.last_key.mean", "double", "", "with attention signals", "mean last-key mass")
ATTENTION_LOOKBACK_MEAN: Final = _attribute("cutaway.attention.lookback.mean", "double", "", "with attention signals", "mean lookback ratio")
CROSS_ATTENTION_ENTROPY_MEAN: Final = _attribute("cutaway.attention.cross.entropy.mean", "double", "nats", "with cross-attention",
    "mean entropy of the decoder's attention to the encoder, over generated tokens, layers and heads")
TOKENS_STATUS: Final = _attribute("cutaway.token.status", "string", "", "always",
    "`recorded`, `off`, `truncated`, `unsupported` or `error`: whether the token series below are there, and why not")
ATTENTION_STATUS: Final = _attribute("cutaway.attention.status", "string", "", "always",
    "`recorded`, `off`, `truncated`, `unsupported` or `error`: whether the attention series are there, and why not")
STATUS_REASON: Final = _attribute("cutaway.status.reason", "string", "", "when a status is not `recorded` or `off`",
    "what was not recorded and why, in words")
DECODING_MODE: Final = _attribute("cutaway.decoding.mode", "string", "", "always",
    "transformers' generation mode: `greedy_search`, `sample`, `beam_search`, ...")

ACCEPTANCE_RATE: Final = _attribute("cutaway.decoding.acceptance_rate", "double", "", "with assisted decoding",
    "accepted draft tokens over drafted tokens")
DRAFTED_TOKENS: Final = _attribute("cutaway.decoding.drafted_tokens", "int", "{token}", "with assisted decoding", "draft tokens the model checked")
ATTENTION_LAYERS: Final = _attribute("cutaway.attention.layers", "int[]", "", "when not every layer was recorded",
    "model layer of each column of the attention series")
SOURCE_LAYERS: Final = _attribute("cutaway.attention.source.layers", "int[]", "", "with attention sources",
    "model layer of each column of the source series")
PROMPT_TOKENS: Final = _attribute("cutaway.prompt.tokens", "int[]", "{token}", "with prompt surprisal",
    "prompt tokens of each row of the batch; cuts the prompt series below into rows")
PROMPT_PERPLEXITY: Final = _attribute("cutaway.prompt.perplexity", "double", "", "with prompt surprisal",
    "exp(mean surprisal) of the prompt tokens that have one: all but the first of a row")

# --- The machine while it generated ---------------------------------------------------------------------------------------
MACHINE_CPU_TIME: Final = _attribute("cutaway.machine.cpu_time", "double", "s", "always", "CPU time of the process between the call and its end: all of its threads")
MACHINE_MEMORY_RSS: Final = _attribute("cutaway.machine.memory.rss", "int", "By", "where the system tells it", "resident memory of the process at the end of the call")
MACHINE_GPU_NAME: Final = _attribute("cutaway.machine.gpu.name", "string[]", "", "on CUDA", "name of each GPU the model lies on")
MACHINE_GPU_MEMORY_PEAK: Final = _attribute("cutaway.machine.gpu.memory.peak", "int[]", "By", "on CUDA",
    "largest memory torch had allocated on each GPU since the process began or the program reset its own count")
MACHINE_GPU_UTILIZATION: Final = _attribute("cutaway.machine.gpu.utilization", "double[]", "1", "where NVML is present",
    "share of the last sampling period in which each GPU was busy, asked at the end of the call")
MACHINE_GPU_ENERGY: Final = _attribute("cutaway.machine.gpu.energy", "double[]", "J", "where NVML counts energy", "energy each GPU took during the call, whoever used it")

# --- Diffusion pipelines --------------------------------------------------------------------------------------------------
OUTPUT_TYPE: Final = _attribute("gen_ai.output.type", "string", "", "diffusion, when known", "`image`, `video`, `audio` or `text`: what the pipeline makes")
DIFFUSION_PIPELINE: Final = _attribute("cutaway.diffusion.pipeline", "string", "", "diffusion", "class of the pipeline")
DIFFUSION_STEPS: Final = _attribute("cutaway.diffusion.steps", "int", "{step}", "diffusion, when its steps can be heard", "denoising steps that ran")
DIFFUSION_GUIDANCE_SCALE: Final = _attribute("cutaway.diffusion.guidance_scale", "double", "", "when the pipeline has one", "classifier-free guidance scale")
DIFFUSION_NONFINITE_STEP: Final = _attribute("cutaway.diffusion.nonfinite_step", "int", "", "when latents stopped being finite", "first step whose latents held NaN or infinity, from 0")
DIFFUSION_STATUS: Final = _attribute("cutaway.diffusion.status", "string", "", "diffusion", "as `cutaway.token.status`, for the step series")
DIFFUSION_STEP_TIME: Final = _attribute("cutaway.diffusion.step.time", "bytes (float32)", "s", "diffusion", "time of each step, a callback of yours included; the first holds all that came before it")
DIFFUSION_STEP_TIMESTEP: Final = _attribute("cutaway.diffusion.step.timestep", "bytes (float32)", "", "diffusion", "the scheduler's timestep")
DIFFUSION_LATENT_NORM: Final = _attribute("cutaway.diffusion.step.latent_norm", "bytes (float32)", "", "diffusion", "root mean square of the latents after each step")
DIFFUSION_LATENT_CHANGE: Final = _attribute("cutaway.diffusion.step.latent_change", "bytes (float32)", "", "diffusion", "root mean square of the latents' change in each step; NaN for the first")

# --- One value a sequence (row of the batch, times num_return_sequences) --------------------------------------------------
SEQUENCE_INPUT_TOKENS: Final = _attribute("cutaway.sequence.input_tokens", "int[]", "{token}", "always",
    "prompt tokens of each sequence, without padding")
SEQUENCE_OUTPUT_TOKENS: Final = _attribute("cutaway.sequence.output_tokens", "int[]", "{token}", "always",
    "generated tokens of each sequence; cuts the token series below into sequences")
SEQUENCE_PERPLEXITY: Final = _attribute("cutaway.sequence.perplexity", "double[]", "", "with token signals",
    "perplexity of each sequence; NaN for an empty one")
SEQUENCE_NLL: Final = _attribute("cutaway.sequence.nll", "double[]", "nats", "with token signals", "negative log-likelihood of each sequence")
SEQUENCE_BITS_PER_BYTE: Final = _attribute("cutaway.sequence.bits_per_byte", "double[]", "bit/By", "when a tokenizer is known",
    "negative log-likelihood in bits over bytes of text; NaN for an empty one")
SEQUENCE_WORST_WINDOW: Final = _attribute("cutaway.sequence.worst_window", "double[]", "nats", "with token signals",
    "largest mean surprisal of 16 tokens in a row, of all tokens of a shorter sequence; NaN for an empty one")
SEQUENCE_SURPRISAL_QUARTERS: Final = _attribute("cutaway.sequence.surprisal.quarters", "double[]", "nats", "with token signals",
    "four values a sequence, one sequence after another: mean surprisal of each quarter of its tokens; NaN below 8 tokens")
SEQUENCE_RAUQ: Final = _attribute("cutaway.sequence.rauq", "double[]", "nats", "with token signals, and `attention` `full` or `heads` of every layer",
    "recurrent attention-based uncertainty of each sequence (Vazhentsev et al. 2025, arXiv 2505.20045)")
SEQUENCE_REPETITION: Final = _attribute("cutaway.sequence.repetition", "double[]", "", "with token ids known",
    "seq-rep-4 of each sequence: 1 - distinct 4-grams / 4-grams (Welleck et al. 2019); NaN below 4 tokens")
SEQUENCE_LOOP_PERIOD: Final = _attribute("cutaway.sequence.loop_period", "int[]", "{token}", "with token ids known",
    "shortest period the end of each sequence repeats at least three times; 0 without a loop")
SEQUENCE_COMPRESSION_RATIO: Final = _attribute("cutaway.sequence.compression_ratio", "double[]", "", "when a tokenizer is known",
    "bytes of each sequence's text over its bytes after zlib: repetition makes it large; NaN for an empty one")

# --- One value a token: packed series (see SERIES_HEADER), all sequences one after another --------------------------------
TOKEN_ID: Final = _attribute("cutaway.token.id", "bytes (uint32)", "", "unless capture is `numbers`", "generated token ids")
TOKEN_SURPRISAL: Final = _attribute("cutaway.token.surprisal", "bytes (float32)", "nats", "with token signals",
    "-log p(token) under softmax of the raw logits, before any processor or warper")
TOKEN_ENTROPY: Final = _attribute("cutaway.token.entropy", "bytes (float32)", "nats", "with token signals",
    "entropy of softmax of the raw logits")
TOKEN_SAMPLED_SURPRISAL: Final = _attribute("cutaway.token.sampled_surprisal", "bytes (float32)", "nats", "when sampling with processors or warpers",
    "-log p(token) under the distribution it was drawn from: after every processor and warper")
TOKEN_VARENTROPY: Final = _attribute("cutaway.token.varentropy", "bytes (float32)", "nats^2", "with token signals",
    "variance of -log p under softmax of the raw logits")
TOKEN_MIN_P_MASS: Final = _attribute("cutaway.token.min_p_mass", "bytes (float32)", "", "with token signals",
    "probability of all tokens at least a tenth as likely as the first choice")
TOKEN_MARGIN: Final = _attribute("cutaway.token.margin", "bytes (float32)", "nats", "with token signals",
    "log p(first choice) - log p(second choice)")
TOKEN_RANK: Final = _attribute("cutaway.token.rank", "bytes (uint32)", "", "with token signals",
    "number of tokens with a larger logit than the chosen one: 0 is the model's first choice")
TOKEN_INTER_TOKEN_TIME: Final = _attribute("cutaway.token.inter_token_time", "bytes (float32)", "s", "with token signals",
    "time since the previous token; for the first token, time since the call")
ALTERNATIVE_ID: Final = _attribute("cutaway.token.alternatives.id", "bytes (uint32)", "", "opt-in (`alternatives`), unless capture is `numbers`",
    "[token, choice]: the most likely tokens under the raw logits, best first")
ALTERNATIVE_SURPRISAL: Final = _attribute("cutaway.token.alternatives.surprisal", "bytes (float32)", "nats", "opt-in (`alternatives`)",
    "[token, choice]: their surprisal")
PROMPT_TOKEN_ID: Final = _attribute("cutaway.prompt.token.id", "bytes (uint32)", "", "opt-in (`prompt_surprisal`), unless capture is `numbers`",
    "prompt token ids, one row after another")
PROMPT_SURPRISAL: Final = _attribute("cutaway.prompt.surprisal", "bytes (float32)", "nats", "opt-in (`prompt_surprisal`)",
    "-log p(prompt token) given those before it; NaN for the first of a row")
TOKEN_TEXT: Final = _attribute("cutaway.token.text", "string[]", "", "opt-in", "generated tokens as text pieces; joined they are the answer")
ATTENTION_ENTROPY: Final = _attribute("cutaway.attention.entropy", "bytes (float32)", "nats", "with attention signals",
    "[token, layer]: entropy of the attention row that predicted the token, mean over heads")
ATTENTION_ENTROPY_HEADS: Final = _attribute("cutaway.attention.entropy.heads", "bytes (float16)", "nats",
    "with attention signals, when it fits `series_bytes_max`", "[token, layer, head]: the same, every head")
ATTENTION_NORMALIZED_ENTROPY: Final = _attribute("cutaway.attention.normalized_entropy", "bytes (float32)", "", "with attention signals",
    "[token, layer]: entropy over the logarithm of the number of visible keys, mean over heads; 0 where one key is visible")
ATTENTION_SINK: Final = _attribute("cutaway.attention.sink", "bytes (float32)", "", "with attention signals",
    "[token, layer]: probability of the first visible key, mean over heads; of the learned sink where a model has one (gpt-oss)")
ATTENTION_LAST_KEY: Final = _attribute("cutaway.attention.last_key", "bytes (float32)", "", "with attention signals",
    "[token, layer]: probability of the last visible key (the token that was just read), mean over heads")
ATTENTION_LOOKBACK: Final = _attribute("cutaway.attention.lookback", "bytes (float32)", "", "with attention signals",
    "[token, layer]: mean weight of a prompt key over that plus the mean weight of a generated key (Chuang et al. 2024), mean over heads; "
    "1 while nothing was generated")
ATTENTION_NORMALIZED_ENTROPY_HEADS: Final = _attribute("cutaway.attention.normalized_entropy.heads", "bytes (float16)", "",
    "with `attention` `full`", "[token, layer, head]: the same, every head")
ATTENTION_SINK_HEADS: Final = _attribute("cutaway.attention.sink.heads", "bytes (float16)", "", "with `attention` `full`", "[token, layer, head]: the same, every head")
ATTENTION_LAST_KEY_HEADS: Final = _attribute("cutaway.attention.last_key.heads", "bytes (float16)", "", "with `attention` `full`", "[token, layer, head]: the same, every head")
ATTENTION_LOOKBACK_HEADS: Final = _attribute("cutaway.attention.lookback.heads", "bytes (float16)", "", "with `attention` `full`", "[token, layer, head]: the same, every head")
CROSS_ATTENTION_ENTROPY: Final = _attribute("cutaway.attention.cross.entropy", "bytes (float32)", "nats", "with cross-attention",
    "[token, layer]: entropy of the decoder's attention to the encoder, mean over heads")
CROSS_ATTENTION_ENTROPY_HEADS: Final = _attribute("cutaway.attention.cross.entropy.heads", "bytes (float16)", "nats", "with cross-attention, when it fits",
    "[token, layer, head]: the same, every head")
SOURCE_POSITION: Final = _attribute("cutaway.attention.source.position", "bytes (uint32)", "", "opt-in (`attention_sources`)",
    "[token, layer, k]: positions with the largest attention weight, mean over heads, largest first; 0 is the first token of the prompt")
SOURCE_MASS: Final = _attribute("cutaway.attention.source.mass", "bytes (float16)", "", "opt-in (`attention_sources`)", "[token, layer, k]: their weight")

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
    TOKEN_ID, TOKEN_SURPRISAL, TOKEN_ENTROPY, TOKEN_MARGIN, TOKEN_RANK, TOKEN_INTER_TOKEN_TIME, TOKEN_VARENTROPY, TOKEN_MIN_P_MASS,
    TOKEN_SAMPLED_SURPRISAL,
)
"""[token]: one value a token, the most telling first: what does not fit is left out from the end."""

ALTERNATIVE_SERIES: Final[tuple[str, ...]] = (ALTERNATIVE_ID, ALTERNATIVE_SURPRISAL)
"""[token, choice]."""

PROMPT_SERIES: Final[tuple[str, ...]] = (PROMPT_TOKEN_ID, PROMPT_SURPRISAL)
"""[prompt token], cut by `cutaway.prompt.tokens`."""

LAYER_SERIES: Final[tuple[str, ...]] = (
    ATTENTION_ENTROPY, ATTENTION_NORMALIZED_ENTROPY, ATTENTION_SINK, ATTENTION_LAST_KEY, ATTENTION_LOOKBACK, CROSS_ATTENTION_ENTROPY,
)
"""[token, layer], mean over heads."""

HEAD_SERIES: Final[tuple[str, ...]] = (
    ATTENTION_ENTROPY_HEADS, CROSS_ATTENTION_ENTROPY_HEADS, ATTENTION_LAST_KEY_HEADS, ATTENTION_LOOKBACK_HEADS, ATTENTION_SINK_HEADS,
    ATTENTION_NORMALIZED_ENTROPY_HEADS,
)
"""[token, layer, head]."""

SOURCE_SERIES: Final[tuple[str, ...]] = (SOURCE_POSITION, SOURCE_MASS)
"""[token, layer, k]."""

ATTENTION_SERIES: Final[tuple[str, ...]] = (*LAYER_SERIES, *HEAD_SERIES, *SOURCE_SERIES)
"""Everything whose absence `cutaway.attention.status` explains."""

DIFFUSION_SERIES: Final[tuple[str, ...]] = (DIFFUSION_STEP_TIME, DIFFUSION_STEP_TIMESTEP, DIFFUSION_LATENT_NORM, DIFFUSION_LATENT_CHANGE)
"""[step] of a diffusion pipeline."""

MIN_P: Final = 0.1
"""Share of the first choice's probability a token needs to count in `cutaway.token.min_p_mass`."""

# --- Evaluation events (v1.41, https://github.com/open-telemetry/semantic-conventions/blob/v1.41.0/docs/gen-ai/gen-ai-events.md) ----
EVALUATION_EVENT: Final = "gen_ai.evaluation.result"
"""Name of the event that carries one score."""

EVALUATION_NAME: Final = "gen_ai.evaluation.name"
EVALUATION_SCORE_VALUE: Final = "gen_ai.evaluation.score.value"
EVALUATION_SCORE_LABEL: Final = "gen_ai.evaluation.score.label"
EVALUATION_EXPLANATION: Final = "gen_ai.evaluation.explanation"
EVALUATION_SEQUENCE: Final = "cutaway.sequence.index"
"""Which sequence of the generation an evaluation event speaks of, from 0; absent when it speaks of the whole call."""

EVALUATION_SOURCE: Final = "cutaway.evaluation.source"
"""Who judged, where it is not the sender: a user, a test, the name of a judge."""

EVALUATION_OWN: Final = "cutaway."
"""Begins the names of the scores the SDK gives by itself. They repeat what is on the span, so they are not stored once more."""

REFERENCE_TEXT: Final = "cutaway.reference.text"
"""The answer that would have been right, put on the span of a generation by whoever knows it: one text, or a JSON list of one text a
sequence. The collector compares the answers with it."""

EVALUATION_LEFT_OUT: Final = "cutaway.evaluation.left_out"
"""On the last evaluation event of a call that has too many: how many more were not emitted. Their scores are on the span."""
