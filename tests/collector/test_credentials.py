"""API keys: what is kept of them, who is recognised by them, and what happens to those who guess."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cutaway_collector import cli, credentials
from cutaway_collector.credentials import Credentials
from cutaway_collector.errors import PermissionDenied, SettingsError, TooManyRequests, Unauthenticated

PEER = "192.0.2.7:40000"


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine" / "keys.json"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def bearer(key: str) -> str:
    return f"Bearer {key}"


def unknown(number: int) -> str:
    """A well-formed key that nobody made."""
    return bearer(f"cw_{number:043d}")


def _refused(call: Callable[[], object]) -> Exception:
    with pytest.raises((Unauthenticated, TooManyRequests, PermissionDenied)) as found:
        call()
    return found.value


def test_a_key_is_random_and_only_its_hash_is_kept(path: Path) -> None:
    """32 random bytes behind a prefix by which a leaked key can be searched for; the file cannot give it back."""
    keys = {credentials.add(path, f"key-{number}", ["ingest"]) for number in range(50)}

    assert 50 == len(keys)
    assert all(key.startswith("cw_") and len(key) == 46 for key in keys)
    kept = path.read_text()
    assert not any(key in kept or key[3:] in kept for key in keys)


def test_the_file_is_for_its_owner_alone(path: Path) -> None:
    """0600 in a directory of 0700, also after a change."""
    credentials.add(path, "a", ["ingest"])
    credentials.add(path, "b", ["read"])

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)
    assert {"keys.json", "keys.json.lock"} == {entry.name for entry in path.parent.iterdir()}


def test_a_file_that_others_may_write_is_refused(path: Path) -> None:
    """Whoever can add a hash has let himself in."""
    credentials.add(path, "a", ["ingest"])
    path.chmod(0o620)

    with pytest.raises(SettingsError, match="chmod go-w"):
        Credentials(path)


def test_keys_added_at_the_same_time_are_all_kept(path: Path) -> None:
    """Two people at two terminals do not undo each other's work."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: credentials.add(path, f"key-{number}", ["read"]), range(24)))

    assert {f"key-{number}" for number in range(24)} == {key.name for key in credentials.read(path)}


@pytest.mark.parametrize(
    ("held", "asked", "allowed"),
    [
        ("ingest", "ingest", True), ("ingest", "read", False), ("ingest", "admin", False),
        ("read", "read", True), ("read", "ingest", False), ("read", "admin", False),
        ("admin", "ingest", True), ("admin", "read", True), ("admin", "admin", True),
    ],
)
def test_a_scope_allows_itself_and_admin_allows_all(path: Path, held: str, asked: credentials.Scope, allowed: bool) -> None:
    """Being known is not being allowed: the role decides at every use."""
    known = Credentials(path_with(path, key := credentials.add(path, "a", [held])))

    if allowed:
        assert frozenset({held}) == known(bearer(key), asked, PEER).scopes
    else:
        assert isinstance(_refused(lambda: known(bearer(key), asked, PEER)), PermissionDenied)


def path_with(path: Path, key: str) -> Path:
    """The path, once the key is in it."""
    assert key
    return path


def test_the_tenant_is_the_keys(path: Path) -> None:
    """Whose spans a sender's are follows from its key and from nothing it says."""
    key = credentials.add(path, "a", ["ingest", "read"], tenant="acme")

    assert "acme" == Credentials(path)(bearer(key), "ingest", PEER).tenant


@pytest.mark.parametrize("authorization", [
    "", "{key}", "Basic {key}", "Bearer", "Bearer {key}x", "Bearer cw_", "Bearer {key} x", "Token {key}",
])
def test_only_bearer_and_the_whole_key_count(path: Path, authorization: str) -> None:
    """Anything else in the header is no credential."""
    key = credentials.add(path, "a", ["ingest"])

    assert isinstance(_refused(lambda: Credentials(path)(authorization.format(key=key), "ingest", PEER)), Unauthenticated)


@pytest.mark.parametrize("authorization", ["Bearer {key}", "bearer {key}", "BEARER   {key} "])
def test_the_scheme_has_no_case(path: Path, authorization: str) -> None:
    """As RFC 9110 says of authentication schemes."""
    key = credentials.add(path, "a", ["ingest"])

    assert Credentials(path)(authorization.format(key=key), "ingest", PEER)


