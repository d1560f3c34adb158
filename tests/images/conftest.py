"""The image's recipe is no part of the package: its folder is put on the path."""

from __future__ import annotations

import sys
from pathlib import Path

RECIPE = Path(__file__).resolve().parents[2] / "images" / "attested-host"
if str(RECIPE) not in sys.path:
    sys.path.insert(0, str(RECIPE))
