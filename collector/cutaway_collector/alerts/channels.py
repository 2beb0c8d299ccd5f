"""Who is told of an alert and how: the log, a signed webhook, a Slack-compatible webhook, e-mail.

Not when and how often to try: see `deliveries`. A channel names where its secret lies, in a file of one directory or a variable of
one prefix, and the secret is read when it is needed: neither the database, nor a log, nor a page ever holds it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import smtplib
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from pathlib import Path
from typing import Any, Final

from cutaway_collector.alerts.egress import SECONDS_MAX, Egress, Failed, Refused, deadline, split_url
from cutaway_collector.alerts.fields import Reader, RuleError, where_of

_LOG: Final = logging.getLogger("cutaway.alerts")
VARIABLE_PREFIX: Final = "CUTAWAY_ALERT_"
SECRET_BYTES_MAX: Final = 4096
TIMESTAMP_HEADER: Final = "X-Cutaway-Timestamp"
SIGNATURE_HEADER: Final = "X-Cutaway-Signature"
EVENT_HEADER: Final = "X-Cutaway-Event"
RECIPIENTS_MAX: Final = 20
SUBJECT_CHARS_MAX: Final = 200
"""Of a letter, whose first line says it all."""
_TOO_LATE: Final = frozenset({408, 425, 429})

SCHEMA: Final[dict[str, dict[str, str]]] = {
    "log": {},
    "webhook": {
        "url": "where to POST the JSON to; or `url_file` or `url_env`",
        "url_file": "file that holds the URL", "url_env": f"variable that holds it, {VARIABLE_PREFIX}...",
        "secret_file": "file that holds the key of the signature", "secret_env": f"variable that holds it, {VARIABLE_PREFIX}...",
    },
    "slack": {
        "url_file": "file that holds the URL of the incoming webhook, which is a secret",
        "url_env": f"variable that holds it, {VARIABLE_PREFIX}...",
    },
    "email": {
        "host": "the mail server", "port": "its port (default 587)", "from": "sender's address", "to": "addresses, at most 20",
        "tls": "starttls (default), tls (from the first byte) or none",
        "user": "user name; left out, nobody signs in",
        "secret_file": "file that holds the password", "secret_env": f"variable that holds it, {VARIABLE_PREFIX}...",
    },
}
"""Kind of a channel -> its keys, beside name and kind."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel. url: "" where url_at names it; *_at: "file:NAME" or "env:NAME", "" for none."""

    name: str
    kind: str
    url: str = ""
    url_at: str = ""
    secret_at: str = ""
    host: str = ""
    port: int = 587
    sender: str = ""
    to: tuple[str, ...] = ()
    tls: str = "starttls"
    user: str = ""
    body: str = ""


def parse_channel(value: Any, where: str = "channel") -> Channel:
    """A channel from what YAML or JSON gave. Raises RuleError."""
    if not isinstance(value, Mapping):
        raise RuleError(f"{where} is a mapping with name and kind")
    where = where_of("channel", value, where)
    kind = Reader(where, value, [*value]).choice("kind", SCHEMA)
    reader = Reader(where, value, ["name", "kind", *SCHEMA[kind]])
    name = reader.name()
    channel = Channel(
        name, kind, url=reader.text("url", "", most=2000), url_at=_reference(reader, "url"), secret_at=_reference(reader, "secret"),
        host=reader.text("host", "", most=253), port=reader.whole("port", 587, least=1, most=65535),
        sender=reader.text("from", "", most=320), to=reader.texts("to", most=RECIPIENTS_MAX),
        user=reader.text("user", "", most=320),
        tls=reader.choice("tls", ("starttls", "tls", "none"), "starttls"),
        body=json.dumps(value, sort_keys=True))
    if kind in ("webhook", "slack"):
        if bool(channel.url) == bool(channel.url_at):
            raise RuleError(f"{reader.where}: it needs one of {', '.join(key for key in SCHEMA[kind] if key.startswith('url'))}")
        if channel.url:
            try:
                split_url(channel.url)
            except Refused as error:
                raise RuleError(f"{reader.where}: {error}") from None
    if kind == "webhook" and not channel.secret_at:
        raise RuleError(f"{reader.where}: it needs secret_file or secret_env: a webhook is signed, so that ours can be told apart")
    if kind == "email":
        addresses = (channel.sender, *channel.to)
        if not channel.host or not channel.to or not all("@" in parseaddr(one)[1] and one.isprintable() for one in addresses):
            raise RuleError(f"{reader.where}: it needs host, from and to, addresses as name@example.org")
        if bool(channel.user) != bool(channel.secret_at) or (channel.user and channel.tls == "none"):
            raise RuleError(f"{reader.where}: user goes with secret_file or secret_env, and with tls starttls or tls: "
                            "a password is not sent in the clear")
    return channel


