"""Channels on real sockets: signed webhooks, Slack's form, mail over STARTTLS; and what must not be reached is not."""

from __future__ import annotations

import email
import hashlib
import hmac
import json
import logging
import smtplib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from alerts_helpers import T0_S, hook, rule
from cutaway_collector.alerts import messages
from cutaway_collector.alerts.channels import Channel, Channels, Secrets, parse_channel
from cutaway_collector.alerts.egress import Egress, Failed, Refused, networks
from cutaway_collector.alerts.fields import RuleError
from cutaway_collector.alerts.judge import Change
from cutaway_collector.errors import SettingsError

LOOPBACK = networks("127.0.0.1/32")
SECRET = "s3cr3t-of-the-hook"


def _message(group: str = "chat", **changes: Any) -> dict[str, Any]:
    watched = rule(group_by=["service"], owner="ml", severity="critical", runbook="turn it off", labels={"team": "x"}, **changes)
    step = T0_S // 60
    change = Change(json.dumps([group]), "firing", step, step, 0.5)
    event = messages.event(watched, change, muted=False, base="https://cutaway.example")
    message: dict[str, Any] = json.loads(event.body)
    return message


def _channels(directory: Path, egress: Egress | None = None) -> Channels:
    (directory / "key").write_text(SECRET + "\n")
    return Channels(egress or Egress(LOOPBACK), Secrets(directory, {}), now_s=lambda: 1234.5, seconds_max=5)


def _hooked(url: str) -> Channel:
    return parse_channel({"name": "ops", "kind": "webhook", "url": url, "secret_file": "key"})


def test_a_webhook_is_signed_with_its_time(tmp_path: Path) -> None:
    """A receiver that knows the secret can tell that body and time are ours; the event's id comes along."""
    with hook() as server:
        _channels(tmp_path).send(_hooked(server.url + "/in?x=1"), _message())
    ((path, headers, body),) = server.got

    assert "/in?x=1" == path
    said = hmac.new(SECRET.encode(), b"1234." + body, hashlib.sha256).hexdigest()
    assert {"X-Cutaway-Timestamp": "1234", "X-Cutaway-Signature": f"sha256={said}"}.items() <= headers.items()
    message = json.loads(body)
    assert headers["X-Cutaway-Event"] == message["event"]
    assert ("loops", "firing", {"service": "chat"}, 0.5) == (message["rule"], message["kind"], message["group"], message["value"])
    assert message["link"].startswith("https://cutaway.example/search?")


def test_a_slack_message_is_text_that_cannot_be_markup(tmp_path: Path) -> None:
    """A group's name comes from strangers: it mentions nobody and links nowhere. The URL comes from a file."""
    with hook() as server:
        (tmp_path / "slack").write_text(server.url + "/services/T/B/x")
        slack = parse_channel({"name": "s", "kind": "slack", "url_file": "slack"})
        _channels(tmp_path).send(slack, _message("<!channel> <http://evil|x>"))
    ((path, _, body),) = server.got

    assert "/services/T/B/x" == path
    text = json.loads(body)["text"]
    assert "&lt;!channel&gt;" in text
    assert "<" not in text


