"""The modules in `importable/` are imported by their names, also by processes that tests start."""

from __future__ import annotations

import sys
from pathlib import Path

IMPORTABLE = str(Path(__file__).parent / "importable")

if IMPORTABLE not in sys.path:
    sys.path.insert(0, IMPORTABLE)
