"""Listens to diffusers pipelines: the only files that know diffusers, and even they never import it before the host does.

Not a flow: `install` passes every call of a pipeline to an opener, which decides whether a `Recorder` listens and what becomes of
what it heard.
"""

from cutaway.diffusion.calls import Asked, asked_of, device_of, output_type_of
from cutaway.diffusion.classes import Opener, install, remove
from cutaway.diffusion.recorder import Denoising, Recorder

__all__ = ["Asked", "Denoising", "Opener", "Recorder", "asked_of", "device_of", "install", "output_type_of", "remove"]
