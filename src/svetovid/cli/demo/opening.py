"""Act one: everybody makes keys, the manager starts, the operator's hosts enrol."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

from svetovid.cli.demo.cast import STAKEHOLDERS
from svetovid.cli.demo.parties import separate_uids
from svetovid.cli.demo.story import Story
from svetovid.cli.demo.wiretap import Wiretap
from svetovid.host.runtime import build_runtime

__all__ = ["open_house"]


def open_house(story: Story) -> None:
    """Manager, tap, identities, hosts."""
    stage = story.stage
    building = story.begin(partial(build_runtime, stage.runtime))
    _serve(story)
    story.say("the manager runs; every connection to it passes through the operator's tap")
    if not separate_uids():
        story.say("uids are not separate here (not root, or others cannot read this Python)")
    story.together(partial(_create, story), *STAKEHOLDERS)
    story.say("seven parties made keys of their own and pinned the manager")
    building.result()
    # Both machines show jobs the same tree, so one set of reference values holds for both.
    story.together(lambda name: story.enrol(name, stage.runtime), "lab", "tee")
    for file in ("lab.anchors.json", "tee.anchors.json", "lab.references.json"):
        document = Path(shutil.copy(stage.host_papers / file, stage.public))
        group = "reference" if "references" in file else "anchors"
        story.cast["vera"].acts(group, "publish", document)
    story.say("vera, an auditor, signed the reference values and anchors that owners may pin")
    story.say("host lab: TPM 2.0 (libtpms, a SOFTWARE TPM), files measured by the launcher")
    story.say("host tee: a SIMULATED TEE, which protects nothing and says so")


def _serve(story: Story) -> None:
    host, port = story.manager.serve()
    pin = json.loads((story.cast["manager"].home / "manager.json").read_text())
    story.tap = Wiretap((host, port), story.stage.folder / "wire.capture")
    pin["url"] = f"https://{host}:{story.tap.port}"
    story.pin.write_text(json.dumps(pin))
    story.pin.chmod(0o644)


def _create(story: Story, name: str) -> None:
    folder = story.stage.folder
    story.cast[name].run("identity", "create", name, "--in", folder, "--manager", story.pin)
