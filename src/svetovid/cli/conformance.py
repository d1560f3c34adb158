"""``svetovid conformance``: the verifier of this installation, held against the suite's vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svetovid.cli.output import emit
from svetovid.cli.results import write_result
from svetovid.errors import InputError

if TYPE_CHECKING:
    from svetovid.evidence.recorded import ConformanceCase, Seen

WORLDS, CASES = "worlds", "cases"
MAX_CASES = 10_000
MAX_FILES = 64
MAX_FILE_BYTES = 1 << 20


def conformance(
    suite: Annotated[
        Path | None, typer.Argument(help="The suite; by default that of the checkout.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--json", help="File to write the results to; - prints them.")
    ] = None,
) -> None:
    """Run the conformance suite: recorded attacks, and what a verifier must say of each.

    Exit code 1 where one vector does not pass.

    Example: `svetovid conformance tests/conformance --json results.json`
    """
    root = _found(suite)
    results = [_result(root, folder) for folder in _folders(root)]
    failed = [r for r in results if not r["passed"]]
    count = f"{len(results) - len(failed)} of {len(results)} vectors pass"
    data = {
        "vectors": len(results),
        "passed": len(results) - len(failed),
        "attacks": sorted({a for r in results for a in r["attacks"]}, key=_order),
        "results": results,
    }
    if str(to) == "-":
        emit(data, (), True)
    else:
        if to is not None:
            write_result(to, data)
        emit({}, [count, *(_line(r) for r in failed)], False)
    if failed:
        raise typer.Exit(1)


def _order(attack: str) -> tuple[str, int]:
    letters = attack.rstrip("0123456789")
    return letters, int(attack[len(letters) :])


def _line(result: dict[str, Any]) -> str:
    told = "; ".join(
        f"{name}: expected {d['expected']}, said {d['said']}"
        for name, d in result["differences"].items()
    )
    return f"NOT passed: {result['name']}: {told}"


def _refused(expected: str, observed: object) -> InputError:
    return InputError(
        "conformance.suite",
        expected=expected,
        observed=observed,
        next_step="name the folder tests/conformance of a checkout",
    )


def _found(suite: Path | None) -> Path:
    from svetovid.cli.checkout import checkout

    return checkout() / "tests" / "conformance" if suite is None else suite


def _folders(root: Path) -> list[Path]:
    found = [p for part in (WORLDS, CASES) if (root / part).is_dir() for p in _below(root / part)]
    if not found or len(found) > MAX_CASES:
        raise _refused(f"1 to {MAX_CASES} cases in {root}", len(found))
    return found


def _below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir())


def _files(folder: Path) -> dict[str, bytes]:
    """The suite's files, whatever they are called: what is no part of a case is never looked at."""
    from svetovid.stakeholder.home import read_bounded

    if not folder.is_dir():
        raise _refused("a world of the suite", folder)
    files = [p for p in folder.iterdir() if not p.is_dir()]
    if len(files) > MAX_FILES:
        raise _refused(f"at most {MAX_FILES} files in {folder}", len(files))
    return {p.name: read_bounded(p, MAX_FILE_BYTES, what="a file of the suite") for p in files}


def _read(root: Path, folder: Path) -> tuple[ConformanceCase, dict[str, bytes]]:
    from svetovid.evidence.recorded import CASE, ConformanceCase, laid_over

    own = _files(folder)
    case = ConformanceCase.parse(own.pop(CASE, b""))
    world = {} if case.world is None else _files(root / WORLDS / case.world)
    return case, laid_over(case, world, own)


def _seen(root: Path, case: ConformanceCase) -> Seen | None:
    """What came of the recording before this one."""
    from svetovid.evidence.recorded import judge_case

    if case.given.after is None:
        return None
    earlier, files = _read(root, root / case.given.after)
    _, seen = judge_case(earlier, files)
    if seen is None:
        raise _refused("an earlier recording whose log holds", case.given.after)
    return seen


def _result(root: Path, folder: Path) -> dict[str, Any]:
    from svetovid.evidence.recorded import differences, judge_case

    case, files = _read(root, folder)
    said, _ = judge_case(case, files, _seen(root, case))
    found = differences(case.expected, said)
    return {
        "name": f"{folder.parent.name}/{folder.name}",
        "attacks": list(case.attacks),
        "passed": not found,
        "verdict": said["verdict"],
        "reasons": said["reasons"],
        "differences": {n: {"expected": e, "said": s} for n, (e, s) in found.items()},
    }
