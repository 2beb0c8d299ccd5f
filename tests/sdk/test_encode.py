"""Packed series: what goes in comes out, and damaged bytes are refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutaway.encode import pack, unpack
from cutaway.errors import CutawayError


@given(st.sampled_from(["<f4", "<u4", "<f2"]), st.integers(0, 9), st.integers(2, 4), st.integers(2, 3), st.integers(1, 3))
def test_what_is_packed_is_unpacked(dtype: str, tokens: int, layers: int, heads: int, axes: int) -> None:
    """Shape, type and values survive, for one to three axes and no tokens at all."""
    shape = (tokens, layers, heads)[:axes]
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    found = unpack(pack(values))

    assert found.shape == shape
    assert found.dtype == dtype
    assert np.array_equal(found, values)


def test_the_bytes_are_those_of_the_convention() -> None:
    """Version 1, code 1, zero, tokens, layers, heads, then little-endian float32: written by hand."""
    data = pack(np.array([[1.0, 2.0]], dtype=np.float32))

    assert data == bytes([1, 1, 0, 0]) + struct.pack("<III", 1, 2, 1) + struct.pack("<2f", 1.0, 2.0)


def test_big_endian_values_travel_little_endian() -> None:
    """The host's byte order does not show."""
    assert pack(np.array([1.5], dtype=">f4")) == pack(np.array([1.5], dtype="<f4"))


@pytest.mark.parametrize("damage", [lambda data: data[:10], lambda data: data[:-1], lambda data: data + b"x",
                                    lambda data: b"\x02" + data[1:], lambda data: data[:1] + b"\x09" + data[2:]])
def test_damaged_bytes_are_refused(damage: object) -> None:
    """A short header, missing or surplus values, an unknown version or type: an error, never a wrong array."""
    with pytest.raises(CutawayError):
        unpack(damage(pack(np.zeros(3, dtype=np.float32))))  # type: ignore[operator]


def test_other_types_are_refused() -> None:
    """float64 is not a series type: the error says which are."""
    with pytest.raises(CutawayError, match="float32, uint32 or float16"):
        pack(np.zeros(3))
