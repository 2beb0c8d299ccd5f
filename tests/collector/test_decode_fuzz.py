"""Damaged requests against the protobuf library, in numbers: as compiled, and with every access of compiled code checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cutaway_collector import decode
from decode_fuzz_helpers import COUNT, SEED, fuzz

PROGRAM = Path(__file__).parent.parent / "decode_fuzz_helpers.py"


@pytest.mark.slow
def test_damaged_requests_are_refused_or_read_as_the_library_reads_them() -> None:
    """No damaged request crashes the decoder or gives a row the protobuf library does not give."""
    decode.warm_up()
    read, refused = fuzz(SEED, COUNT)
    assert read + refused == COUNT
    assert min(read, refused) > COUNT // 100, "damage that is always noticed, or never, tries only half of the decoder"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_access_of_compiled_code_is_out_of_bounds(tmp_path: Path) -> None:
    """The same, compiled anew so that an index outside of its array raises instead of reading what lies there."""
    count = str(min(COUNT, 5000))
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path), "CUTAWAY_FUZZ_COUNT": count}
    done = subprocess.run([sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("read ")
