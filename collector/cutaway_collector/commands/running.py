"""How a command finds a running collector and speaks to it: its address, its certificate, an API key. No sub-command of its own."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cutaway_collector.errors import CutawayError, SettingsError
from cutaway_collector.settings import Settings

ADDRESSES: Final = "collector.json"
"""File of the data directory in which `cutaway serve` says where it answers, while it runs."""
KEY_VARIABLE: Final = "CUTAWAY_API_KEY"
_SECONDS_MAX: Final = 30


def add_arguments(to: argparse.ArgumentParser) -> None:
    """Flags for speaking to a running collector."""
    to.add_argument("--url", default="", help="a running collector's UI, http://host:port (default: the one that owns --data)")
    to.add_argument("--ca", default="", metavar="FILE", help="PEM file of who signed its certificate, if not known here")
    to.epilog = f"An API key, where the collector demands one, comes from the variable {KEY_VARIABLE}; it needs the scope admin."


def write_addresses(settings: Settings, addresses: Mapping[str, Any]) -> None:
    """Leaves word for `find`. A file that cannot be written is no reason not to serve."""
    if settings.data:
        path = Path(settings.data) / ADDRESSES
        try:
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                json.dump({**addresses, "scheme": "https" if settings.tls_certificate else "http", "pid": os.getpid()}, file)
        except OSError:
            return


def forget_addresses(settings: Settings) -> None:
    """Takes the word back."""
    if settings.data:
        (Path(settings.data) / ADDRESSES).unlink(missing_ok=True)


def read_addresses(settings: Settings) -> Mapping[str, str] | None:
    """Where the collector of `settings.data` says it answers; None when there is no word of it."""
    try:
        found = json.loads((Path(settings.data) / ADDRESSES).read_text()) if settings.data else None
        return found if isinstance(found, dict) and isinstance(found.get("ui"), str) else None
    except (OSError, ValueError):
        return None


def find(settings: Settings, arguments: argparse.Namespace | None = None) -> Collector:
    """The collector that owns the data directory, else the one at the address of the settings."""
    said = read_addresses(settings)
    scheme = "https" if settings.tls_certificate else "http"
    return Collector(f"{said.get('scheme', 'http')}://{said['ui']}" if said else f"{scheme}://{settings.ui}", arguments)


class Collector:
    """A running collector, asked over HTTP. Raises SettingsError for what is no address."""

    def __init__(self, url: str, arguments: argparse.Namespace | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"--url is an http or https address, it is {url!r}")
        self.url = url.rstrip("/")
        ca = getattr(arguments, "ca", "")
        try:
            self._tls = ssl.create_default_context(cafile=ca or None)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"--ca {ca} cannot be read as PEM certificates: {error}") from None

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """GET, or POST of a JSON body. Raises CutawayError in the collector's own words."""
        status, answer = self.answer(path, body)
        if status >= 400:
            raise CutawayError(_words(answer) or f"{self.url}{path} answered {status}")
        return answer

    def answer(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Status and JSON of one request, None where it is none. Raises CutawayError when there is no answer."""
        key = os.environ.get(KEY_VARIABLE, "")
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        data = None if body is None else json.dumps(body).encode()
        try:
            if data is not None:
                headers |= {"Content-Type": "application/json", **({} if key else self._form_token())}
            with self._open(path, data, headers) as answer:
                return answer.status, _json(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CutawayError(f"the collector at {self.url} does not answer ({error}): give its address with --url") from None

    def _open(self, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        asked = urllib.request.Request(self.url + path, data, dict(headers or {}))  # noqa: S310  the scheme was checked
        return urllib.request.urlopen(asked, timeout=_SECONDS_MAX, context=self._tls)  # noqa: S310

    def _form_token(self) -> dict[str, str]:
        """What a change carries in place of a key: the token of the forms, and the cookie it belongs to."""
        from cutaway_collector.web import form_tokens  # here, for most commands change nothing and start without Flask

        with self._open(form_tokens.ROUTE) as answer:
            cookie = answer.headers.get("Set-Cookie", "").partition(";")[0]
            return {form_tokens.HEADER: json.loads(answer.read())["token"], "Cookie": cookie}


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _words(answer: Any) -> str:
    """What the collector says is wrong, with its hint."""
    said = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(said, dict):
        return ""
    return ": ".join(str(said[name]) for name in ("message", "hint") if said.get(name))
