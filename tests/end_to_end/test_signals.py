"""The numbers on the page against an independent replay: through SDK, OTLP, decoder, engine and JSON, with nothing lost."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from serving import Serving

torch = pytest.importorskip("torch")

PROMPTS = ["The quick brown fox", "In the year 1903, a small town by the river decided that", "Zebra"]


@pytest.fixture(scope="module")
def model_and_tokenizer() -> Any:
    from cutaway import smollm2

    return smollm2.load()


def _trace(serving: Serving, folder: Path, body: str) -> list[str]:
    """Runs `body` in a fresh process with the SDK sending to `serving`; returns its output lines."""
    script = folder / "generate.py"
    script.write_text(textwrap.dedent("""
        import sys, torch, cutaway
        from cutaway import smollm2
        model, tokenizer = smollm2.load()
        cutaway.configure(endpoint="http://" + sys.argv[1], protocol="grpc", service_name=sys.argv[2], tokenizer=tokenizer,
                          attention_layers_max=0)
        cutaway.instrument()
    """) + textwrap.dedent(body) + "\ncutaway.shutdown()\n")
    done = subprocess.run([sys.executable, str(script), serving.addresses["otlp_grpc"], folder.name],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()


def _generation(serving: Serving, service: str) -> dict[str, Any]:
    (row,) = serving.json("/search.json", q=f"service:{service} is:generation")["rows"]
    page: dict[str, Any] = serving.json(f"/gen/{row['span_id']}.json")
    return page


@pytest.mark.slow
def test_a_sampled_batch_equals_its_replay(serving: Serving, tmp_path: Path, model_and_tokenizer: Any) -> None:
    """Left-padded rows of unequal length, sampled: ids, surprisal, entropy, margin, rank and attention equal an eager replay."""
    model, tokenizer = model_and_tokenizer
    _trace(serving, tmp_path, f"""
        torch.manual_seed(5)
        inputs = tokenizer({PROMPTS!r}, return_tensors="pt", padding=True)
        model.generate(**inputs, max_new_tokens=40, do_sample=True, temperature=0.8, top_k=20)
    """)
    page = _generation(serving, tmp_path.name)
    torch.manual_seed(5)
    inputs = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    whole = model.generate(**inputs, max_new_tokens=40, do_sample=True, temperature=0.8, top_k=20)
    plain = whole[:, inputs["input_ids"].shape[1] :]
    assert [sequence["index"] for sequence in page["sequences"]] == [0, 1, 2]
    for sequence, prompt, ids in zip(page["sequences"], PROMPTS, plain.tolist(), strict=True):
        end = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
        assert sequence["token_ids"] == ids[:end]
        _check(sequence, _replay(model, tokenizer(prompt)["input_ids"], ids[:end]))


def _replay(model: Any, prompt: list[int], ids: list[int]) -> dict[str, Any]:
    """Teacher-forced, one row, no padding, no cache, eager attention; statistics in float64."""
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            output = model(torch.tensor([prompt + ids]), output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation("sdpa")
    rows = slice(len(prompt) - 1, len(prompt) + len(ids) - 1)
    logits = output.logits[0, rows].double()
    logp = logits.log_softmax(-1)
    chosen = logp.gather(-1, torch.tensor(ids)[:, None])[:, 0]
    top = logp.topk(2).values
    attention = torch.stack([torch.special.entr(a[0, :, rows].double()).sum(-1).mean(0) for a in output.attentions], -1)
    return {
        "surprisal": -chosen, "entropy": torch.distributions.Categorical(logits=logits).entropy(),
        "margin": top[:, 0] - top[:, 1], "rank": (logp > chosen[:, None]).sum(-1), "attention": attention,
    }


def _check(sequence: dict[str, Any], expected: dict[str, Any]) -> None:
    signals = sequence["signals"]
    for name, tolerance in (("surprisal", 1e-4), ("entropy", 1e-4), ("margin", 2e-4)):
        assert torch.tensor(signals[name]).double() == pytest.approx(expected[name], abs=tolerance), name
    assert signals["rank"] == expected["rank"].tolist()
    assert torch.tensor(sequence["attention_entropy"]).double() == pytest.approx(expected["attention"], abs=1e-3)
    assert len(signals["inter_token_s"]) == len(sequence["token_ids"])
    assert all(seconds > 0 for seconds in signals["inter_token_s"])


def test_the_summary_equals_the_series(serving: Serving, tmp_path: Path) -> None:
    """Search shows the perplexity that the token series of the page give, and every head averages to the layer's value."""
    _trace(serving, tmp_path, """
        inputs = tokenizer("Once upon a time", return_tensors="pt")
        model.generate(**inputs, max_new_tokens=24, do_sample=False)
    """)
    (row,) = serving.json("/search.json", q=f"service:{tmp_path.name} is:generation")["rows"]
    page = serving.json(f"/gen/{row['span_id']}.json", heads="all")
    (sequence,) = page["sequences"]
    surprisal = sequence["signals"]["surprisal"]
    assert (row["input_tokens"], row["output_tokens"]) == (4, len(surprisal))
    assert row["perplexity"] == pytest.approx(math.exp(sum(surprisal) / len(surprisal)), rel=1e-5)
    assert row["ttft_s"] == pytest.approx(sequence["signals"]["inter_token_s"][0], rel=1e-4)
    heads = torch.tensor(sequence["attention_entropy"])
    assert heads.shape == (len(surprisal), 30, 9)
    mean = serving.json(f"/gen/{row['span_id']}.json")["sequences"][0]["attention_entropy"]
    assert heads.mean(-1) == pytest.approx(torch.tensor(mean), abs=3e-3)  # heads travel as float16


@pytest.mark.slow
def test_killing_the_collector_does_not_disturb_the_model(tmp_path: Path) -> None:
    """Kill -9 of the collector between two generations: both finish, nothing is raised, one line is logged."""
    with Serving(tmp_path / "data") as running:
        script = tmp_path / "survive.py"
        script.write_text(textwrap.dedent("""
            import os, signal, sys, logging, cutaway
            logging.basicConfig(level=logging.INFO, stream=sys.stderr)
            from cutaway import smollm2
            model, tokenizer = smollm2.load()
            cutaway.configure(endpoint="http://" + sys.argv[1], protocol=sys.argv[2])
            cutaway.instrument()
            inputs = tokenizer("Hello", return_tensors="pt")
            first = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            cutaway.flush()
            os.kill(int(sys.argv[3]), signal.SIGKILL)
            for _ in range(3):
                again = model.generate(**inputs, max_new_tokens=4, do_sample=False)
                cutaway.flush()
            print(first.tolist() == again.tolist())
            cutaway.shutdown()
        """))
        done = subprocess.run([sys.executable, str(script), running.addresses["otlp_grpc"], "grpc", str(running.process.pid)],
                              capture_output=True, text=True, timeout=120)
        running.process.wait(timeout=10)
    lines = [line for line in done.stderr.splitlines() if "cutaway" in line.lower() or "export" in line.lower()]
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
