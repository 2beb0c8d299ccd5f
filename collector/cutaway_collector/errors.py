"""What can go wrong, in words a user can act on, and how each refusal looks on the wire.

A message gives the rule, the value, the remedy. Nothing here prints payload content.
"""

from __future__ import annotations


class CutawayError(Exception):
    """Base of everything the collector raises on purpose."""


class SettingsError(CutawayError):
    """A setting is unknown, malformed or contradicts another."""


class StoreError(CutawayError):
    """The store refused or could not be reached. `retryable` tells whether trying again can help."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class QueryTooLarge(StoreError):
    """A query met one of its own limits: the store is well, the asker has to ask for less."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class AskerGone(StoreError):
    """Nobody waits for the answer of a query any more: it was stopped, or never begun."""

    def __init__(self) -> None:
        super().__init__("whoever asked has gone", retryable=False)


class DataDirectoryBusy(StoreError):
    """Another process owns the chDB directory."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"one process may own a data directory: {path} is in use by another cutaway process. "
            "Stop that process, or give this one its own --data directory.",
            retryable=False,
        )


class QueryError(CutawayError):
    """A search query cannot be understood. `column` is the 0-based offset of the trouble, `hint` a suggestion or ""."""

    def __init__(self, message: str, *, column: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.column = column
        self.hint = hint


class MissingExtra(CutawayError):
    """What a scorer needs is not there: a package, a model, or the memory for it. Says what to install or to set."""


class RequestError(CutawayError):
    """A request is refused as a whole. `http` and `grpc` are the status codes; `retry_after_s` asks the sender to come back."""

    http = 400
    grpc = 3  # INVALID_ARGUMENT
    retry_after_s: int | None = None


class MalformedRequest(RequestError):
    """The body is not the OTLP message it claims to be."""


class NotFound(RequestError):
    """No such path or service."""

    http = 404
    grpc = 12  # UNIMPLEMENTED


class MethodNotAllowed(RequestError):
    """The path exists; the method does not."""

    http = 405
    grpc = 12  # UNIMPLEMENTED


class Conflict(RequestError):
    """What is asked for contradicts what is going on: ask again when that is over."""

    http = 409
    grpc = 10  # ABORTED


class Unauthenticated(RequestError):
    """No credential, or one that is not known."""

    http = 401
    grpc = 16


class PermissionDenied(RequestError):
    """A known credential that may not do this."""

    http = 403
    grpc = 7


class TooManyRequests(RequestError):
    """One sender asks too much: come back later, nothing was stored."""

    http = 429
    grpc = 14  # UNAVAILABLE: OTLP retries it; RESOURCE_EXHAUSTED it would not

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLarge(RequestError):
    """The body exceeds a size limit, before or after decompression. Never retryable."""

    http = 413
    grpc = 8  # RESOURCE_EXHAUSTED, without RetryInfo: permanent


class HeadersTooLarge(TooLarge):
    """The request line and headers, or their number, exceed the limit."""

    http = 431


class TooSlow(RequestError):
    """The head or the body of a request did not arrive in time; nothing was stored."""

    http = 408


class UnsupportedMedia(RequestError):
    """Unknown Content-Type or Content-Encoding."""

    http = 415
    grpc = 12  # UNIMPLEMENTED


class Overloaded(RequestError):
    """A bounded queue is full or the store is away: come back later, nothing was stored."""

    http = 503
    grpc = 14  # UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
