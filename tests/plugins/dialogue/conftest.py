"""Lets the tests of this folder import ``call_texts``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
