"""Listens to `generate`: the only place that knows transformers. Patches methods on classes, and puts them back.

Not a recorder and not a policy: whoever opens a session decides; this package only passes on what happens. No attention name is
registered (an unknown name loses its mask), no module hook is set (compiled code ignores them): a ContextVar finds the session.
"""

from cutaway.tap.batching import MODE as BATCHES
from cutaway.tap.calls import call_of, devices_of, prepared_from, sequences_of
from cutaway.tap.patches import install, remove
from cutaway.tap.prefill import fresh_cache, more_than_ids

__all__ = ["BATCHES", "call_of", "devices_of", "fresh_cache", "install", "more_than_ids", "prepared_from", "remove", "sequences_of"]