def test_a_running_collector_learns_and_forgets(path: Path, clock: Clock) -> None:
    """A new key counts and a removed one is refused, a second after the file was changed."""
    first = credentials.add(path, "first", ["ingest"])
    known = Credentials(path, clock=clock)
    second = credentials.add(path, "second", ["ingest"])
    credentials.remove(path, "first")
    assert known(bearer(first), "ingest", PEER)  # within the second nobody looks
    clock.now += credentials.LOOK_SECONDS

    assert known(bearer(second), "ingest", PEER)
    assert isinstance(_refused(lambda: known(bearer(first), "ingest", PEER)), Unauthenticated)
    assert None is known.caller_of(credentials.digest_of(first))


@pytest.mark.parametrize("damage", [
    "", "{", "[]", '{"version": 2, "keys": []}', '{"version": 1, "keys": [{"name": "x"}]}', "\x00\xff", "[" * 100_000,
])
def test_a_damaged_file_keeps_the_last_good_state_and_says_so(path: Path, clock: Clock, damage: str) -> None:
    """An editor that saved half a file locks nobody out; readiness tells, until the file is whole again."""
    key = credentials.add(path, "a", ["ingest"])
    whole = path.read_text()
    known = Credentials(path, clock=clock)
    path.write_text(damage)
    clock.now += 2

    assert known(bearer(key), "ingest", PEER)
    assert "damaged" in known.trouble
    path.write_text(whole)
    os.utime(path, ns=(1, 1))
    clock.now += 2
    assert "" == known.trouble
    assert known(bearer(key), "ingest", PEER)


