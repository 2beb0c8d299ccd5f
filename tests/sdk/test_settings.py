"""Settings: arguments over environment over defaults, and errors that say rule, value and remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

import cutaway
from cutaway import settings
from cutaway.errors import ConfigurationError


def test_arguments_win_over_the_environment() -> None:
    """An argument beats a variable, a variable beats the default; of two variables the specific one wins."""
    environ = {"CUTAWAY_CAPTURE": "numbers", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:2"}

    assert settings.load({}, {}).capture == "ids"
    assert settings.load({}, environ).capture == "numbers"
    assert settings.load({"capture": "text"}, environ).capture == "text"
    assert settings.load({}, environ).endpoint == "http://b:2"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"capture": "all"}, "capture is one of 'numbers', 'ids', 'text'; it is 'all'"),
    ({"protocol": "http/json"}, "protocol is one of 'grpc', 'http/protobuf'; it is 'http/json'"),
    ({"series_bytes_max": -1}, "series_bytes_max is a whole number from 0 up; it is -1"),
    ({"endpoint": "ftp://host"}, "endpoint begins with http:// or https://"),
    ({"colour": "red"}, "unknown setting 'colour'"),
])
def test_a_wrong_argument_is_explained(arguments: dict[str, Any], message: str) -> None:
    """The message names the setting, what it may be and what it was."""
    with pytest.raises(ConfigurationError) as caught:
        settings.load(arguments, {})

    assert message in str(caught.value)


def test_a_wrong_variable_is_named() -> None:
    """A number that is none: the message names the variable."""
    with pytest.raises(ConfigurationError, match="OTEL_BSP_MAX_QUEUE_SIZE is a whole number; it is 'many'"):
        settings.load({}, {"OTEL_BSP_MAX_QUEUE_SIZE": "many"})


def test_every_setting_has_help_and_a_reason() -> None:
    """The table is complete: documentation derives from it."""
    assert all(row.help and row.reason and row.env for row in settings.table())
    assert settings.table()[0].env == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(("name", "value", "rule"), [
    ("endpoint", 4317, "is a string"), ("endpoint", "http://h:99999", "port from 1 to 65535"),
    ("endpoint", "h:port", "port from 1 to 65535"),
    ("endpoint", "http://h:0", "port from 1 to 65535"), ("endpoint", "http://", "has a host"),
    ("endpoint", "http://a b", "no spaces"),
    ("endpoint", "http://[::1", "port"), ("service_name", b"x", "is a string"), ("capture", ["ids"], "is a string"),
    ("disabled", "maybe", "is true or false"), ("disabled", 1, "is true or false"),
    ("timeout_seconds", float("inf"), "above 0"), ("timeout_seconds", float("nan"), "above 0"), ("timeout_seconds", 0, "above 0"),
    ("timeout_seconds", "5", "above 0"), ("flush_seconds_max", -1, "above 0"), ("flush_seconds_max", True, "above 0"),
    ("delay_ms", 1.5, "whole number"), ("queue_spans_max", True, "whole number"),
    ("series_bytes_max", 10**30, "whole number of at most"),
    ("content", "some", "is one of NO_CONTENT"), ("content", 5, "is a string"),
    ("headers", 5, "pairs of name and value"), ("headers", "x-team", "pairs of name and value"),
    ("headers", {"a": 1}, "are strings"), ("headers", {"a b": "c"}, "letters, digits"), ("headers", {"a": "b\nc"}, "printable"),
])
def test_every_wrong_value_is_explained(name: str, value: Any, rule: str) -> None:
    """Rule, name and remedy, whatever the type."""
    with pytest.raises(ConfigurationError) as caught:
        settings.load({name: value}, {})

    assert rule in str(caught.value)
    assert name.rstrip("s") in str(caught.value)
    assert ": " in str(caught.value)


@pytest.mark.parametrize(("variable", "text"), [
    ("OTEL_BSP_SCHEDULE_DELAY", "1.5"), ("OTEL_BSP_SCHEDULE_DELAY", "inf"), ("OTEL_BSP_SCHEDULE_DELAY", "nan"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), ("OTEL_SDK_DISABLED", "1"),
])
def test_a_wrong_text_names_its_variable(variable: str, text: str) -> None:
    """Nothing is rounded or guessed."""
    with pytest.raises(ConfigurationError, match=f"{variable} is .*{text}"):
        settings.load({}, {variable: text})


@pytest.mark.parametrize(("given", "meant"), [
    ("false", False), ("False", False), ("TRUE", True), (True, True),
])
def test_disabled_is_read_as_a_word(given: Any, meant: bool) -> None:
    """The word `false` is not true."""
    assert settings.load({"disabled": given}, {}).disabled is meant


@pytest.mark.parametrize(("given", "meant"), [
    (True, "SPAN_ONLY"),
    ("true", "SPAN_ONLY"), (False, "NO_CONTENT"), ("event_only", "EVENT_ONLY"), ("Span_And_Event", "SPAN_AND_EVENT"),
])
def test_content_is_read_alike_from_arguments_and_variables(given: Any, meant: str) -> None:
    """Any case, true and false too."""
    assert settings.load({"content": given}, {}).content == meant
    assert settings.load({}, {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": str(given)}).content == meant


def test_fractions_of_seconds_are_kept() -> None:
    """By argument and by variable."""
    assert settings.load({"timeout_seconds": 0.5}, {}).timeout_seconds == 0.5
    assert settings.load({}, {"OTEL_EXPORTER_OTLP_TIMEOUT": "2.5"}).timeout_seconds == 2.5


def test_values_of_headers_may_hold_commas() -> None:
    """The pairs of a mapping stay pairs; a text is cut at its commas."""
    given = {"Authorization": "Digest a=1,b=2", "x-team": "50%20blue"}

    assert settings.load({"headers": given}, {}).headers == tuple(given.items())
    assert settings.load({"headers": "a=1,b=2"}, {}).headers == "a=1,b=2"


def test_the_message_about_headers_holds_no_value() -> None:
    """A value may be a secret."""
    for headers in ("x=1,hunter2", {"key": "hunter2\n"}, {"key": b"hunter2"}):
        with pytest.raises(ConfigurationError) as caught:
            settings.load({"headers": headers}, {})
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["tracer_provider", "exporter", "span_processor", "clock", "resource_attributes"])
def test_an_object_of_the_wrong_kind_is_refused(name: str) -> None:
    """Told by `configure`, not by the first span."""
    with pytest.raises(ConfigurationError, match=f"{name} is an object with .*; it is of type str: "):
        cutaway.configure(**{name: "wrong"})


@pytest.mark.parametrize(("variable", "text"), [
    ("CUTAWAY_CAPTURE", "all"), ("OTEL_SDK_DISABLED", "yes"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:99999"),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),
])
def test_a_malformed_variable_costs_a_program_one_line(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody called `configure`: the program runs untraced; one warning without a traceback."""
    monkeypatch.setenv(variable, text)
    cutaway.shutdown()
    try:
        for _ in range(2):
            with cutaway.span("x") as span:
                assert not span.is_recording()
    finally:
        cutaway.shutdown()
    (record,) = caplog.records

    assert record.getMessage().startswith("nothing is traced: ")
    assert record.exc_info is None


def test_a_malformed_limit_does_not_stop_a_program() -> None:
    """Read while opentelemetry is imported, so in a new process: one warning there too, and the variable stays as it was."""
    program = (
        "import os, cutaway\n"
        "with cutaway.span('x') as span: print(span.is_recording(), os.environ['OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240,
                          env=os.environ | {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"})

    assert (0, "False many\n") == (done.returncode, done.stdout), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("nothing is traced: ")
