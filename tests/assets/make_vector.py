"""Writes tests/vectors/assets/container.json from the reference alone: run once, then compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import reference

FIELDS = {
    "kind": "dataset",
    "name": "vector",
    "version": 2,
    "predecessor": "sha256:" + "ab" * 32,
    "owner": "ed25519:" + "11" * 32,
    "manager": "ed25519:" + "22" * 32,
    "chunk_bytes": 64,
    "record_schema": {
        "fields": [
            {"name": "x", "dtype": "float32", "shape": [2, 2]},
            {"name": "y", "dtype": "int64", "shape": []},
        ],
        "records": 9,
    },
}


def main() -> None:
    key, salt, content = bytes(range(32)), bytes(range(32, 64)), bytes(i % 251 for i in range(216))
    data, manifest = reference.seal(content, FIELDS, key, salt)
    vector = {
        "key": key.hex(),
        "content": content.hex(),
        "manifest": manifest,
        "container": data.hex(),
    }
    out = Path(__file__).parents[1] / "vectors" / "assets" / "container.json"
    out.write_text(json.dumps(vector, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
