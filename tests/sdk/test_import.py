"""Importing cutaway: nothing heavy comes with it, and what is missing is said when it is needed."""

from __future__ import annotations

import subprocess
import sys


def run(program: str) -> str:
    """Output of a fresh interpreter; fails with its error output."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_brings_nothing_heavy() -> None:
    """No torch, transformers, collector, numpy or OpenTelemetry SDK after `import cutaway`."""
    heavy = "{'torch', 'transformers', 'cutaway_collector', 'numpy', 'opentelemetry', 'grpc', 'requests'}"

    assert run(f"import sys, cutaway; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_tracing_needs_no_torch() -> None:
    """With torch and transformers blocked, functions and blocks are traced all the same."""
    assert run(
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import cutaway\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "memory = InMemorySpanExporter()\n"
        "cutaway.configure(span_processor=SimpleSpanProcessor(memory))\n"
        "@cutaway.trace\n"
        "def work():\n"
        "    with cutaway.span('inside'):\n"
        "        return 1\n"
        "work()\n"
        "cutaway.uninstrument()\n"
        "print([span.name for span in memory.get_finished_spans()])\n"
    ) == "['inside', 'work']"


def test_a_missing_package_is_said_with_its_remedy() -> None:
    """`instrument()` without transformers: an error of ours that says what to install."""
    assert "pip install 'cutaway[hf]'" in run(
        "import importlib.util as u, cutaway\n"
        "from cutaway.errors import MissingDependency\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'transformers' else find(name, *rest)\n"
        "try:\n    cutaway.instrument()\n"
        "except MissingDependency as error:\n    print(error)\n"
    )


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A typing error in `cutaway.instrumnet` is answered with what exists."""
    assert "instrument" in run("import cutaway\ntry:\n    cutaway.instrumnet\nexcept AttributeError as error:\n    print(error)\n")
