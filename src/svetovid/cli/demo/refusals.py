"""Act six: what must be refused. Bytes are changed, messages replayed; no hook helps (T18)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from svetovid.cli.demo.cast import policy_yaml
from svetovid.cli.demo.parties import refused
from svetovid.cli.demo.story import Story
from svetovid.cli.demo.tasks import Task
from svetovid.errors import HostError, SvetovidError
from svetovid.stakeholder import read_receipt

__all__ = ["SCENES", "Refusal", "try_all"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that must not go through, and the reason code it must meet."""

    what: str
    code: str
    attempt: Callable[[Story, Task], object]


def _flipped(story: Story, asset: str) -> Path:
    """A copy of a sealed container with one bit of its ciphertext changed."""
    path = story.cast.copy_of(asset)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    return path


def _missing_consent(story: Story, task: Task) -> object:
    """rita proposes the job once more; it is run before bob has agreed."""
    story.again = story.propose(task, "again")
    story.consent(story.again, "alice", "carol")
    return story.run(story.again)


def _changed_code(story: Story, task: Task) -> object:
    story.consent(story.again, "bob")
    return story.run(story.again, code=_flipped(story, f"{task.name}-code"))


def _changed_dataset(story: Story, task: Task) -> object:
    return story.run(story.again, a=_flipped(story, f"{task.name}-alice"))


def _other_code(story: Story, task: Task) -> object:
    folder = story.bundle("carol", "other-code", task, "train.py", "\n# and one line more\n")
    terms: dict[str, Any] = {"modes": ["attested"], "recipients": ["rita"]}
    story.share("carol", folder, "other-code", policy_yaml("other-code", use="code", **terms))
    slots = {
        "code": ("other-code", "carol", "code"),
        "a": (f"{task.name}-alice", "alice", "data"),
        "b": (f"{task.name}-bob", "bob", "data"),
    }
    return story.agree(story.propose(task, "other-code", assets=slots), "alice")


def _replayed_quote(story: Story, task: Task) -> object:
    """olga's host gets its keys for good evidence; then she sends the very same bytes again."""
    lab = story.cast["lab"]
    given = map(str, (lab.home, story.again, story.pin))
    return lab.answer("svetovid.cli.demo.replaying", *given)


def _unlisted_file(story: Story, task: Task) -> object:
    """olga adds one file to a copy of the runtime, and enrols a host with it."""
    tree, authority = story.stage.folder / "lab2-runtime", story.stage.folder / "lab2-authority"
    shutil.copytree(story.stage.runtime, tree, copy_function=os.link)
    (tree / "opt" / "site" / "helpful.py").write_text("print('trust me')\n")
    # One authority certifies both of olga's software TPMs: only the file is amiss.
    shutil.copytree(story.cast["lab"].home / "simulated-ca", authority)
    for path in (authority, *authority.iterdir()):
        story.cast["lab2"].own(path)
    story.enrol("lab2", tree, authority)
    return story.run(story.again, "lab2")


def _simulator_in_production(story: Story, task: Task) -> object:
    """dora's records are for production: no software TPM may open them."""
    first = task.halves(task.load()[0])[0]
    code = f"{task.name}-code"
    text = policy_yaml(
        "strict", use="data", code=[code], modes=["attested"], recipients=["rita"], production=True
    )
    story.share("dora", story.save("dora", "strict", first), "strict", text)
    slots = {
        "code": (code, "carol", "code"),
        "a": ("strict", "dora", "data"),
        "b": ("strict", "dora", "data"),
    }
    job = story.propose(task, "production", assets=slots)
    story.consent(job, "dora", "carol")
    return story.run(job)


def _outside_schema(story: Story, task: Task) -> object:
    """The job agrees to one tensor less than the code saves."""
    tensors = dict(task.tensors)
    tensors.pop("bias")
    outputs = {"model": {k: ("float32", s) for k, s in tensors.items()}}
    job = story.propose(task, "outside-schema", outputs=outputs)
    story.consent(job, "alice", "bob", "carol")
    return story.run(job)


def _runs_used_up(story: Story, task: Task) -> object:
    """alice granted five runs; by now the keys of her records were released five times."""
    return story.run(story.again)


def _forged_receipt(story: Story, task: Task) -> object:
    """olga lets a receipt claim another model."""
    storage = story.stage.storage
    mine, other = (storage / f"{name}.receipt.json" for name in (task.name, "answers"))
    forged = storage / "forged.receipt.json"
    words = read_receipt(mine).receipt.payload, read_receipt(other).receipt.payload
    forged.write_text(mine.read_text().replace(*words))
    return story.cast["vera"].run(
        "receipt", "verify", forged, *story.believed(task.name), "--manager", story.pin
    )


def _older_store(story: Story, task: Task) -> object:
    """olga puts back the manager's store as it was before dora's last record."""
    manager = story.cast["manager"]
    store, kept = manager.home / "store.db", story.stage.folder / "store.kept"
    story.manager.stop()
    shutil.copy2(store, kept)
    story.manager.serve()
    story.propose(task, "soon-forgotten")
    story.manager.stop()
    for path in manager.home.glob("store.db*"):
        path.unlink()
    shutil.copy2(kept, store)
    manager.own(store)
    story.manager.serve()
    return story.propose(task, "afterwards")


_FIRST = (
    Refusal("a run before bob has agreed", "consent.missing", _missing_consent),
    Refusal("code changed in storage", "asset.altered", _changed_code),
)
_ON_THE_LAB = (
    Refusal("a dataset changed in storage", "asset.altered", _changed_dataset),
    Refusal("a quote replayed", "challenge.used", _replayed_quote),
    Refusal("an output outside the schema", "output.schema", _outside_schema),
    Refusal("one run more than alice granted", "limit.runs", _runs_used_up),
)
_ELSEWHERE = (
    Refusal("a file on the host that nobody listed", "ima.unlisted", _unlisted_file),
    Refusal("code that alice did not review", "grant.code", _other_code),
    Refusal("a receipt with another job's words", "signature.invalid", _forged_receipt),
    Refusal("a simulator under a production policy", "policy.simulated", _simulator_in_production),
)
_LAST = (Refusal("the manager's store put back to yesterday", "store.rollback", _older_store),)
SCENES = ((_FIRST,), (_ON_THE_LAB, _ELSEWHERE), (_LAST,))
"""One after the other; the rows of a scene are played side by side, each in its order."""


def try_all(story: Story, task: Task) -> Iterator[tuple[Refusal, SvetovidError]]:
    """Attempt everything; each must be refused, and for the right reason.

    Raises:
        HostError: ``demo.not_refused`` where one goes through or is refused for another reason.
    """
    for scene in SCENES:
        rows = [story.begin(partial(_row, story, task, row)) for row in scene]
        for row in rows:
            yield from row.result()


def _row(story: Story, task: Task, row: Sequence[Refusal]) -> list[tuple[Refusal, SvetovidError]]:
    return [(refusal, _refused(story, task, refusal)) for refusal in row]


def _refused(story: Story, task: Task, refusal: Refusal) -> SvetovidError:
    begun = time.monotonic()
    error = refused(partial(refusal.attempt, story, task))
    codes = [] if error is None else [r.code for r in error.reasons]
    if error is None or refusal.code not in codes:
        raise HostError(
            "demo.not_refused",
            expected=f"{refusal.what}: {refusal.code}",
            observed=", ".join(codes) or "it went through",
            next_step="this is a defect: report it",
        )
    story.findings.refusals[refusal.what] = refusal.code
    story.findings.seconds[f"refusal: {refusal.what}"] = round(time.monotonic() - begun, 2)
    return error
