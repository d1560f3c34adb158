"""No key enters the sandbox (T8): a script hands out all it can read of its own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentworld import DATA, World
from svetovid.crypto import ReceivingKey, Secret
from svetovid.host import agent
from svetovid.policy.documents import JobLimits
from svetovid.policy.outputs import OutputSpec, TensorSpec
from svetovid.training import _session

SIZE = 96 << 20

DUMP = """
content = session.content("data")
content.wait(len(content.buffer))
found = [repr(dict(os.environ)).encode(), repr(sys.argv).encode()]
for folder, _, names in os.walk("/proc/self/fd"):
    for name in names:
        try:
            found.append(os.readlink(f"{folder}/{name}").encode())
            with open(f"{folder}/{name}", "rb") as f:
                if not f.seekable():
                    continue
                found.append(f.read(1 << 20))
        except OSError:
            pass
for part in ("cmdline", "environ", "status", "maps"):
    try:
        with open(f"/proc/self/{part}", "rb") as f:
            found.append(f.read())
    except OSError:
        pass
with open("/proc/self/maps") as maps:
    regions = [line.split() for line in maps]
size, room = SIZE, SIZE - sum(map(len, found))
try:
    memory = open("/proc/self/mem", "rb", 0)
except OSError:
    memory = None
import ctypes
for region in regions:
    span, rights, name = region[0], region[1], " ".join(region[5:])
    start, end = (int(x, 16) for x in span.split("-"))
    if "r" not in rights or name.startswith(("/opt", "/usr", "/lib", "[v")) or end - start > room:
        continue
    found.append(ctypes.string_at(start, end - start))
    room -= end - start
data = b"".join(found)[:SIZE]
session.save("answer", file({"x": ("U8", [SIZE], data.ljust(SIZE, b"."))}))
""".replace("SIZE", str(SIZE))


def test_t8_no_key_is_anywhere_in_the_sandbox(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []

    def watched(cls: Any, name: str) -> None:
        real = getattr(cls, name)

        def make_one(*arguments: Any, **fields: Any) -> Any:
            out = real(*arguments, **fields)
            made.append(out.reveal())
            return out

        monkeypatch.setattr(cls, name, staticmethod(make_one))

    world = make(
        script=DUMP,
        job_changes={
            "outputs": {
                "answer": OutputSpec(tensors={"x": TensorSpec(dtype="uint8", shape=(SIZE,))})
            },
            "limits": JobLimits(
                wall_s=60, memory_mib=1024, processes=32, output_bytes=SIZE + (1 << 20)
            ),
        },
    )
    opened: list[Secret] = []
    keys = agent.ManagerLink.keys
    checkpoint, joint = agent.ManagerLink.checkpoint_key, agent.joint_key

    def kept(self: Any) -> Any:
        out = keys(self)
        opened.extend(key for _, key in out.values())
        return out

    def kept_too(self: Any) -> Any:
        opened.append(checkpoint(self))
        return opened[-1]

    def kept_joint(*given: Any) -> Any:
        opened.append(joint(*given))
        return opened[-1]

    monkeypatch.setattr(agent.ManagerLink, "keys", kept)
    monkeypatch.setattr(agent.ManagerLink, "checkpoint_key", kept_too)
    monkeypatch.setattr(agent, "joint_key", kept_joint)
    watched(Secret, "random")
    outcome = world.run()
    dump = world.open(outcome.outputs["answer"], world.rita)
    assert DATA.tobytes() in dump  # the search would find what is there
    assert b"libc.so" in dump
    secrets = {key.reveal() for key in (*opened, *world.keys.values())} | set(made)
    assert len(secrets) >= 5
    for secret in secrets:
        assert len(secret) >= 32
        assert secret not in dump
        assert secret.hex().encode() not in dump
    for name in (str(world.home.path), str(world.out), str(world.storage_folder)):
        assert name.encode() not in dump


def test_t8_what_a_script_imports_knows_no_key() -> None:
    """Nothing of the crypto or host rooms is in the sandbox's own modules."""
    text = Path(_session.__file__).read_text()
    assert "crypto" not in text
    assert ReceivingKey.__module__ not in text
