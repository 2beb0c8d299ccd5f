"""API keys: made here, kept as hashes in one file, and recognised in the Authorization header of a request.

Not a directory of people and not a sign-in page. A key is 32 random bytes, which is why one SHA-256 is enough to keep it: slow
hashes protect secrets that can be guessed, and nobody guesses one of 2^256. For the same reason a key is found by looking its hash
up: the time that takes depends on the hash alone, and whoever could steer the hash of a guess towards a stored one would have
broken SHA-256.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast, get_args

from cutaway_collector.contracts import Caller, Scope
from cutaway_collector.directories import private_directory
from cutaway_collector.errors import PermissionDenied, SettingsError, TooManyRequests, Unauthenticated
from cutaway_collector.settings import Settings

_LOG: Final = logging.getLogger(__name__)

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
FAILURES_PER_MINUTE_MAX: Final = 10
"""Unknown keys one address may show in a minute before it is told to come back later. A known key is never held back by them."""
PEERS_MAX: Final = 4096
"""Addresses whose failures are remembered; the one that failed longest ago is forgotten first."""
LOOK_SECONDS: Final = 1.0
"""How often the file is asked whether it has changed, at most."""
FILE_BYTES_MAX: Final = 16 * 1024 * 1024
_PREFIX: Final = "cw_"
_KEY: Final = re.compile(r"cw_[A-Za-z0-9_-]{43}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_TENANT: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,63})?")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. digest: SHA-256 of the key in hex. created: ISO time, UTC."""

    name: str
    digest: str
    scopes: frozenset[Scope]
    tenant: str
    created: str

    @property
    def caller(self) -> Caller:
        """Who shows this key."""
        return Caller(self.tenant, self.scopes, self.name)


def digest_of(key: str) -> str:
    """What the file keeps instead of the key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def keys_path(settings: Settings) -> Path:
    """Where the keys are: `keys`, else DIR/keys.json with --data. Raises SettingsError when neither is given."""
    if not settings.keys and not settings.data:
        raise SettingsError("nothing says where API keys are kept: give --data DIR (for DIR/keys.json) or --keys FILE")
    return Path(settings.keys) if settings.keys else Path(settings.data) / "keys.json"


# --- the file -------------------------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file, none when there is no file. Raises SettingsError: not readable, damaged, or others may write it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o022:
                raise SettingsError(f"others may write the keys file {path}, and so let themselves in: chmod go-w it")
            text = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SettingsError(f"the keys file {path} cannot be read: {error.strerror}") from None
    if len(text) > FILE_BYTES_MAX:
        raise SettingsError(f"a keys file has at most {FILE_BYTES_MAX} bytes, {path} has more")
    try:
        document = json.loads(text)
        if document["version"] != 1:
            raise ValueError("version")
        keys = tuple(_parsed(entry) for entry in document["keys"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SettingsError(f"the keys file {path} is damaged: put a copy back, or remove it and add the keys again") from None
    return keys


def _parsed(entry: Mapping[str, Any]) -> Key:
    scopes = frozenset(entry["scopes"])
    fits = _NAME.fullmatch(entry["name"]) and _DIGEST.fullmatch(entry["sha256"]) and _TENANT.fullmatch(entry["tenant"])
    if not fits or not scopes or not scopes.issubset(SCOPES):
        raise ValueError("a field of a key")
    return Key(entry["name"], entry["sha256"], cast("frozenset[Scope]", scopes), entry["tenant"], str(entry["created"]))


def add(path: Path, name: str, scopes: Collection[str], tenant: str = "") -> str:
    """Makes a key and keeps its hash; returns the key, which nobody can find out again. Raises SettingsError."""
    if not _NAME.fullmatch(name):
        raise SettingsError(f"a key's name is 1 to 64 letters, digits and _ . @ -, it is {name[:80]!r}")
    if not scopes or not set(scopes).issubset(SCOPES):
        raise SettingsError(f"the scopes of a key are some of {', '.join(SCOPES)}, they are {', '.join(scopes)[:80]!r}")
    if not _TENANT.fullmatch(tenant):
        raise SettingsError(f"a tenant is up to 64 letters, digits and _ . -, it is {tenant[:80]!r}")
    key = _PREFIX + secrets.token_urlsafe(32)
    with _changing(path) as keys:
        if any(known.name == name for known in keys):
            raise SettingsError(f"there is a key named {name!r} already: remove it first, or choose another name")
        created = datetime.now(UTC).isoformat(timespec="seconds")
        keys.append(Key(name, digest_of(key), frozenset(cast("Collection[Scope]", scopes)), tenant, created))
    return key


def remove(path: Path, name: str) -> None:
    """Forgets a key: a running collector refuses it a second later. Raises SettingsError when none has that name."""
    with _changing(path) as keys:
        kept = [key for key in keys if key.name != name]
        if len(kept) == len(keys):
            raise SettingsError(f"there is no key named {name[:80]!r} in {path}: `cutaway keys list` shows their names")
        keys[:] = kept


@contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys as a list to change, alone; replaced in one step afterwards, so that a reader sees the old file or the new one."""
    if not path.parent.exists():
        private_directory(path.parent)
    lock = path.with_name(path.name + ".lock")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"the keys file {path} cannot be changed: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        keys = list(read(path))
        yield keys
        _replace(path, keys)
    finally:
        os.close(handle)


