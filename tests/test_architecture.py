"""The shape of the code, as data: who may import whom, no cycles, nothing too large, nothing without its first sentence."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"cutaway": ROOT / "sdk" / "cutaway", "cutaway_collector": ROOT / "collector" / "cutaway_collector"}
FILE_LINES_MAX = 420
FUNCTION_LINES_MAX = 75

NOUNS = "nouns"
VERBS = "verbs"
FLOWS = "flows"
WIRING = "wiring"
ORDER = (NOUNS, VERBS, FLOWS, WIRING)

LAYERS: dict[str, dict[str, str]] = {
    "cutaway": {
        "conventions": NOUNS, "settings": NOUNS, "errors": NOUNS, "steps": NOUNS,
        "tap": VERBS, "measure": VERBS, "prompt": VERBS, "worker": VERBS, "record": VERBS, "encode": VERBS, "export": VERBS,
        "guard": VERBS, "machine": VERBS, "metrics": VERBS, "content": VERBS, "dialect": VERBS, "redaction": VERBS,
        "propagation": VERBS, "sequences": VERBS, "evaluations": VERBS, "diffusion": VERBS,
        "configuration": FLOWS, "generation": FLOWS, "words": FLOWS, "failures": FLOWS, "denoising": FLOWS,
        "instrumentation": FLOWS, "decorator": FLOWS, "scoring": FLOWS,
        "": WIRING, "testing": WIRING, "smollm2": WIRING,
    },
    "cutaway_collector": {
        "columns": NOUNS, "dialects": NOUNS, "blocks": NOUNS, "settings": NOUNS, "errors": NOUNS, "contracts": NOUNS,
        "directories": NOUNS, "rates": NOUNS, "amplification": NOUNS, "patience": NOUNS, "asker": NOUNS,
        "alert_columns": NOUNS, "messages": NOUNS, "table_shapes": NOUNS, "drift_columns": NOUNS,
        "window_columns": NOUNS, "saved_columns": NOUNS,
        "credentials": VERBS, "redact": VERBS,
        "receive": VERBS, "decode": VERBS, "spool": VERBS, "score": VERBS, "batch": VERBS, "store": VERBS, "search": VERBS,
        "drift": VERBS,
        "judge": VERBS, "windows": VERBS, "align": VERBS,
        "latent": VERBS,
        "judging": FLOWS, "windowing": FLOWS,
        "pipeline": FLOWS, "backfill": FLOWS, "scores_out": FLOWS, "baselines": FLOWS, "alerts": FLOWS, "web": FLOWS,
        "comparison": FLOWS,
        "process": WIRING, "app": WIRING, "ui_server": WIRING, "cli": WIRING, "commands": WIRING, "demo": WIRING,
        "demo_scenes": WIRING,
        "__main__": WIRING, "": WIRING,
    },
}
"""Package -> first part of the module path -> layer. A module that is not here has no place yet: give it one."""

EVERYBODYS = {"guard"}
"""The one verb others may use: keeping our own faults out of the host program is everybody's business."""

HALVES: set[tuple[str, str]] = set()
"""Verbs that are two halves of one; a verb that outgrows a file becomes a package instead."""

ACROSS = {("cutaway_collector", "cutaway.conventions")}
"""The collector reads the SDK's vocabulary and nothing else of it..."""
USERS_OF_THE_SDK = {"demo", "demo_scenes"}
"""...but for the demo, which is a user of the SDK like any other and imports its public package."""


def _modules() -> Iterator[tuple[str, str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield package, ".".join(part for part in parts if part != "__init__"), path


MODULES = list(_modules())
IDS = [f"{package}.{module}" for package, module, _ in MODULES]


def _imports(path: Path, package: str, module: str) -> set[str]:
    """Absolute names this file imports, TYPE_CHECKING blocks and function bodies included."""
    is_package = path.name == "__init__.py"
    here = [package, *([part for part in module.split(".") if part])]
    base = here if is_package else here[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            prefix = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*prefix, *([node.module] if node.module else [])])
            names |= {f"{origin}.{alias.name}" for alias in node.names}
    return names


def _owner(name: str) -> tuple[str, str] | None:
    package, _, rest = name.partition(".")
    return (package, rest.split(".")[0]) if package in LAYERS else None


def _layer(package: str, part: str) -> str:
    return LAYERS[package].get(part, WIRING if part == "" else "")


@pytest.mark.parametrize(("package", "module", "path"), MODULES, ids=IDS)
def test_every_module_has_a_place(package: str, module: str, path: Path) -> None:
    """A new file must be given a layer, or live in a package that has one."""
    assert module.split(".")[0] in LAYERS[package]


@pytest.mark.parametrize(("package", "module", "path"), MODULES, ids=IDS)
def test_imports_point_at_nouns(package: str, module: str, path: Path) -> None:
    """A module imports only layers to its left, and never another verb."""
    part = module.split(".")[0]
    mine = _layer(package, part)
    for name in _imports(path, package, module):
        owner = _owner(name)
        if owner is None:
            continue
        other_package, other = owner
        if other_package != package:
            known = any(package == here and name.startswith(there) for here, there in ACROSS) or name == "cutaway.conventions"
            assert known or part in USERS_OF_THE_SDK, f"{package}.{module} may not import {name}"
            continue
        if other == part or other not in LAYERS[package]:
            continue  # its own package, or a name of the package's own __init__
        theirs = _layer(other_package, other)
        assert ORDER.index(theirs) <= ORDER.index(mine), f"{mine} {module} imports {theirs} {name}"
        allowed = mine != VERBS or theirs != VERBS or other in EVERYBODYS or (part, other) in HALVES
        assert allowed, f"the verb {module} imports the verb {name}"


def test_there_are_no_import_cycles() -> None:
    """Module-level or not, imports form a tree one can read from its leaves."""
    known = {f"{package}.{module}".rstrip("."): (package, module, path) for package, module, path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, (package, module, path) in known.items():
        targets = set()
        for imported in _imports(path, package, module):
            target = imported if imported in known else imported.rpartition(".")[0]
            if target in known and target != name and not name.startswith(f"{target}."):
                targets.add(target)
        graph[name] = targets
    # A package's __init__ re-exports its own modules; its modules import siblings, never the package.
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(("package", "module", "path"), MODULES, ids=IDS)
def test_files_stay_small_and_introduce_themselves(package: str, module: str, path: Path) -> None:
    """A file over the limit holds two things; every file begins with what it is."""
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES_MAX
    assert ast.get_docstring(ast.parse(text)), "a module begins with one sentence of what it is"


@pytest.mark.parametrize(("package", "module", "path"), MODULES, ids=IDS)
def test_functions_stay_small(package: str, module: str, path: Path) -> None:
    """A function over the limit is telling you that it holds two things."""
    long = [
        f"{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_only_the_tap_knows_transformers() -> None:
    """One family of files knows Hugging Face; the demo model's loader and the test kit are its users."""
    knowing = {
        f"{package}.{module}" for package, module, path in MODULES
        if any(name.split(".")[0] == "transformers" for name in _imports(path, package, module))
    }
    allowed = {"cutaway.smollm2", "cutaway.testing", "cutaway_collector.demo", "cutaway_collector.demo_scenes"}
    assert {name for name in knowing - allowed if not name.startswith("cutaway.tap")} == set()


def test_nobody_imports_diffusers() -> None:
    """Not even the verb that knows it: it waits until the host program does."""
    assert [f"{package}.{module}" for package, module, path in MODULES
            if any(name.split(".")[0] == "diffusers" for name in _imports(path, package, module))] == []
