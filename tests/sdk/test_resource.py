"""Who sent a span: the process and the machine, OpenTelemetry's variables, and never the command line."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

import cutaway
from cutaway.testing import recorded

PROGRAM = """
import json, os, sys
import cutaway
from cutaway import instrumentation
cutaway.configure(exporter=None, **json.loads(os.environ.get("ARGUMENTS", "{}")))

def resource():
    with cutaway.span("work") as span:
        return dict(span.resource.attributes)

print(json.dumps(resource()), flush=True)
if "fork" in sys.argv:
    pid = os.fork()
    if not pid:
        print(json.dumps(resource() | {"actual": os.getpid()}), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def resources(*arguments: str, configured: dict[str, Any] | None = None, **environ: str) -> list[dict[str, Any]]:
    """Resource attributes in a fresh interpreter, and in its forked child when asked for."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=120,
        env={**clean, "OTEL_TRACES_EXPORTER": "none", "ARGUMENTS": json.dumps(configured or {}), **environ},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_span_says_which_process_and_machine_it_is_from() -> None:
    """Without a single variable: service, SDK, process, runtime, host and system, as the standard library tells them here."""
    with recorded() as spans, cutaway.span("work"):
        pass
    found = spans.get_finished_spans()[0].resource.attributes

    assert found["process.pid"] == os.getpid()
    assert found["process.runtime.name"] == sys.implementation.name
    assert found["process.runtime.version"] == platform.python_version()
    assert found["host.name"] == socket.gethostname()
    assert found["os.type"] == platform.system().lower()
    assert found["telemetry.distro.name"] == "cutaway"
    assert found["telemetry.distro.version"] == version("cutaway")
    assert found["telemetry.sdk.name"] == "opentelemetry"
    assert found["telemetry.sdk.language"] == "python"
    assert len(found["service.instance.id"]) == 36
    assert found["service.name"]


def test_the_command_line_stays_here() -> None:
    """Arguments may be secrets: none is in the resource, also where OpenTelemetry's own detector of processes is asked for."""
    for detectors in ("", "process,os,host"):
        (found,) = resources("--password=hunter2", OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=detectors)

        assert "hunter2" not in json.dumps(found)
        assert {"process.command_args", "process.command_line"}.isdisjoint(found)


def test_variables_win_over_what_was_detected() -> None:
    """An operator's word about the host and the instance is the last one, but for the program's own."""
    (found,) = resources(
        configured={"resource_attributes": {"deployment.environment.name": "by program"}, "service_name": "writer"},
        OTEL_RESOURCE_ATTRIBUTES="host.name=pod-7,service.instance.id=a%20b,deployment.environment.name=by%20variable,process.pid=x",
        OTEL_SERVICE_NAME="other",
    )

    assert found["host.name"] == "pod-7"
    assert found["service.instance.id"] == "a b"
    assert found["deployment.environment.name"] == "by program"
    assert found["service.name"] == "writer"


def test_detectors_asked_for_by_variable_run() -> None:
    """OTEL_EXPERIMENTAL_RESOURCE_DETECTORS: what only OpenTelemetry's detector of processes tells is there."""
    (found,) = resources(OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="process")

    assert found["process.executable.path"] == sys.executable


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_its_own_process_id() -> None:
    """And its own instance id; what does not change stays."""
    parent, child = resources("fork")

    assert child["process.pid"] == child["actual"] != parent["process.pid"]
    assert child["service.instance.id"] != parent["service.instance.id"]
    assert child["host.name"] == parent["host.name"]