def test_the_log_says_it_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An event is one record, whatever a group is called."""
    with caplog.at_level(logging.INFO, "cutaway.alerts"):
        _channels(tmp_path).send(parse_channel({"name": "log", "kind": "log"}), _message())

    (record,) = caplog.records
    assert "firing (critical) loops [chat]: share of repetition:>0.5 is 0.5, above 0.2 for 2m" == record.getMessage()


@pytest.mark.parametrize(("status", "lasting"), [(500, False), (503, False), (429, False), (404, True), (302, True)])
def test_an_answer_that_is_no_success_is_a_failure(tmp_path: Path, status: int, lasting: bool) -> None:
    """What may pass is worth another try; a redirect is not followed, wherever it points."""
    failing = pytest.raises(Failed, match=str(status))
    with hook() as target, hook(status, headers={"Location": target.url}) as server, failing as failed:
        _channels(tmp_path).send(_hooked(server.url), _message())

    assert lasting is failed.value.lasting
    assert [] == target.got


# --- what may not be reached


def _answering(*addresses: str) -> Callable[..., Any]:
    """A resolver that gives these addresses for any name."""
    return lambda host, port, **_: [(socket.AF_INET6 if ":" in one else socket.AF_INET, 1, 6, "", (one, port)) for one in addresses]


@pytest.mark.parametrize("address", [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "192.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:80ff:fffe",
])
def test_no_name_leads_to_an_address_that_is_not_public(address: str) -> None:
    """Loopback, private, link-local, shared, reserved and multicast, bare or dressed as IPv6, mapped, tunnelled or translated."""
    egress = Egress(resolve=_answering(address))
    with pytest.raises(Refused, match="not a public address"):
        egress.post("https://rebind.example/x", b"", {})


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_permitted(address: str) -> None:
    """In the same clothes."""
    assert Egress().permits(address)


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/", "http://localhost:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://0.0.0.0:{port}/",
    "http://0:{port}/", "http://[::]:{port}/",
])
def test_no_spelling_of_loopback_reaches_a_server_there(url: str) -> None:
    """A real server listens, the real resolver reads the name: whole numbers, octal, short and mapped forms included."""
    with hook() as server:
        port = server.url.rpartition(":")[2]
        with pytest.raises((Refused, Failed)) as refused:
            Egress().post(url.format(port=port), b"{}", {})

    assert [] == server.got
    assert "not a public address" in str(refused.value) or "cannot be resolved" in str(refused.value)


def test_one_bad_address_among_good_ones_condemns_the_name() -> None:
    """Which of several addresses a connection takes is not left to luck."""
    with pytest.raises(Refused):
        Egress(resolve=_answering("8.8.8.8", "10.0.0.1")).post("http://mixed.example/", b"", {})


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name is resolved once: what it answers the second time (rebinding) is never asked for."""
    with hook() as server:
        port = int(server.url.rpartition(":")[2])
        answers = ["127.0.0.1", "127.0.0.2", "127.0.0.2"]
        egress = Egress(LOOPBACK, resolve=lambda host, port, **_: [(socket.AF_INET, 1, 6, "", (answers.pop(0), port))])
        assert 200 == egress.post(f"http://rebind.example:{port}/", b"{}", {})

    assert 2 == len(answers)
    assert f"rebind.example:{port}" == server.got[0][1]["Host"]


@pytest.mark.parametrize("url", ["ftp://example.org/", "file:///etc/passwd", "http:///x", "http://user:pass@example.org/", "gopher://x/",
                                 "http://example.org:99999/", "http://exa mple.org/", "http://example.org/\r\nX: y",
                                 "//example.org", ""])
def test_an_address_that_is_no_plain_url_is_refused(url: str) -> None:
    """At the definition, before anything is sent."""
    with pytest.raises(RuleError):
        _hooked(url)


def test_a_server_that_drips_is_left_after_the_deadline() -> None:
    """Each byte in time, the whole never: the deadline is for the whole."""
    stop = threading.Event()

    class Dripping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                while not stop.wait(0.05):
                    self.request.sendall(b"H")
            except OSError:
                return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Failed, match="no answer within"):
            Egress(LOOPBACK, seconds_max=0.5).post(f"http://127.0.0.1:{server.server_address[1]}/", b"", {})
        stop.set()
        server.shutdown()