def test_a_file_that_cannot_be_read_for_a_moment_is_read_again(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No file handle was left when a key was removed: the key is refused once there is one, though the file changes no more."""
    key = credentials.add(path, "a", ["ingest"])
    credentials.add(path, "b", ["ingest"])
    known = Credentials(path, clock=clock)
    credentials.remove(path, "a")

    def none_left(path: Path) -> tuple[credentials.Key, ...]:
        raise SettingsError("the keys file cannot be read: Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(credentials, "read", none_left)
        for _ in range(3):
            clock.now += 2
            assert known(bearer(key), "ingest", PEER)
        assert "Too many open files" in known.trouble
    assert 1 == caplog.text.count("Too many open files")
    clock.now += 2
    assert isinstance(_refused(lambda: known(bearer(key), "ingest", PEER)), Unauthenticated)
    assert "" == known.trouble


def test_a_file_put_back_as_it_was_is_whole_again(path: Path, clock: Clock) -> None:
    """Rights that were too wide for a while leave no other trace."""
    credentials.add(path, "a", ["ingest"])
    known = Credentials(path, clock=clock)
    for mode, whole in ((0o666, False), (0o600, True)):
        path.chmod(mode)
        clock.now += 2
        assert (known.trouble == "") is whole


def test_a_damaged_file_keeps_a_collector_from_starting(path: Path) -> None:
    """There is no last good state yet."""
    path.parent.mkdir()
    path.write_text("{")

    with pytest.raises(SettingsError, match="damaged"):
        Credentials(path)


def test_a_file_that_is_gone_lets_nobody_in(path: Path, clock: Clock) -> None:
    """Removing the file is a way to shut everybody out, and readiness says that nobody is let in."""
    key = credentials.add(path, "a", ["ingest"])
    known = Credentials(path, clock=clock)
    path.unlink()
    clock.now += 2

    assert isinstance(_refused(lambda: known(bearer(key), "ingest", PEER)), Unauthenticated)
    assert "nobody is let in" in known.trouble


def test_guessing_is_slowed_down_by_address(path: Path, clock: Clock) -> None:
    """After ten unknown keys in a minute an address is told when to come back; then it may try again."""
    credentials.add(path, "a", ["ingest"])
    known = Credentials(path, clock=clock)
    for number in range(credentials.FAILURES_PER_MINUTE_MAX):
        assert isinstance(_refused(lambda number=number: known(unknown(number), "ingest", PEER)), Unauthenticated)

    refusal = _refused(lambda: known(unknown(99), "ingest", "192.0.2.7:55555"))
    assert isinstance(refusal, TooManyRequests)
    assert refusal.retry_after_s is not None
    assert 1 <= refusal.retry_after_s <= 61
    assert isinstance(_refused(lambda: known(unknown(99), "ingest", "192.0.2.8:1")), Unauthenticated)
    clock.now += refusal.retry_after_s
    assert isinstance(_refused(lambda: known(unknown(99), "ingest", PEER)), Unauthenticated)


def test_a_known_key_is_never_slowed_down(path: Path, clock: Clock) -> None:
    """One sender with a wrong key behind an address must not lock out its neighbours."""
    key = credentials.add(path, "a", ["ingest"])
    known = Credentials(path, clock=clock)
    for number in range(100):
        _refused(lambda number=number: known(unknown(number), "ingest", PEER))

    assert known(bearer(key), "ingest", PEER)


def test_no_credential_at_all_is_not_guessing(path: Path, clock: Clock) -> None:
    """A browser that has not signed in is not held back from doing so."""
    key = credentials.add(path, "a", ["read"])
    known = Credentials(path, clock=clock)
    for _ in range(100):
        assert isinstance(_refused(lambda: known("", "read", PEER)), Unauthenticated)

    assert known(bearer(key), "read", PEER)


def test_addresses_that_guess_are_remembered_in_bounded_memory(path: Path, clock: Clock) -> None:
    """A sender with a million addresses costs no more than the newest few thousand."""
    credentials.add(path, "a", ["ingest"])
    known = Credentials(path, clock=clock)
    for number in range(credentials.PEERS_MAX + 500):
        _refused(lambda number=number: known(unknown(1), "ingest", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1"))

    assert credentials.PEERS_MAX == len(known._failures._peers)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ipv4:192.0.2.7:1", "192.0.2.7", True), ("ipv6:[2001:db8::1]:5", "[2001:db8::ffff]:9", True),
        ("ipv6:%5B2001:db8::1%5D:5", "2001:db8::2", True), ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7:80", True), ("unix:/run/x", "unix:/run/y", False),
    ],
)
def test_an_address_is_one_sender_however_it_is_spelt(one: str, other: str, same: bool) -> None:
    """Ports do not count, and of IPv6 the network that one sender is given."""
    assert same == (credentials._source(one) == credentials._source(other))


def test_nothing_said_about_a_key_holds_it(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Messages, representations and logs name no key."""
    key = credentials.add(path, "a", ["ingest"])
    known = Credentials(path, clock=clock)
    guess = unknown(5)
    said = [str(_refused(lambda: known(guess, "ingest", PEER))), str(_refused(lambda: known(bearer(key), "admin", PEER)))]
    said += [repr(known), repr(credentials.read(path)), caplog.text, repr(known(bearer(key), "ingest", PEER))]

    assert not any(key in text or guess.removeprefix("Bearer ") in text for text in said)


def test_the_command_line_makes_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`keys add` prints the key once, `keys list` never, `keys remove` ends it."""
    place = ["--data", str(tmp_path / "data")]
    assert 0 == cli.main(["keys", "add", *place, "--name", "laptop", "--scope", "ingest,read", "--tenant", "acme"])
    key = capsys.readouterr().out.strip()
    assert {"ingest", "read"} == set(Credentials(tmp_path / "data" / "keys.json")(bearer(key), "read", PEER).scopes)

    assert 0 == cli.main(["keys", "list", *place])
    listed = capsys.readouterr().out
    assert "laptop  ingest,read  tenant acme" in listed
    assert key not in listed
    assert json.loads((tmp_path / "data" / "keys.json").read_text())["keys"][0]["sha256"] not in listed
    assert 0 == cli.main(["keys", "remove", *place, "laptop"])
    assert () == credentials.read(tmp_path / "data" / "keys.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "--name", "a b", "--scope", "read"], "name is"), (["add", "--name", "a", "--scope", ","], "scopes of a key"),
        (["add", "--name", "a", "--scope", "write"], "ingest, read, edit, admin"), (["remove", "nobody"], "no key named"),
        (["add", "--name", "a", "--scope", "read", "--tenant", "x' OR '1"], "tenant is"),
    ],
)
def test_a_wrong_command_says_what_would_be_right(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str],
                                                  words: str) -> None:
    """Exit 2 with the rule and the value."""
    assert 2 == cli.main(["keys", *arguments, "--data", str(tmp_path)])
    assert words in capsys.readouterr().err


def test_a_name_is_given_once(path: Path) -> None:
    """Else `remove` would not know which."""
    credentials.add(path, "a", ["ingest"])

    with pytest.raises(SettingsError, match="already"):
        credentials.add(path, "a", ["read"])


def test_keys_need_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    """With neither --data nor --keys the message names both."""
    assert 2 == cli.main(["keys", "list"])
    assert "--keys FILE" in capsys.readouterr().err
