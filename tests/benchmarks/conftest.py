"""Makes the checkout's `benchmarks` importable: it is not part of the installed package."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # last, so that an installed pyaegpu comes first