def test_a_certificate_of_another_name_is_not_taken(tmp_path: Path) -> None:
    """TLS checks the name that was asked for, though the connection goes to an address."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        try:
            with context.wrap_socket(listener.accept()[0], server_side=True):
                return
        except OSError:
            return

    threading.Thread(target=answer, daemon=True).start()
    egress = Egress(LOOPBACK, resolve=_answering("127.0.0.1"), tls=trusting)
    with listener, pytest.raises(Failed, match="TLS failed"):
        egress.post(f"https://hooks.example:{listener.getsockname()[1]}/", b"", {})


def test_networks_are_named_with_commas() -> None:
    """A word that is no network is named."""
    assert 2 == len(networks(" 10.0.0.0/8, ::1/128 "))
    with pytest.raises(SettingsError, match="'intranet' is none"):
        networks("intranet")


# --- secrets


@pytest.mark.parametrize("reference", ["../key", "/etc/passwd", "a/b", "..", "."])
def test_a_secret_file_lies_in_the_one_directory(reference: str) -> None:
    """No definition can make the collector read another file."""
    with pytest.raises(RuleError, match="secret_file"):
        parse_channel({"name": "x", "kind": "webhook", "url": "https://example.org/", "secret_file": reference})


def test_a_link_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    """Links within it are, as Kubernetes mounts secrets."""
    inside, outside = tmp_path / "secrets", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("elsewhere")
    (inside / "..data").mkdir()
    (inside / "..data" / "good").write_text("mounted")
    (inside / "good").symlink_to(inside / "..data" / "good")
    (inside / "bad").symlink_to(outside)

    assert "mounted" == Secrets(inside).read("file:good")
    with pytest.raises(Failed, match="cannot be read"):
        Secrets(inside).read("file:bad")


def test_a_secret_variable_has_the_prefix() -> None:
    """No definition can send another variable of the process."""
    with pytest.raises(RuleError, match="CUTAWAY_ALERT_"):
        parse_channel({"name": "x", "kind": "slack", "url_env": "AWS_SECRET_ACCESS_KEY"})


def test_errors_and_representations_hold_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the key nor the path of a hook, which is one, is said when sending fails."""
    with hook(500) as server:
        (tmp_path / "url").write_text(server.url + "/services/hidden-path")
        slack = parse_channel({"name": "s", "kind": "slack", "url_file": "url"})
        for channel in (slack, _hooked(server.url + "/hidden-path")):
            with pytest.raises(Failed) as failed:
                _channels(tmp_path).send(channel, _message())
            assert "hidden" not in str(failed.value)
    with pytest.raises(Failed) as gone:
        _channels(tmp_path).send(slack, _message())
    assert "hidden" not in str(gone.value) + repr(slack) + caplog.text
    assert SECRET not in repr(slack) + caplog.text


# --- mail


@dataclass
class Mailbox:
    """What a mail server was told. letters: (sender, recipients, text)."""

    port: int = 0
    encrypted: bool = False
    signed_in: str = ""
    letters: list[tuple[str, list[str], str]] = field(default_factory=list)
    refuse: bytes = b""


@contextmanager
def _mail(certificate: ssl.SSLContext | None, refuse: bytes = b"", refused: bytes = b"",
          password: str = SECRET) -> Iterator[Mailbox]:
    """A small SMTP server: EHLO, STARTTLS where there is a certificate, AUTH PLAIN, one letter. refuse: its answer to addresses
    that contain `refused`.
    """
    box = Mailbox(refuse=refuse)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                self._serve()
            except (OSError, ValueError):
                return

        def _serve(self) -> None:
            say = lambda *lines: self.wfile.write(b"".join(line + b"\r\n" for line in lines))  # noqa: E731  short
            say(b"220 tests")
            sender, to = "", []
            while line := self.rfile.readline():
                word = line.split()[0].upper() if line.split() else b""
                if word == b"EHLO":
                    say(b"250-tests", b"250-AUTH PLAIN", b"250 STARTTLS" if certificate and not box.encrypted else b"250 8BITMIME")
                elif word == b"STARTTLS" and certificate:
                    say(b"220 go")
                    self.request = certificate.wrap_socket(self.request, server_side=True)
                    self.rfile, self.wfile = self.request.makefile("rb"), self.request.makefile("wb", 0)
                    box.encrypted = True
                elif word == b"AUTH":
                    import base64

                    box.signed_in = base64.b64decode(line.split()[2]).decode()
                    say(b"235 in" if box.signed_in.endswith(f"\0{password}") else b"535 no")
                elif word == b"MAIL":
                    sender = line.decode().split("<")[1].split(">")[0]
                    say(b"250 ok")
                elif word == b"RCPT":
                    to.append(line.decode().split("<")[1].split(">")[0])
                    say(box.refuse if box.refuse and refused in line else b"250 ok")
                elif word == b"DATA":
                    say(b"354 go")
                    text = b""
                    while (part := self.rfile.readline()) != b".\r\n":
                        text += part
                    box.letters.append((sender, to, text.decode()))
                    say(b"250 taken")
                elif word == b"QUIT":
                    say(b"221 bye")
                    return
                else:
                    say(b"250 ok")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        box.port = server.server_address[1]
        try:
            yield box
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _posting(authority: trustme.CA, directory: Path) -> Channels:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return _channels(directory, Egress(LOOPBACK, resolve=_answering("127.0.0.1"), tls=trusting))


