"""Writes docs/spec/messages.md: every member of every document that is signed or sent.

::

    python scripts/messages_page.py            # list members without a meaning; exit 1 if there are
    python scripts/messages_page.py --write    # write the page

Types and bounds are the models' own. A member's meaning stands under ``Attributes:`` in the
docstring of its model, or of the model that it extends.
"""

from __future__ import annotations

import importlib
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import StringConstraints
from pydantic.fields import FieldInfo

from svetovid.crypto import Document

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "spec" / "messages.md"
MODULES = {
    "Envelopes and identities": ("crypto.canonical", "crypto.envelope", "crypto.identity"),
    "Assets": ("assets.manifest",),
    "Hosts and their evidence": ("evidence.documents", "evidence.tee"),
    "Anchors and reference values": ("evidence.references",),
    "Policies, jobs and consents": ("policy.offload", "policy.outputs", "policy.documents"),
    "Between parties and managers": (
        "protocol.messages",
        "protocol.managers",
        "protocol.records",
    ),
    "Between hosts and managers": ("protocol.hosts", "host.home", "protocol.output"),
    "The log and receipts": (
        "transparency.entries",
        "transparency.checkpoint",
        "transparency.receipt",
    ),
}
LOCAL = {"HostConfig"}  # a host's own file
PLAIN = {
    "Base64": "bytes, as base64 with padding (RFC 4648, section 4)",
    "BootDigest": "a digest with its algorithm, as a TPM's bank has it",
    "BootPcr": "number of a PCR, decimal",
    "BundlePath": "path within a bundle, of parts joined by `/`",
    "CelSource": "an expression in CEL; see [policy.md](policy.md)",
    "CommandLine": "the command line of a kernel, as it was measured",
    "DevicePath": "an accelerator's device node",
    "Digest": "SHA-256 of canonical bytes, unless the member says of what",
    "FileDigest": "digest of a file's content with its algorithm, as IMA writes it",
    "FilePath": "absolute path, without empty parts and control characters",
    "Hex": "bytes in lower-case hex",
    "KeyId": "a signing key: its algorithm, and its raw public key in hex",
    "Name": "a short name",
    "Operator": "who runs a worker, in printable ASCII",
    "Path": "path and query of a request",
    "Payload": "canonical JSON, as base64",
    "RulePath": "a path, or with `*` in a glob",
    "TensorName": "name of a tensor in a safetensors file",
    "Text": "words for people",
    "Url": "where a manager is",
    "WorkerUrl": "host and port of a worker",
}
"""What the named kinds of text are; their patterns and lengths are read from the source."""
_HEAD = """# Members of every message and document

Made from the source by `make docs`. One section for each JSON object that is signed or sent, each
member with its type, its bounds and what it means. The pages beside this one say who sends what,
when, and how it is checked: [documents.md](documents.md) how a document becomes canonical bytes and
is signed, [protocol.md](protocol.md) what is posted where.

Objects have these members and no others; one that is unknown is refused. A member with a default
may be left out; *absent* says that leaving it out is its default, and `null` is not written.
Integers are below 2^53 in size; times are Unix seconds. The type in front of a section is what the
media type of an envelope names where the object is signed; it is no member.

"""


def _modules() -> Iterator[tuple[str, Any]]:
    for group, names in MODULES.items():
        for name in names:
            yield group, importlib.import_module(f"svetovid.{name}")


def models() -> dict[type[Document], str]:
    """Every model of the page, in the order of the source, and the group it stands in."""
    return {
        value: group
        for group, module in _modules()
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Document) and value is not Document
        if value.__module__ == module.__name__ and name[0] != "_" and name not in LOCAL
    }


