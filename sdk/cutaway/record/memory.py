"""Memory of a recording that is used again: whether it still may be.

Not how much of it there is: that is said where it is made.
"""

from __future__ import annotations

import torch
from torch import Tensor


def writable(kept: Tensor) -> bool:
    """Whether PyTorch lets us write into it here: not outside of inference mode, when it was made inside. A program may decode some
    tokens in one and some in the other."""
    return not kept.is_inference() or torch.is_inference_mode_enabled()