def _replace(path: Path, keys: Collection[Key]) -> None:
    entries = [{"name": key.name, "sha256": key.digest, "scopes": sorted(key.scopes), "tenant": key.tenant, "created": key.created}
               for key in keys]
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
        try:
            with os.fdopen(handle, "w") as file:
                json.dump({"version": 1, "keys": entries}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise SettingsError(f"the keys file {path} cannot be written: {error.strerror}") from None


# --- the running collector -------------------------------------------------------------------------------------------------


class Credentials:
    """contracts.Authenticate over a keys file, which is read again when it has changed. Thread-safe.

    Raises SettingsError when the file is damaged at the start; later the last good state is kept and `trouble` says so. A file that
    is gone holds no keys.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._known = {key.digest: key for key in read(path)}
        self._looked = clock()
        self._trouble = ""
        self._failures = _Failures(clock)

    def __call__(self, authorization: str, scope: Scope, peer: str) -> Caller:
        """See contracts.Authenticate. Only `Bearer KEY` counts."""
        caller = self._recognised(authorization, peer).caller
        permit(caller, scope)
        return caller

    def digest(self, authorization: str, scope: Scope, peer: str) -> str:
        """The same check; gives what a session may remember of the key, from which nobody can make the key."""
        key = self._recognised(authorization, peer)
        permit(key.caller, scope)
        return key.digest

    def caller_of(self, digest: str) -> Caller | None:
        """Who a remembered key belongs to; None once it was removed."""
        self._look()
        key = self._known.get(digest)
        return key.caller if key else None

    @property
    def count(self) -> int:
        """How many keys are known."""
        self._look()
        return len(self._known)

    @property
    def trouble(self) -> str:
        """What is wrong with the file at the moment, in words; "" when nothing is."""
        self._look()
        return self._trouble or ("" if self._known else "no API key is known, so nobody is let in: cutaway keys add")

    def _recognised(self, authorization: str, peer: str) -> Key:
        scheme, _, key = authorization.strip().partition(" ")
        key = key.strip()
        if not scheme:
            raise Unauthenticated("an API key is needed: send it as `Authorization: Bearer KEY`; `cutaway keys add` makes one")
        self._look()
        found = self._known.get(digest_of(key)) if scheme.lower() == "bearer" and _KEY.fullmatch(key) else None
        if found is None:
            self._failures.note(peer)
            raise Unauthenticated("this API key is not known here: `cutaway keys list` shows the names of those that are")
        return found

    def _look(self) -> None:
        if self._clock() - self._looked < LOOK_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked = self._clock()
            seen = self._signature()
            if seen == self._seen and not self._trouble:
                return
            self._known = {key.digest: key for key in read(self._path)}
            self._seen = seen  # only now: what could not be read, for want of a file handle perhaps, is read at the next look
            self._trouble = ""
            _LOG.info("the keys file has changed: %d keys", len(self._known))
        except SettingsError as error:
            before, self._trouble = self._trouble, f"{error}. The keys known before still count."
            if self._trouble != before:
                _LOG.error("%s", self._trouble)
        finally:
            self._lock.release()

    def _signature(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode


def allows(caller: Caller, scope: Scope) -> bool:
    """Whether the caller has the scope: `admin` includes the others, `edit` includes `read`."""
    return scope in caller.scopes or "admin" in caller.scopes or (scope == "read" and "edit" in caller.scopes)


def permit(caller: Caller, scope: Scope) -> None:
    """Raises PermissionDenied unless the caller has the scope."""
    if not allows(caller, scope):
        raise PermissionDenied(f"this API key may {' and '.join(sorted(caller.scopes))}, this needs the scope {scope}")


class _Failures:
    """Counts unknown keys by address. Knows nothing of known keys: a mis-set sender must not lock out its neighbours."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._peers: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def note(self, peer: str) -> None:
        """One more failure. Raises TooManyRequests when there were enough within a minute."""
        source, now = _source(peer), self._clock()
        with self._lock:
            since, count = self._peers.pop(source, (now, 0))
            if now - since >= 60:
                since, count = now, 0
            count += 1
            self._peers[source] = (since, count)
            if len(self._peers) > PEERS_MAX:
                self._peers.popitem(last=False)
        if count in (1, FAILURES_PER_MINUTE_MAX + 1):
            _LOG.warning("an unknown API key from %s%s", source, "" if count == 1 else ", once too often: told to wait")
        if count > FAILURES_PER_MINUTE_MAX:
            raise TooManyRequests("too many unknown API keys from this address: wait, then send a known one",
                                  retry_after_s=max(1, int(60 - (now - since)) + 1))


def _source(peer: str) -> str:
    """An address without its port; of IPv6 the /64, which is what one sender is given."""
    bare = re.sub(r"^ipv[46]:", "", peer.replace("%5B", "[").replace("%5D", "]"))
    host = bare[1:].partition("]")[0] if bare.startswith("[") else bare.rpartition(":")[0] if bare.count(":") == 1 else bare
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return bare[:64]
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else address
    return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False))
