"""Every command that source or documents name exists, with the options they name."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from svetovid.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
TREE: Any = typer.main.get_command(app)
PAGES = [
    *(ROOT / n for n in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = [
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    ROOT / "Makefile",
]
HELP = {"--help", "-h"}
_LABELS = {"manager activation"}
"""What begins like a command and is the label of a signature or MAC."""
_MENTION = re.compile(
    r"\bsvetovid ((?:[^`;)\n]|\)(?=\w))+?)(?=[`;)\n]|[,.:] |[.,:]?$)", re.MULTILINE
)


def leaves(command: Any = TREE, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    children = getattr(command, "commands", None)
    if not children:
        yield path
    for name, child in (children or {}).items():
        yield from leaves(child, (*path, name))


def options(command: Any) -> set[str]:
    return HELP.union(
        *(p.opts for p in command.params), *(p.secondary_opts for p in command.params)
    )


def wrong(mention: str) -> str:
    """What is wrong with ``svetovid MENTION``, prose around it left alone; empty if nothing is."""
    node = TREE
    if mention in _LABELS:
        return ""
    for word in mention.split():
        bare = word.strip("`'\"…").partition("=")[0]
        children = getattr(node, "commands", None)
        if bare.startswith("-") and len(bare) > 1:
            if bare not in options(node):
                return f"{bare} is no option of {node.name}"
        elif children is not None:
            if bare in children:
                node = children[bare]
            elif bare.isupper() or bare in ("", "command"):  # svetovid COMMAND --help
                return ""
            else:
                return f"{bare} is no command of {node.name}"
    return ""


def parsed(words: list[str]) -> None:
    """Parse a whole command line as the program does, and run nothing."""
    node, path = TREE, ["svetovid"]
    while getattr(node, "commands", None):
        node = node.commands[words[0]]
        path.append(words.pop(0))
    node.make_context(" ".join(path), words)


def mentions(text: str, *, only_known: bool) -> Iterator[str]:
    for found in _MENTION.finditer(text):
        if not only_known or found[1].split()[0] in TREE.commands:
            yield found[1]


def strings(source: str) -> Iterator[tuple[str, bool]]:
    """Every string of a module, whether it is a next step; what f-strings fill in is ``X``."""
    tree = ast.parse(source)
    steps: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "next_step":
            steps |= {id(inner) for inner in ast.walk(node.value)}
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
            yield "".join(map(str, parts)), id(node) in steps
        elif isinstance(getattr(node, "value", None), str) and id(node) not in inside:
            yield node.value, id(node) in steps


def _in_backticks(text: str) -> Iterator[str]:
    flat = re.sub(r"\s+", " ", text)
    return (m.strip("`") for m in re.findall(r"``?svetovid [^`]+``?", flat))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SVETOVID_HOME", "SVETOVID_PUBLIC"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", sorted(leaves()), ids=" ".join)
def test_the_example_in_each_help_parses(path: tuple[str, ...]) -> None:
    command = TREE
    for word in path:
        command = command.commands[word]
    examples = re.findall(r"Example: `([^`]+)`", command.help)
    assert examples, "no example"
    for example in examples:
        first, *words = shlex.split(example)
        assert first == "svetovid"
        assert words[: len(path)] == list(path)
        parsed(words)


@pytest.mark.parametrize(
    "name", sorted(n for n, c in TREE.commands.items() if hasattr(c, "commands"))
)
def test_each_group_says_in_which_order_it_is_used(name: str) -> None:
    """The epilog names every command of the group, and only such."""
    group = TREE.commands[name]
    named = re.findall(r"`([a-z-]+)`", group.epilog or "")
    assert set(named) == set(group.commands)


def test_every_command_line_in_the_documents_parses() -> None:
    found = 0
    for page in PAGES:
        blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", page.read_text(), re.M | re.S)
        for line in "".join(blocks).replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["svetovid"]:
                parsed(words[1:])
                found += 1
    assert found > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_that_a_document_names_exists(page: Path) -> None:
    text = page.read_text()
    named = [m.removeprefix("svetovid ") for m in _in_backticks(text)]
    assert [(m, why) for m in named if (why := wrong(m))] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_that_the_source_names_exists(path: Path) -> None:
    source = path.read_text()
    said = strings(source) if path.suffix == ".py" else [(source, False)]
    bad = []
    for text, is_step in said:
        named = {m.removeprefix("svetovid ") for m in _in_backticks(text)}
        named |= set(mentions(text, only_known=not is_step))
        bad += [(m, why) for m in sorted(named) if (why := wrong(m))]
    assert bad == []


def test_the_scan_finds_what_is_wrong() -> None:
    assert wrong("job consent FILE --yes") == ""
    assert wrong("COMMAND --help") == ""
    assert "consnt" in wrong("job consnt")
    assert "--yess" in wrong("job consent FILE --yess")
    source = 'raise E("a.b", next_step=f"read it ({x}), then: svetovid job {y} --nope")\n'
    ((text, is_step),) = [s for s in strings(source) if "svetovid" in s[0]]
    assert is_step
    assert list(mentions(text, only_known=False)) == ["job X --nope"]
    assert list(mentions("a checkout of svetovid with examples", only_known=True)) == []
    assert list(mentions("run svetovid job show X), then add --yes", only_known=True)) == [
        "job show X"
    ]
