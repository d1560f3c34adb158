"""Refuses, in the rooms that decide about trust, whatever could make a decision depend on more than
its arguments: clocks, files, the network, the environment, threads, randomness.

``make lint`` runs it, and ``tests/test_pure.py`` does. Prints ``FILE:LINE: what`` and exits 1.

Import-linter holds the floors; it forbids modules by name, and so lets through whichever nobody
thought of. Here the list is of what a pure room may import. The standard modules on it compute and
do nothing else, but for the few names under :data:`REACHING`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("evidence", "policy", "transparency")
CARD = (
    "svetovid.offload.card",
    "svetovid.offload.field",
    "svetovid.offload.protocols",
    "svetovid.offload.soundness",
)
"""What decides about untrusted workers; the rest of that room multiplies, and is not pure."""
STANDARD = {
    "__future__",
    "base64",
    "bisect",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "struct",
    "types",
    "typing",
}
LIBRARIES = {"cel", "cryptography", "pydantic", "yaml"}
OURS = {f"svetovid.{room}" for room in (*ROOMS, "crypto", "dtypes", "errors")} | {*CARD}
FILES = {"svetovid.crypto.keystore", "svetovid.crypto.private"}
"""Modules of ours below these rooms that read and write files."""
BUILTINS = {"__import__", "breakpoint", "compile", "eval", "exec", "input", "open", "print"}
REACHING = {
    "environ",
    "fdopen",
    "file_digest",
    "generate",
    "generate_private_key",
    "getenv",
    "monotonic",
    "now",
    "random",
    "read_bytes",
    "read_text",
    "system",
    "time_ns",
    "today",
    "token_bytes",
    "urandom",
    "utcnow",
    "write_bytes",
    "write_text",
}
"""Methods and functions that look at a clock, a file, the environment or chance."""


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif node.level or node.module is None:
        yield "a relative import"
    else:
        yield from (f"{node.module}.{name.name}" for name in node.names)


def _within(name: str, modules: set[str]) -> bool:
    return any(name == m or name.startswith(f"{m}.") for m in modules)


def findings(source: str) -> Iterator[tuple[int, str]]:
    """Line and words for each thing in ``source`` that a pure room may not have."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in _imported(node):
                allowed = _within(name, STANDARD | LIBRARIES | OURS) and not _within(name, FILES)
                if not allowed or name.rsplit(".", 1)[-1] in REACHING:
                    yield node.lineno, f"imports {name}"
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.lineno, f"names {node.id}"
        elif isinstance(node, ast.Attribute) and node.attr in REACHING:
            # Fields may be called so: `request.now` is the time that was handed in.
            if node.attr != "now" or ast.unparse(node.value).endswith("datetime"):
                yield node.lineno, f"reaches for {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "now":
            yield node.lineno, f"calls {ast.unparse(node)}"


def files() -> Iterator[Path]:
    """Of all pure rooms, and of the modules under :data:`CARD`."""
    source = ROOT / "src"
    for name in (*(f"svetovid.{room}" for room in ROOMS), *CARD):
        path = source.joinpath(*name.split("."))
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def main() -> int:
    bad = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in files()
        for line, what in findings(path.read_text())
    ]
    print("\n".join(bad) or f"pure: {', '.join((*ROOMS, *CARD))}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
