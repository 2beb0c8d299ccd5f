"""The session of a browser that signed in: a signed cookie that names a key by its hash, or a person and what that person may do.

Not a store of sessions: a cookie ends with its time, with the removal of its key, or with the secret. It holds nothing that could
be used as a key. What a person may do was decided when that person signed in, and counts until the cookie ends.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any, Final, get_args

from itsdangerous import BadData, URLSafeTimedSerializer

from cutaway_collector.contracts import Caller, Scope
from cutaway_collector.errors import StoreError

SESSION_SECONDS_MAX: Final = 12 * 3600
"""A working day: a browser left open overnight asks again."""
_SECRET_BYTES: Final = 32


def secret(path: Path) -> bytes:
    """The secret of this file, made on first use with mode 0600. Deleting it signs everybody out. Raises StoreError."""
    try:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            path.chmod(0o600)
            found = path.read_bytes()
        else:
            with os.fdopen(handle, "wb") as file:
                found = secrets.token_bytes(_SECRET_BYTES)
                file.write(found)
    except OSError as error:
        raise StoreError(f"the secret of sign-in sessions cannot be kept in {path}: {error.strerror}", retryable=False) from None
    if len(found) != _SECRET_BYTES:
        raise StoreError(f"{path} is not a secret of {_SECRET_BYTES} bytes: remove it, and a new one is made", retryable=False)
    return found


class Sessions:
    """Cookies of signed-in browsers. secure: the UI speaks TLS, so the cookie is never sent without it."""

    def __init__(self, secret: bytes, *, secure: bool) -> None:
        self.secure = secure
        # The prefix makes browsers refuse the name from anybody but this host, over TLS.
        self.cookie = "__Host-cutaway_session" if secure else "cutaway_session"
        self._secret = secret
        self._signer = URLSafeTimedSerializer(secret, salt="cutaway session", signer_kwargs={"digest_method": hashlib.sha256})

    def derived(self, purpose: str) -> bytes:
        """A secret for another purpose, from which this one cannot be found."""
        return hmac.digest(self._secret, purpose.encode(), "sha256")

    def seal(self, who: str | Caller) -> str:
        """The cookie's value for a key, by its hash, or for a person."""
        return str(self._signer.dumps(who if isinstance(who, str) else [who.tenant, sorted(who.scopes), who.name]))

    def open(self, value: str) -> str | Caller:
        """The key's hash, or the person; "" for anything that was not sealed here, or too long ago."""
        try:
            found = self._signer.loads(value, max_age=SESSION_SECONDS_MAX)
        except BadData:
            return ""
        return found if isinstance(found, str) else _person(found)


def _person(found: Any) -> Caller | str:
    """What `seal` made of a person; "" for what another version made."""
    match found:
        case [str(tenant), list(scopes), str(name)] if scopes and set(scopes).issubset(get_args(Scope)):
            return Caller(tenant, frozenset(scopes), name)
    return ""
