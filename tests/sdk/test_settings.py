"""Settings: arguments over environment over defaults, and errors that say rule, value and remedy."""

from __future__ import annotations

from typing import Any

import pytest

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