def _letterbox(port: int, **changes: Any) -> Channel:
    said = {"name": "mail", "kind": "email", "host": "mail.example", "port": port, "from": "cutaway <a@example.org>",
            "to": ["b@example.org", "c@example.org"], "user": "me", "secret_file": "key", **changes}
    return parse_channel({key: value for key, value in said.items() if value is not None})


def test_mail_goes_out_over_starttls(tmp_path: Path, authority: trustme.CA) -> None:
    """Encrypted first, then signed in, then sent to every address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("mail.example").configure_cert(context)
    with _mail(context) as box:
        _posting(authority, tmp_path).send(_letterbox(box.port), _message())

    assert box.encrypted
    assert f"\0me\0{SECRET}" == box.signed_in
    ((sender, to, text),) = box.letters
    assert ("a@example.org", ["b@example.org", "c@example.org"]) == (sender, to)
    assert "Subject: firing (critical) loops [chat]" in text
    assert "turn it off" in text


def test_a_mail_server_without_starttls_gets_nothing(tmp_path: Path, authority: trustme.CA) -> None:
    """No password and no letter in the clear because somebody in between took STARTTLS away."""
    with _mail(None) as box, pytest.raises(Failed, match="no STARTTLS") as failed:
        _posting(authority, tmp_path).send(_letterbox(box.port), _message())

    assert failed.value.lasting
    assert ("", []) == (box.signed_in, box.letters)


def test_a_certificate_of_another_mail_server_is_not_taken(tmp_path: Path, authority: trustme.CA) -> None:
    """STARTTLS checks the name of the channel."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.example").configure_cert(context)
    with _mail(context) as box, pytest.raises(Failed):
        _posting(authority, tmp_path).send(_letterbox(box.port), _message())

    assert [] == box.letters


@pytest.mark.parametrize(("refusal", "lasting"), [(b"550 no such box", True), (b"451 later", False)])
def test_a_refused_address_is_tried_again_only_where_that_can_help(tmp_path: Path, authority: trustme.CA, refusal: bytes,
                                                                    lasting: bool) -> None:
    """5xx is for good, 4xx for now."""
    with _mail(None, refusal) as box, pytest.raises(Failed) as failed:
        _posting(authority, tmp_path).send(_letterbox(box.port, tls="none", user=None, secret_file=None), _message())

    assert lasting is failed.value.lasting


@pytest.mark.parametrize("message", [_message("x\r\nBcc: evil@example.org"),
                                     _message(of="repetition:>0.5\n  OR\nservice:\"x\r\nBcc: evil@example.org\"\n")],
                         ids=["a group", "a search of several lines"])
