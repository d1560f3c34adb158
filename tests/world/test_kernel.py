"""T4: production keys for a known kernel on hardware, and for nothing less."""

from __future__ import annotations

import pytest

import firmware as uefi
from firmware import EVENTS, KERNEL, LINE, Firmware, sha
from svetovid.evidence import BootReferences, ReferenceValues
from svetovid.evidence.boot import parse_boot_log
from svetovid.policy.documents import Condition, Pin
from world.machines import Machine
from world.world import CANARY, FILES, OWNERS, World

BOOT = BootReferences.from_json(
    {
        "kernels": {"linux": [sha(KERNEL)]},
        "command_lines": [LINE],
        "events": EVENTS,
        "measured": [next(iter(FILES))],
    }
)
STRONG = Condition(
    name="strong", cel='claims.measurement == "kernel" && !claims.simulated && claims.secure_boot'
)


def production(
    world: World, boot: BootReferences | None = BOOT, *, simulated: bool = False
) -> None:
    """Every owner asks for a known kernel, under an anchor that the test hands in."""
    world.runtime = world.runtime.model_copy(update={"boot": boot})
    for owner in OWNERS:
        world.anchors[owner] = world.anchors_of(world.ca, simulated=simulated)
        world.references[owner] = (world.runtime,)
        world.publish(owner)
        world.policy(
            owner,
            profile="production",
            accepts=(),
            anchors=Pin(document=world.anchors[owner].digest()),
            references=(Pin(document=world.runtime.digest()),),
            conditions=(STRONG,),
        )


def host(world: World, fw: Firmware | None = None) -> Machine:
    return world.machine("measured", firmware=fw or uefi.linux())


def test_t4_a_known_kernel_on_hardware_is_granted(world: World) -> None:
    """T4: the anchor is an argument of the test; nothing else makes a soft TPM hardware."""
    production(world)
    run = world.run(world.agreed(), host(world))
    assert run.open()["left"] == CANARY + b" of left"
    run.renew()


def test_t4_the_same_host_under_a_simulators_anchor(world: World) -> None:
    production(world, simulated=True)
    machine = host(world)
    with world.refuses("policy.simulated") as refusal:
        world.run(world.agreed(), machine)
    assert "policy.launcher" not in refusal.codes


def test_t4_the_same_host_where_no_reference_value_speaks_of_the_boot(world: World) -> None:
    production(world, None)
    machine = host(world)
    with world.refuses("policy.launcher") as refusal:
        world.run(world.agreed(), machine)
    assert not any(code.startswith("boot.") for code in refusal.codes)


def test_t4_a_host_without_a_boot_log(world: World) -> None:
    production(world)
    with world.refuses("boot.missing") as refusal:
        world.run(world.agreed())
    assert "policy.launcher" in refusal.codes


@pytest.mark.parametrize(
    ("fw", "code"),
    [
        (uefi.linux(LINE + " init=/bin/sh"), "boot.cmdline"),
        (uefi.unified(), "boot.kernel"),
        (uefi.linux(secure=False), "policy.condition"),
    ],
)
def test_t4_another_boot(world: World, fw: Firmware, code: str) -> None:
    production(world)
    machine = host(world, fw)
    with world.refuses(code):
        world.run(world.agreed(), machine)


def test_t4_u3_a_log_of_another_boot(world: World) -> None:
    """The machine booted something else, and shows the log it ought to have."""
    production(world)
    machine = host(world, uefi.linux(LINE + " init=/bin/sh"))
    machine.firmware = uefi.linux()
    with world.refuses("boot.replay"):
        world.run(world.agreed(), machine)


def test_t4_u1_a_boot_application_under_another_name(world: World) -> None:
    production(world)
    fw = uefi.linux()
    fw.add(4, uefi.ACTION, b"Calling EFI Application from Boot Option", b"bootkit")
    machine = host(world, fw)
    assert parse_boot_log(fw.log())
    with world.refuses("boot.unlisted") as refusal:
        world.run(world.agreed(), machine)
    told = [r for r in refusal.error.reasons if r.code == "boot.unlisted"]
    assert {r.owner for r in told} == {world.key(owner) for owner in OWNERS}


def test_t4_each_owner_has_kernels_of_its_own(world: World) -> None:
    """T2: Bob's editions do not list this kernel; Alice's and Carol's do."""
    production(world)
    other = BOOT.model_copy(update={"kernels": {"linux": (sha(b"newer kernel"),)}})
    mine = ReferenceValues(**{**dict(world.runtime), "boot": other, "version": 2})
    world.references["bob"] = (mine, world.runtime.model_copy(update={"boot": None}))
    world.publish("bob")
    pins = tuple(Pin(document=r.digest()) for r in world.references["bob"])
    world.policy("bob", references=pins)
    machine = host(world)
    with world.refuses("boot.kernel") as refusal:
        world.run(world.agreed(), machine)
    assert {r.owner for r in refusal.error.reasons} == {world.key("bob")}


def test_m14_k4_a_lease_does_not_outlive_a_kexec(world: World) -> None:
    production(world)
    machine = host(world)
    run = world.run(world.agreed(), machine)
    machine.kexec()
    with world.refuses("ima.kexec") as refusal:
        run.renew()
    assert "policy.launcher" in refusal.codes
