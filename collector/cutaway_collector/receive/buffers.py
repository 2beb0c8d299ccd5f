"""Bytes that are received where they stay.

Python makes `bytes` of what it has already: of pieces that came one after another it makes a copy, which for spans with long arrays
is as much work as checking them.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final, cast

_new_bytes: Final[Any] = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.restype = ctypes.py_object
_new_bytes.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
_address: Final[Any] = ctypes.pythonapi.PyBytes_AsString
_address.restype = ctypes.c_void_p
_address.argtypes = (ctypes.py_object,)
_view: Final[Any] = ctypes.pythonapi.PyMemoryView_FromMemory
_view.restype = ctypes.py_object
_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_WRITABLE: Final = 0x200
"""PyBUF_WRITE."""


def unfilled(nbytes: int) -> tuple[bytes, memoryview]:
    """`bytes` of that size that hold nothing yet, and the view to fill them by, before anybody else sees them: what Python's C API
    allows (https://docs.python.org/3/c-api/bytes.html#c.PyBytes_FromStringAndSize). The view is good for as long as the bytes are.

    Memory that is never written is never taken from the system.
    """
    body = cast("bytes", _new_bytes(None, nbytes))
    return body, cast("memoryview", _view(_address(body), nbytes, _WRITABLE))