def test_nobody_writes_a_header(tmp_path: Path, authority: trustme.CA, message: dict[str, Any]) -> None:
    """What strangers name things, and a search that YAML spreads over lines, stay within the subject, and the letter goes out."""
    with _mail(None) as box:
        _posting(authority, tmp_path).send(_letterbox(box.port, tls="none", user=None, secret_file=None), message)

    ((_, _, text),) = box.letters
    letter = email.message_from_string(text)
    assert "firing (critical) loops" in letter["Subject"]
    assert letter["Bcc"] is None
    assert "auto-generated" == letter["Auto-Submitted"]
    assert {"link", "search", "owner"} <= {line.partition(":")[0] for line in letter.get_payload().splitlines()}


def test_who_was_refused_is_noted_though_others_have_the_letter(tmp_path: Path, authority: trustme.CA) -> None:
    """It arrived, so it is not sent again, but somebody mistyped an address and would never know."""
    with _mail(None, b"550 no such box", b"b@") as box:
        noted = _posting(authority, tmp_path).send(_letterbox(box.port, tls="none", user=None, secret_file=None), _message())

    assert 1 == len(box.letters)
    assert "not b@example.org (550): the mail server refused" == noted


def test_a_refused_sign_in_says_so(tmp_path: Path, authority: trustme.CA) -> None:
    """The user's own mistake, in words; nothing is sent and nothing is tried again."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("mail.example").configure_cert(context)
    with _mail(context, password="another") as box, pytest.raises(Failed, match=r"refused the sign-in \(535\)") as failed:
        _posting(authority, tmp_path).send(_letterbox(box.port), _message())

    assert failed.value.lasting
    assert [] == box.letters


def test_a_mail_server_that_never_answers_is_left(tmp_path: Path) -> None:
    """It takes the connection and says nothing: a failure that names the place, worth another try."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        channels = Channels(Egress(LOOPBACK, seconds_max=0.2), Secrets(tmp_path, {}), seconds_max=0.2)
        port = silent.getsockname()[1]
        with pytest.raises(Failed, match=rf"127\.0\.0\.1:{port} was silent for 0\.2 s") as failed:
            channels.send(_letterbox(port, host="127.0.0.1", tls="none", user=None, secret_file=None), _message())

    assert not failed.value.lasting


def test_mail_reaches_no_private_address_either(tmp_path: Path) -> None:
    """The same rule for a mail server as for a webhook."""
    channel = _letterbox(25, tls="none", user=None, secret_file=None)
    with pytest.raises(Refused):
        _channels(tmp_path, Egress(resolve=_answering("10.0.0.5"))).send(channel, _message())


def test_smtplib_still_asks_us_for_its_connection() -> None:
    """The check hangs on one method of the library: it must exist and be called."""
    called = []

    class Watched(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> Any:
            called.append(host)
            raise OSError

    with pytest.raises(OSError):  # noqa: PT011  ours
        Watched("mail.example", 25)
    assert ["mail.example"] == called


@pytest.mark.parametrize("channel", [
    {"name": "x", "kind": "webhook", "url": "https://example.org/"},
    {"name": "x", "kind": "slack", "url": "https://hooks.slack.com/services/secret"},
    {"name": "x", "kind": "email", "host": "h", "from": "a@b.c", "to": ["d@e.f"], "user": "me"},
    {"name": "x", "kind": "email", "host": "h", "from": "a@b.c", "to": ["d@e.f"], "user": "me", "secret_file": "k", "tls": "none"},
    {"name": "x", "kind": "email", "host": "h", "from": "a@b.c\r\nBcc: x@y.z", "to": ["d@e.f"]},
    {"name": "x", "kind": "pager"}, {"name": "x y", "kind": "log"}, {"kind": "log"}, [], "log",
    {"name": "x", "kind": "webhook", "url": "https://example.org/", "secret": "in the clear"},
])
def test_a_channel_that_is_wrong_is_refused(channel: Any) -> None:
    """Before it is stored, in words."""
    with pytest.raises(RuleError):
        parse_channel(channel)


