"""The settings table: every knob has a reason and limits, and nonsense is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from cutaway_collector import settings
from cutaway_collector.errors import SettingsError

NUMBERS = [row for row in settings.table() if isinstance(row.default, int) and not isinstance(row.default, bool)]


@pytest.mark.parametrize("row", settings.table(), ids=lambda row: row.name)
def test_every_setting_says_what_and_why(row: settings.SettingRow) -> None:
    """Help and a reason for the default; flag and variable follow from the name."""
    assert row.help
    assert row.reason
    assert (row.flag, row.env) == ("--" + row.name.replace("_", "-"), "CUTAWAY_" + row.name.upper())


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_numbers_have_limits(row: settings.SettingRow) -> None:
    """One below the least and one above the most are refused, naming the setting; the limits themselves are taken."""
    for value in (row.least, row.most):
        assert getattr(settings.Settings(**{row.name: value}), row.name) == value
    for value in (row.least - 1, row.most + 1):
        with pytest.raises(SettingsError, match=row.name):
            settings.Settings(**{row.name: value})


@pytest.mark.parametrize("address", ["127.0.0.1:²", "[::1:0", "4317", ":4317", "localhost:", "localhost:70000", "a b:1", "::1:1"])
def test_an_address_is_host_and_port(address: str) -> None:
    """Anything else is refused with the setting's name and an example."""
    with pytest.raises(SettingsError, match=r"ui is host:port.*127\.0\.0\.1"):
        settings.Settings(ui=address)


def test_ipv6_addresses_stand_in_brackets() -> None:
    """[::1]:8088 is the host ::1 and the port 8088."""
    assert settings.split_address("ui", "[::1]:8088") == ("::1", 8088)


@pytest.mark.parametrize("name", ["otlp_grpc", "otlp_http", "ui"])
def test_beyond_loopback_only_when_asked(name: str) -> None:
    """Spans hold prompts: other addresses need an explicit word."""
    with pytest.raises(SettingsError, match="--insecure-bind"):
        settings.Settings(**{name: "0.0.0.0:0"})
    assert getattr(settings.Settings(**{name: "0.0.0.0:0", "insecure_bind": True}), name) == "0.0.0.0:0"


@pytest.mark.parametrize("changes", [{"clickhouse": "junk"}, {"clickhouse": "ftp://x"}, {"score_device": "tpu"}])
def test_words_are_checked(changes: dict[str, Any]) -> None:
    """A value no collector could use is refused at once, naming the setting."""
    with pytest.raises(SettingsError, match=next(iter(changes))):
        settings.Settings(**changes)


def test_flags_win_over_the_environment() -> None:
    """Flag, then environment, then default."""
    environment = {"CUTAWAY_RETENTION_DAYS": "7", "CUTAWAY_PAGE_ROWS_MAX": "50", "CUTAWAY_INSECURE_BIND": "yes"}
    loaded = settings.load({"retention_days": 9, "data": None}, environment)
    assert (loaded.retention_days, loaded.page_rows_max, loaded.insecure_bind, loaded.data) == (9, 50, True, "")


@pytest.mark.parametrize(("variable", "text"), [("CUTAWAY_RETENTION_DAYS", "a week"), ("CUTAWAY_INSECURE_BIND", "perhaps")])
def test_a_variable_that_cannot_be_read_is_named(variable: str, text: str) -> None:
    """The message names the variable and the value."""
    with pytest.raises(SettingsError, match=f"{variable}.*{text}"):
        settings.load({}, {variable: text})
