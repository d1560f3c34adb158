"""The example's models, under a name that tests import."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PATH = Path(__file__).resolve().parents[2] / "examples" / "masked" / "models.py"
_SPEC = importlib.util.spec_from_file_location("masked_models", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
models = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(models)
