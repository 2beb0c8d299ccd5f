"""Switches cutaway on and off in this process.

Not what happens to a call: see generation.py. Not where spans go: see configuration.py.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cutaway import configuration, denoising, generation
from cutaway.errors import MissingDependency


def instrument(tokenizer: Any = None) -> None:
    """Makes every `model.generate` and every diffusers pipeline of this process a span. A second call changes only the tokenizer.

    Raises MissingDependency without transformers and torch.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency("cutaway.instrument()", package, "pip install 'cutaway[hf]'")
    from cutaway import diffusion, tap

    if tokenizer is not None:
        configuration.remember_tokenizer(tokenizer)
    tap.install(generation.generate, generation.generate_batch, pipeline_scope)
    diffusion.install(denoising.denoise)


def uninstrument() -> None:
    """Puts the own methods of transformers and diffusers back."""
    if "cutaway.tap" in sys.modules:
        from cutaway import tap

        tap.remove()
    if "cutaway.diffusion" in sys.modules:
        from cutaway import diffusion

        diffusion.remove()


@contextmanager
def pipeline_scope(tokenizer: Any, messages: Any) -> Iterator[None]:
    """While a pipeline generates: its tokenizer, and the conversation it was given."""
    outer = configuration.scope.get()
    token = configuration.scope.set(replace(outer, tokenizer=outer.tokenizer or tokenizer, messages=messages))
    try:
        yield
    finally:
        configuration.leave(token)
