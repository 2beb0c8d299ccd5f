"""What the SDK may raise at set-up time. While the host program runs, nothing of ours is raised: see guard.py."""

from __future__ import annotations


class CutawayError(Exception):
    """Base of everything the SDK raises on purpose."""


class ConfigurationError(CutawayError):
    """A setting is unknown or malformed: the message gives the rule, the value and the remedy."""


class MissingDependency(CutawayError):
    """An optional package is needed and not installed."""

    def __init__(self, what: str, package: str, remedy: str) -> None:
        super().__init__(f"{what} needs the package {package}, which is not installed: {remedy}")