def meanings(model: type[Document]) -> dict[str, str]:
    """Member to meaning, of a model and of those that it extends."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if isinstance(base, type) and issubclass(base, Document):
            found |= _attributes(base.__dict__.get("__doc__") or "")
    return found


def _attributes(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    _, _, part = docstring.partition("Attributes:\n")
    for line in part.splitlines():
        if not line.strip():
            break
        if begins := re.match(r" {8}((?:\w+, )*\w+): (.*)", line):
            names = begins[1].split(", ")
            found |= dict.fromkeys(names, begins[2])
        else:
            found |= {n: f"{found[n]} {line.strip()}" for n in names}
    return found


def _plain(text: str) -> str:
    """Markdown of a docstring's words: what it names in our source, without the source."""
    text = re.sub(r":\w+:`~?\.?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return re.sub(r"``(.*?)``", r"`\1`", text).replace("|", "\\|")


def lacking() -> list[str]:
    """Members that say nothing of themselves."""
    return [
        f"{model.__name__}.{name}"
        for model in models()
        for name in sorted(model.model_fields.keys() - meanings(model).keys())
    ]


def _named() -> dict[str, Any]:
    """Names of annotated text, as far as the page explains them."""
    return {
        name: value
        for _, module in _modules()
        for name, value in vars(module).items()
        if name in PLAIN and get_origin(value) is Annotated
    }


def _bounds(metadata: tuple[Any, ...]) -> str:
    """Lengths, sizes and patterns in words."""
    parts, limits = [], {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            parts.append(_bounds(tuple(item.metadata)))
        for key in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
            if (value := getattr(item, key, None)) is not None:
                limits[key] = value
    if "pattern" in limits:
        parts.append(f"`{limits['pattern']}`".replace("|", "\\|"))
    words = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
    parts += [w.format(_number(limits[k])) for k, w in words.items() if k in limits]
    low, high = limits.get("min_length"), limits.get("max_length")
    if low is not None or high is not None:
        parts.append(f"length {low or 0} to {high}" if high is not None else f"at least {low} long")
    return ", ".join(p for p in parts if p)


def _number(value: int) -> str:
    power = value.bit_length() - 1
    return f"2^{power}" if value >= 1 << 16 and value == 1 << power else str(value)


def _type(kind: Any) -> tuple[str, str]:
    """A type in words, and its bounds."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        metadata = kind.__metadata__
        for name, known in _named().items():
            its = known.__metadata__
            if known.__origin__ is kind.__origin__ and metadata[: len(its)] == its:
                return name, _bounds(metadata[len(its) :])
        if kind.__origin__ is str and any(isinstance(m, StringConstraints) for m in metadata):
            return "text", _bounds(metadata)
        words, inner = _type(kind.__origin__)
        return words, ", ".join(b for b in (_bounds(metadata), inner) if b)
    if origin is Literal:
        return " or ".join(f'`"{a}"`' for a in _literals(kind)), ""
    if origin in (Union, UnionType):
        found = [_type(a) for a in args if a is not NoneType]
        return " or ".join(w for w, _ in found), ", ".join(b for _, b in found if b)
    if origin is tuple:
        words, inner = _type(args[0])
        return f"list of {words}", f"each {inner}" if inner else ""
    if origin is dict:
        (key, of_key), (words, inner) = _type(args[0]), _type(args[1])
        bounds = [f"key {of_key}"] * bool(of_key) + [f"value {inner}"] * bool(inner)
        return f"map of {key} to {words}", ", ".join(bounds)
    if isinstance(kind, type) and issubclass(kind, Document):
        return f"[{kind.__name__}](#{kind.__name__.lower()})", ""
    return {int: "integer", float: "number", bool: "boolean", str: "text"}.get(kind, "JSON"), ""


def _literals(kind: Any) -> Iterator[str]:
    for value in get_args(kind):
        if get_origin(value) is Literal:
            yield from _literals(value)
        else:
            yield value


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "absent"
    if isinstance(value, Document):
        return "that object with its defaults"
    return f"`{value!r}`".replace("'", '"').replace("()", "[]") if value != "" else '`""`'


def _section(model: type[Document]) -> Iterator[str]:
    said, hints = meanings(model), typing.get_type_hints(model, include_extras=True)
    summary = _plain(" ".join((model.__doc__ or "").split("\n\n")[0].split()))
    yield f"### {model.__name__}\n\n"
    yield (f"Type `{model.TYPE}`. " if model.TYPE else "") + summary + "\n\n"
    yield "| member | type | bounds | default | meaning |\n|---|---|---|---|---|\n"
    for name, field in model.model_fields.items():
        words, bounds = _type(hints[name])
        if get_origin(hints[name]) is not Annotated:
            bounds = bounds or _bounds(tuple(field.metadata))
        meaning = _plain(said.get(name, ""))
        yield f"| `{name}` | {words} | {bounds} | {_default(field)} | {meaning} |\n"
    yield "\n"


def page() -> str:
    """The whole page as it should be."""
    out = [_HEAD, "## Plain types\n\n| type | what it is | bounds |\n|---|---|---|\n"]
    body: list[str] = []
    last = ""
    for model, group in models().items():
        if group != last:
            body.append(f"## {group}\n\n")
        last = group
        body += _section(model)
    text = "".join(body)
    for name, kind in sorted(_named().items()):
        if re.search(rf"\b{name}\b", text):
            out.append(f"| {name} | {PLAIN[name]} | {_bounds(kind.__metadata__)} |\n")
    return "".join(out) + "\n" + text.rstrip("\n") + "\n"


def main() -> int:
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page())
    bad = lacking()
    print("\n".join(bad) or "messages: every member has a meaning")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
