"""Measurements; never part of the test suite."""

import sys
from pathlib import Path

# Helpers of the tests import one another by their bare names, as pytest lets them.
sys.path.insert(0, str(Path(__file__).parent.parent))