def _reference(reader: Reader, what: str) -> str:
    file, env = (reader.text(f"{what}_{way}", "", most=200) for way in ("file", "env"))
    if file and env:
        raise RuleError(f"{reader.where}: {what}_file or {what}_env, not both")
    if env and not env.startswith(VARIABLE_PREFIX):
        raise reader.wrong(f"{what}_env", f"a variable whose name begins with {VARIABLE_PREFIX}")
    if file and (Path(file).name != file or file in (".", "..")):
        raise reader.wrong(f"{what}_file", "the name of a file in the directory of the setting alerts_secrets")
    return f"file:{file}" if file else f"env:{env}" if env else ""


class Secrets:
    """Reads what channels refer to. directory: of the setting alerts_secrets, None for none."""

    def __init__(self, directory: Path | None, environ: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._environ = os.environ if environ is None else environ

    def read(self, reference: str) -> str:
        """The secret, without the blanks around it. Raises Failed, which names the reference and never the secret."""
        way, _, name = reference.partition(":")
        if way == "env":
            value = self._environ.get(name, "")
        else:
            if self._directory is None:
                raise Failed("no directory of secrets is set: give --alerts-secrets", lasting=True)
            try:
                path = (self._directory / name).resolve()
                with path.open("rb") as file:
                    # Kubernetes mounts secrets as links within the same directory; one that leads out of it is not ours.
                    inside = path.is_relative_to(self._directory.resolve())
                    value = file.read(SECRET_BYTES_MAX).decode() if inside else ""
            except (OSError, UnicodeDecodeError):
                value = ""
        if not value.strip():
            raise Failed(f"the secret {reference} cannot be read, or is empty")
        return value.strip()


class Channels:
    """Sends messages. message: as `deliveries.message`. now_s: the clock that signs."""

    def __init__(self, egress: Egress, secrets: Secrets, *, now_s: Callable[[], float] = time.time,
                 seconds_max: float = SECONDS_MAX) -> None:
        self._egress = egress
        self._secrets = secrets
        self._now_s = now_s
        self._seconds_max = seconds_max

    def send(self, channel: Channel, message: Mapping[str, Any]) -> str | None:
        """Delivers it; what is to be noted though it arrived. Raises Refused or Failed, in words without secrets."""
        ways: dict[str, Callable[[Channel, Mapping[str, Any]], str | None]] = {
            "log": self._log, "webhook": self._webhook, "slack": self._slack, "email": self._email}
        return ways[channel.kind](channel, message)

    def _log(self, channel: Channel, message: Mapping[str, Any]) -> None:
        level = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}[message["severity"]]
        _LOG.log(logging.INFO if message["kind"] == "resolved" else level, "%s", subject(message))

    def _url(self, channel: Channel) -> str:
        return channel.url or self._secrets.read(channel.url_at)

    def _webhook(self, channel: Channel, message: Mapping[str, Any]) -> None:
        body = json.dumps(message, sort_keys=True).encode()
        stamp = str(int(self._now_s()))
        key = self._secrets.read(channel.secret_at)
        self._post(self._url(channel), body, {"Content-Type": "application/json", EVENT_HEADER: message["event"],
                                              TIMESTAMP_HEADER: stamp, SIGNATURE_HEADER: signature(key, stamp, body)})

    def _slack(self, channel: Channel, message: Mapping[str, Any]) -> None:
        text = "\n".join((subject(message), *lines(message)))
        for char, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(char, escaped)
        self._post(self._url(channel), json.dumps({"text": text}).encode(), {"Content-Type": "application/json"})

    def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        status = self._egress.post(url, body, headers)
        if 300 <= status < 400:
            raise Failed(f"it answered {status}, a redirect, which is not followed: give the final address", lasting=True)
        if not 200 <= status < 300:
            raise Failed(f"it answered {status}", lasting=400 <= status < 500 and status not in _TOO_LATE)

    def _email(self, channel: Channel, message: Mapping[str, Any]) -> str:
        letter = EmailMessage()
        said = subject(message)
        letter["From"], letter["To"] = channel.sender, ", ".join(channel.to)
        letter["Subject"] = said if len(said) <= SUBJECT_CHARS_MAX else f"{said[: SUBJECT_CHARS_MAX - 1]}\u2026"
        letter["Date"] = formatdate(self._now_s())
        letter["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence answers it
        letter["Message-ID"] = f"<{message['event']}.{channel.name}@cutaway.invalid>"
        letter.set_content("\n".join((said, "", *lines(message))) + "\n")
        password = self._secrets.read(channel.secret_at) if channel.secret_at else ""
        try:
            with _Mail(self._egress, channel, self._seconds_max) as server:
                if channel.tls == "starttls":
                    server.starttls(context=self._egress.tls)
                if channel.user:
                    server.login(channel.user, password)
                refused = server.send_message(letter)
        except smtplib.SMTPAuthenticationError as error:
            raise Failed(f"the mail server refused the sign-in ({error.smtp_code}): user or password is wrong",
                         lasting=error.smtp_code >= 500) from None
        except smtplib.SMTPResponseException as error:
            raise Failed(f"the mail server answered {error.smtp_code}", lasting=error.smtp_code >= 500) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise Failed(f"the mail server refused every address ({min(codes)})", lasting=min(codes) >= 500) from None
        except smtplib.SMTPNotSupportedError:
            raise Failed("the mail server offers no STARTTLS or no sign-in: nothing is sent without", lasting=True) from None
        except smtplib.SMTPServerDisconnected:
            raise Failed(f"{channel.host}:{channel.port} was silent for {self._seconds_max:g} s, or hung up: is it a mail server, "
                         f"and is tls {channel.tls} what it speaks there?") from None
        except (smtplib.SMTPException, OSError) as error:
            raise Failed(f"the mail server gave up: {type(error).__name__}") from None
        # Whoever was accepted has it, and would have it twice were it sent again.
        left_out = ", ".join(f"{address} ({code})" for address, (code, _) in sorted(refused.items()))
        return f"not {left_out}: the mail server refused" if refused else ""


class _Mail(smtplib.SMTP):
    """smtplib over a connection that the egress has checked."""

    def __init__(self, egress: Egress, channel: Channel, seconds_max: float) -> None:
        self._egress = egress
        self._tls_at_once = channel.tls == "tls"
        self._seconds_max = seconds_max
        self._guard = ExitStack()
        super().__init__(channel.host, channel.port, local_hostname=socket.gethostname(), timeout=seconds_max)

    def _get_socket(self, host: str, port: int, timeout: float) -> Any:
        raw = self._egress.connect(host, port)
        self._guard.enter_context(deadline(raw, 3 * self._seconds_max))
        self._host = host  # what STARTTLS checks the certificate against
        return self._egress.tls.wrap_socket(raw, server_hostname=host) if self._tls_at_once else raw

    def close(self) -> None:
        """Ends the connection and the watch over it."""
        super().close()
        self._guard.close()


def signature(key: str, stamp: str, body: bytes) -> str:
    """sha256=HMAC-SHA256 of "TIMESTAMP.BODY": the time is signed, so that a receiver can refuse what is replayed."""
    return "sha256=" + hmac.new(key.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def subject(message: Mapping[str, Any]) -> str:
    """One line: what happened to what, though a search of YAML may have several and a group be called anything."""
    group = f" [{', '.join(value or '(none)' for value in message['group'].values())}]" if message["group"] else ""
    known = message["value"] is not None and message["value_words"]
    value = f": {message['value_words']} is {message['value']:.4g}" if known else ""
    return _one_line(f"{message['kind']} ({message['severity']}) {message['rule']}{group}{value}, {message['condition']}")


def lines(message: Mapping[str, Any]) -> list[str]:
    """The rest, a fact a line."""
    facts = [("window", f"{message['window_start']} to {message['window_end']}"), ("search", message["query"] or "every span"),
             ("owner", message["owner"]), ("what to look at", message["advice"]), ("runbook", message["runbook"]),
             ("because", message["reason"]), ("link", message["link"]), *message["labels"].items()]
    return [_one_line(f"{name}: {text}") for name, text in facts if text]


def _one_line(text: str) -> str:
    """Blanks and breaks as one blank, and nothing that would move a terminal's cursor or end a header."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))
