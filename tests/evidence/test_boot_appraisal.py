"""T4: ``measurement: kernel``, only from an appraised boot log; U1, U2, U6, U7, U9, M11 to M14."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import firmware as uefi
from evidence import vectors
from evidence.authorities import NOW
from evidence.forger import Forger
from evidence.ima_bytes import fields, raw_entry
from evidence.small_world import World
from firmware import EVENTS, GRUB_LINE, KERNEL, LINE, Event, Firmware, sha
from svetovid.crypto import b64encode, digest
from svetovid.errors import ParseError
from svetovid.evidence import BootReferences, ReferenceValues
from svetovid.evidence.appraisal import Appraisal
from svetovid.evidence.boot import judge, policies, prove_boot
from svetovid.evidence.ima import boot_aggregate, boot_aggregate_digest, extension
from svetovid.evidence.ima.listing import IMA_POLICY
from svetovid.evidence.ima.state import advance
from svetovid.evidence.references import Current
from svetovid.evidence.tpm import ClockInfo

CHECKOUT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "kernels": {"linux": (sha(KERNEL),)},
    "command_lines": (LINE,),
    "events": EVENTS,
    "measured": ("/opt/runtime/lib0.so",),
}


class Host(World):
    """A host whose firmware is scripted; every test changes one thing about it."""

    def __init__(self, fw: Firmware | None = None, *, quoted: int = 15, **more: object) -> None:
        self.fw = fw or uefi.linux()
        pcrs = {i: v for i, v in self.fw.pcrs().items() if i < quoted}
        self.sets: list[ReferenceValues] = []
        super().__init__(tpm=Forger(pcrs=pcrs | {10: bytes(32)}), **more)

    def allow(self, **changes: object) -> ReferenceValues:
        boot = BootReferences.from_json({**ALLOWED, **changes})
        return self.references.model_copy(update={"boot": boot})

    def judged(self, *references: ReferenceValues, log: bytes | None = None) -> Appraisal:
        sent = self.evidence(boot_log=b64encode(log or self.fw.log()))
        return self.appraise(self.verify(sent), references=list(references) or [self.allow()])


def granted(appraisal: Appraisal) -> bool:
    facts = appraisal.facts()
    good = appraisal.affirmed and facts["measurement"] == "kernel" and not facts["simulated"]
    assert good or facts["measurement"] == "launcher"
    return good


def codes(appraisal: Appraisal, measurement: str = "launcher") -> set[str]:
    assert appraisal.facts()["measurement"] == measurement
    assert not appraisal.affirmed
    assert all(r.code and r.next_step and r.clause for r in appraisal.reasons())
    return {r.code for r in appraisal.reasons()}


def observed(appraisal: Appraisal, name: str) -> str:
    return next(c.observed for c in appraisal.claims if c.name == name)


# -- granted


def test_t4_a_known_kernel_from_an_injected_anchor():
    """T4: granted with a hardware maker's anchor that the test hands in as an argument."""
    host = Host()
    assert granted(host.judged())
    assert host.judged().facts()["secure_boot"] is True
    from evidence.authorities import anchors

    proven = host.verify(host.evidence(boot_log=b64encode(host.fw.log())))
    simulated = anchors(host.root.anchor(simulated=True))
    facts = host.appraise(proven, anchors=simulated, references=[host.allow()]).facts()
    assert (facts["measurement"], facts["simulated"]) == ("kernel", True)


def test_t4_without_a_word_about_the_boot_it_is_a_launcher():
    host = Host()
    appraisal = host.judged(host.references)
    assert appraisal.affirmed
    assert appraisal.facts()["measurement"] == "launcher"
    assert not any(c.name.startswith("boot.") for c in appraisal.claims)


def test_secure_boot_is_a_fact_of_its_own():
    host = Host(uefi.linux(secure=False))
    assert granted(host.judged())
    assert host.judged().facts()["secure_boot"] is False
    assert "not 1" in observed(host.judged(), "boot.secure_boot")


def test_whole_values_instead_of_events():
    host = Host()
    values = {str(i): ("sha256:" + v.hex(),) for i, v in host.fw.pcrs().items() if i != 10}
    assert granted(host.judged(host.allow(pcrs=values, events={})))
    assert "boot.pcr" in codes(host.judged(host.allow(pcrs=values | {"1": (digest(b""),)})))
    other = {**values, "2": (digest(b""),)}
    assert codes(host.judged(host.allow(pcrs=other, events={}))) == {"boot.pcr"}
    assert granted(host.judged(host.allow(pcrs={"2": (digest(b""),)})))


def test_unified_kernel_image():
    sections = {
        name: (sha(content),) for name, content in uefi.SECTIONS.items() if name != ".linux"
    }
    allowed = {
        "kernels": {"image": (sha(b"unified image"), sha(b"inner kernel"))},
        "events": {**EVENTS, "11": sections},
    }
    host = Host(uefi.unified())
    assert granted(host.judged(host.allow(**allowed)))
    assert codes(host.judged(host.allow(kernels=allowed["kernels"]))) == {"boot.unlisted"}


def test_the_stubs_word_for_the_command_line_needs_pcr_4_whole():
    """Else the inner kernel, started alone, leaves PCR 11 to whoever comes later."""
    host = Host(uefi.unified(measuring=False))
    sections = {name: (sha(content),) for name, content in uefi.SECTIONS.items()}
    allowed = {
        "kernels": {"image": (sha(b"unified image"), sha(b"inner kernel"))},
        "events": {**EVENTS, "11": sections},
    }
    assert codes(host.judged(host.allow(**allowed))) == {"boot.cmdline"}
    whole = {"pcrs": {"4": ("sha256:" + host.fw.pcrs()[4].hex(),)}}
    assert granted(host.judged(host.allow(**allowed, **whole)))
    short = Host(uefi.unified(measuring=False), quoted=12)
    assert codes(short.judged(short.allow(**allowed, **whole))) == {"pcr.missing"}


def test_grubs_word_for_the_command_line_needs_pcr_4_whole():
    """T4: the attack that it stops is test_a_kernel_that_measures_nothing_started_alone."""
    host = Host(uefi.grub())
    events = {
        **EVENTS,
        "8": {"linux": (sha(b"linux " + GRUB_LINE.encode()),)},
        "9": {"grub.cfg": (sha(b"grub.cfg"),), "initrd": (sha(uefi.INITRD),)},
        "4": {"grub": (sha(b"grub image"),)},
    }
    allowed = {"command_lines": (GRUB_LINE,), "events": events}
    assert codes(host.judged(host.allow(**allowed))) == {"boot.cmdline"}
    whole = {"pcrs": {"4": ("sha256:" + host.fw.pcrs()[4].hex(),)}}
    assert granted(host.judged(host.allow(**allowed, **whole)))


def test_a_kernel_that_measures_nothing_started_alone():
    """Its programs fill PCR 8 and 9 with what grub would have measured; PCR 4 gives them away."""
    real = Host(uefi.grub())
    fw = uefi.firmware()
    fw.add(4, uefi.APPLICATION, uefi.image("\\vmlinuz"), KERNEL)
    for event in uefi.grub().events:
        if event.pcr in (8, 9):
            fw.events.append(event)
    host = Host(fw)
    events = {
        **EVENTS,
        "8": {"linux": (sha(b"linux " + GRUB_LINE.encode()),)},
        "9": {"grub.cfg": (sha(b"grub.cfg"),), "initrd": (sha(uefi.INITRD),)},
        "4": {"grub": (sha(b"grub image"),)},
    }
    whole = {"4": ("sha256:" + real.fw.pcrs()[4].hex(),)}
    allowed = host.allow(command_lines=(GRUB_LINE,), events=events, pcrs=whole)
    assert codes(host.judged(allowed)) == {"boot.cmdline"}


# -- one event changed


@pytest.mark.parametrize("pcr", [0, 2, 4, 8, 9, 12, 13])
@pytest.mark.parametrize(
    "kind", [uefi.ACTION, uefi.SEPARATOR, uefi.APPLICATION, uefi.TAG, uefi.IPL, 0x12345]
)
def test_u1_code_under_any_type_is_looked_at(pcr, kind):
    host = Host(uefi.linux())
    host.fw.add(pcr, kind, b"Calling EFI Application from Boot Option", b"evil")
    bad = Host(host.fw)
    appraisal = bad.judged()
    found = codes(appraisal)
    assert found == (
        {"boot.separator"} if kind == uefi.SEPARATOR and pcr < 8 else {"boot.unlisted"}
    )


@pytest.mark.parametrize("pcr", ["0", "2", "9"])
def test_code_is_looked_at_where_nothing_is_listed(pcr):
    host = Host()
    fewer = {number: names for number, names in EVENTS.items() if number != pcr}
    assert codes(host.judged(host.allow(events=fewer))) == {"boot.unlisted"}


def test_u2_data_that_is_not_what_was_measured():
    fw = uefi.linux()
    fw.find(4, uefi.APPLICATION).measured = b"evil kernel"
    host = Host(fw)
    appraisal = host.judged()
    assert codes(appraisal) == {"boot.kernel", "boot.unlisted"}
    told = observed(appraisal, "boot.event")
    assert sha(b"evil kernel") in told
    assert "the log claims: \\EFI\\Linux\\vmlinuz.efi" in told


def test_configuration_is_looked_at_where_it_is_listed():
    host = Host()
    host.fw.add(1, uefi.ACTION, b"another setting")
    host = Host(host.fw)
    assert granted(host.judged())
    listed = host.allow(events={**EVENTS, "1": {"order": (sha(b"\0\0"),)}})
    assert codes(host.judged(listed)) == {"boot.unlisted"}
    both = {"order": (sha(b"\0\0"),), "setting": (sha(b"another setting"),)}
    assert granted(host.judged(host.allow(events={**EVENTS, "1": both})))


@pytest.mark.parametrize("listed", ["pcrs", "events"])
def test_p1_what_is_listed_must_be_quoted(listed):
    """P1: no reference value is passed over because the quote is silent about its PCR."""
    host = Host(quoted=14)
    value = (digest(b""),) if listed == "pcrs" else {**EVENTS, "14": {"lists": (digest(b""),)}}
    allowed = host.allow(**{listed: {"14": value} if listed == "pcrs" else value})
    assert codes(host.judged(allowed)) == {"pcr.missing"}


def test_authorities_are_looked_at_where_they_are_listed():
    """U7: an authority that is not in the owner's list, or state of shim's."""
    host = Host()
    known = [e for e in host.fw.events if e.pcr == 7 and e.kind != uefi.SEPARATOR]
    listed = {f"{i}": (sha(e.data),) for i, e in enumerate(known)}
    assert granted(host.judged(host.allow(events={**EVENTS, "7": listed})))
    host.fw.add(7, uefi.AUTHORITY, uefi.variable(uefi.SECURITY, "MokList", b"stranger"))
    host = Host(host.fw)
    assert codes(host.judged(host.allow(events={**EVENTS, "7": listed}))) == {"boot.unlisted"}


def test_what_is_good_everywhere_is_good_once():
    host = Host()
    host.fw.add(4, uefi.ACTION, b"Calling EFI Application from Boot Option")
    assert codes(Host(host.fw).judged()) == {"boot.unlisted"}


def test_an_application_that_came_back():
    """What ran first could have left anything behind."""
    host = Host()
    host.fw.add(4, uefi.ACTION, b"Returning from EFI Application from Boot Option")
    assert codes(Host(host.fw).judged()) == {"boot.unlisted"}


@pytest.mark.parametrize(
    "line",
    [
        LINE + " ima_appraise=off",
        LINE + " lockdown=none",
        LINE.replace("ab" * 32, "cd" * 32),
        LINE.replace("ima_policy=tcb ", ""),
        LINE + " ",
        "",
    ],
)
def test_u9_another_command_line(line):
    found = codes(Host(uefi.linux(line)).judged())
    assert found == {"boot.cmdline", "boot.unlisted", "ima.policy_unproven"}


def test_u9_no_command_line_at_all():
    fw = uefi.linux()
    fw.events = [e for e in fw.events if not (e.pcr == 9 and b"LoadOptions" in e.data)]
    assert codes(Host(fw).judged()) == {"boot.cmdline", "ima.policy_unproven"}


def test_the_command_line_behind_the_log():
    """Its event is relabelled and its text rewritten: the digest alone counts."""
    fw = uefi.linux()
    event = next(e for e in fw.events if e.pcr == 9)
    event.kind, event.data = uefi.IPL, b"nothing to see"
    assert granted(Host(fw).judged())
    fw = uefi.linux()
    event = next(e for e in fw.events if e.pcr == 9)
    event.data, event.measured = uefi.tagged(0x8F3B22ED, LINE.encode()), b"evil"
    assert "boot.cmdline" in codes(Host(fw).judged())


def test_kernel_and_command_line_of_two_editions():
    host = Host()
    old = host.allow(command_lines=("old " + LINE,))
    new = host.allow(kernels={"new": (sha(b"new kernel"),)})
    assert codes(host.judged(old, new)) == {"boot.edition"}
    assert granted(host.judged(old, new, host.allow()))


def test_two_command_lines_are_both_of_the_edition():
    fw = uefi.linux()
    fw.add(12, uefi.IPL, b"", (LINE + " quiet").encode("utf-16-le") + b"\0\0")
    host = Host(fw)
    assert "boot.unlisted" in codes(host.judged())
    assert granted(host.judged(host.allow(command_lines=(LINE, LINE + " quiet")))) is False
    whole = {"4": ("sha256:" + fw.pcrs()[4].hex(),)}
    both = host.allow(command_lines=(LINE, LINE + " quiet"), pcrs=whole)
    assert granted(host.judged(both))
    apart = host.allow(command_lines=(LINE + " quiet",), pcrs=whole)
    assert "boot.edition" in codes(host.judged(host.allow(), apart))


@pytest.mark.parametrize("changes", [{"kernels": {}}, {"command_lines": ()}, {"events": {}}])
def test_an_edition_that_lists_too_little(changes):
    assert codes(Host().judged(Host().allow(**changes)))


def test_unlisted_events_are_shown_up_to_a_bound():
    fw = uefi.linux()
    for i in range(100):
        fw.add(8, uefi.IPL, b"", b"%d" % i)
    appraisal = Host(fw).judged()
    assert codes(appraisal) == {"boot.unlisted"}
    assert sum(c.name == "boot.event" for c in appraisal.claims) == 32
    assert observed(appraisal, "boot.pcrs").startswith("100 ")


# -- no log, or none that holds


def test_no_boot_log():
    host = Host()
    appraisal = host.appraise(host.verify(host.evidence()), references=[host.allow()])
    assert codes(appraisal) == {"boot.missing"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda log: b"Spec ID Event03", "boot.header"),
        (lambda log: log[:-1], "boot.malformed"),
        (lambda log: log[: log.rindex(b"Exit Boot") - 50], "boot.replay"),
        (lambda log: uefi.Firmware(("sha1",)).log(), "boot.bank"),
        (lambda log: bytes(40), "boot.legacy"),
    ],
)
def test_a_boot_log_that_proves_nothing_is_a_reason_and_no_refusal(
    change: Callable[[bytes], bytes], code: str
):
    """Who does not ask for a boot log is not held up by a bad one."""
    host = Host()
    log = change(host.fw.log())
    if code == "boot.replay":
        events = host.fw.events[:-1]
        log = Firmware(events=events).log()
    assert codes(host.judged(log=log)) == {code}
    assert host.judged(host.references, log=log).affirmed


def test_genuine_boot_under_uefi():
    """QEMU with OVMF: what its firmware and Linux 6.1 measured, listed, is a known kernel's log."""
    v = vectors.boot("ovmf-tpm-crb")
    boot = prove_boot((vectors.ROOT / "ovmf-tpm-crb" / "bios.bin").read_bytes(), v.pcrs)
    log = advance(None, v.ima, offset=0, pcrs=v.pcrs, clock=ClockInfo(1, 1, 0, True))
    line = (vectors.ROOT / "ovmf-tpm-crb" / "cmdline.txt").read_text().rstrip("\n")
    events = {p: [value for _, value in boot.events[p]] for p in (0, 4, 9)}
    allowed = BootReferences(
        kernels={"Debian 6.1": (events[4][0],)},
        command_lines=(line,),
        events={
            "0": {f"{i}": (value,) for i, value in enumerate(events[0])},
            "9": {"initrd": (events[9][1],)},
        },
        measured=(log.entries[5].path,),
    )
    values = ReferenceValues(product="guest", version=1, boot=allowed)
    claims = judge(boot, log, Current.at([values], NOW))
    assert all(c.ok for c in claims), [c for c in claims if not c.ok]
    other = allowed.model_copy(update={"command_lines": (line.replace("tcb", "critical_data"),)})
    bad = judge(boot, log, Current.at([values.model_copy(update={"boot": other})], NOW))
    assert {c.code for c in bad if c.code} >= {"boot.cmdline", "boot.unlisted"}


def test_genuine_boot_without_uefi():
    """SeaBIOS measures no kernel: nothing an owner lists makes it a known one."""
    v = vectors.boot("direct1")
    boot = prove_boot((vectors.ROOT / "direct1" / "bios.bin").read_bytes(), v.pcrs)
    log = advance(None, v.ima, offset=0, pcrs=v.pcrs, clock=ClockInfo(1, 1, 0, True))
    events = {
        str(p): {f"{i}": (value,) for i, (_, value) in enumerate(found)}
        for p, found in boot.events.items()
    }
    line = (vectors.ROOT / "direct1" / "cmdline.txt").read_text().strip()
    allowed = BootReferences(events=events, command_lines=(line,), kernels={"x": (digest(b""),)})
    claims = judge(
        boot, log, Current.at([ReferenceValues(product="guest", version=1, boot=allowed)], NOW)
    )
    assert {c.code for c in claims if c.code} == {"boot.kernel", "ima.policy_unproven"}


# -- the measurement log of that kernel


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("ima_policy=tcb", True),
        ("quiet ima_policy=secure_boot|tcb|fail_securely", True),
        ('ima_policy="tcb"', True),
        ("ima_policy=critical_data ima_policy=tcb", True),
        ("ima_policy=critical_data", False),
        ("ima_policy=tcbx", False),
        ("xima_policy=tcb", False),
        ("ima_tcb", False),
        ("quiet -- ima_policy=tcb", False),
        ('init="/bin/sh ima_policy=tcb"', False),
        ("ima_policy=", False),
    ],
)
def test_m11_a_policy_that_measures(line, good):
    host = Host(uefi.linux(line))
    appraisal = host.judged(host.allow(command_lines=(line,)))
    assert granted(appraisal) is good
    if not good:
        assert codes(appraisal) == {"ima.policy_unproven"}


def test_m11_every_command_line_asks_for_it():
    fw = uefi.linux()
    fw.add(12, uefi.IPL, b"", b"q\0u\0i\0e\0t\0\0\0")
    host = Host(fw)
    whole = {"4": ("sha256:" + fw.pcrs()[4].hex(),)}
    appraisal = host.judged(host.allow(command_lines=(LINE, "quiet"), pcrs=whole))
    assert codes(appraisal) == {"ima.policy_unproven"}


def test_m11_what_should_be_measured_is():
    """A policy that leaves out the root file system gives a quiet log, and no proof."""
    host = Host()
    asked = host.allow(measured=("/opt/runtime/lib0.so", "/usr/bin/python3"))
    assert codes(host.judged(asked)) == {"ima.policy_unproven"}
    assert "/usr/bin/python3" in observed(host.judged(asked), "boot.measured")
    quiet = Host(files={})
    assert codes(quiet.judged(quiet.allow(measured=()))) == {"ima.policy_unproven"}


AGENT = "/opt/svetovid/svetovid/host/agent.py"
AGREED = policies.HOST_POLICY


def load_policy(host: Host, policy: str) -> None:
    host.measure(IMA_POLICY, policy)


def with_policies(
    host: Host, *loaded: str, measured: tuple[str, ...], **changes: object
) -> ReferenceValues:
    """Values that list the agent and these policies as files, and ask for ``measured``."""
    files = {AGENT: (digest(b"agent"),), **({IMA_POLICY: loaded} if loaded else {})}
    asked = host.allow(measured=measured, **changes)
    return asked.model_copy(update={"files": host.references.files | files})


def test_m12_another_policy_loaded():
    host = Host()
    host.measure(AGENT, digest(b"agent"))
    both = (AGREED, digest(b"second"))
    asked = with_policies(host, *both, measured=(IMA_POLICY, AGENT))
    assert codes(host.judged(asked)) == {"ima.policy_unproven"}
    load_policy(host, AGREED)
    assert granted(host.judged(asked))
    assert codes(host.judged(with_policies(host, *both, measured=()))) == {"ima.policy_changed"}
    load_policy(host, AGREED)
    assert granted(host.judged(asked))
    load_policy(host, digest(b"second"))
    assert codes(host.judged(asked)) == {"ima.policy_changed"}


def test_m12_the_policy_of_a_pending_line():
    host = Host()
    host.measure(AGENT, digest(b"agent"))
    before = host.tpm.pcrs[10]
    load_policy(host, AGREED)
    host.tpm.pcrs[10] = before
    allowed = with_policies(host, AGREED, measured=(AGENT,))
    assert codes(host.judged(allowed)) == {"ima.policy_changed"}
    asked = with_policies(host, AGREED, measured=(IMA_POLICY, AGENT))
    assert codes(host.judged(asked)) == {"ima.policy_unproven"}


def test_m12_a_policy_that_nobody_knows():
    """Listed and asked for, it may still leave out what root reads as code."""
    host = Host()
    host.measure(AGENT, digest(b"agent"))
    load_policy(host, digest(b"home-made"))
    asked = with_policies(host, digest(b"home-made"), measured=(IMA_POLICY, AGENT))
    assert codes(host.judged(asked)) == {"ima.policy_unknown"}


@pytest.mark.parametrize("policy", policies.IMAGE_POLICIES)
def test_m12_the_image_s_policy_is_good_on_the_image_alone(policy: str):
    """It leaves out one file system, which on another layout may be root's own."""
    for more, good in (("", False), (" svetovid.root=1:ab", True), (" -- svetovid.root=x", False)):
        line = LINE + more
        host = Host(uefi.linux(line))
        host.measure(AGENT, digest(b"agent"))
        load_policy(host, policy)
        asked = with_policies(host, policy, measured=(IMA_POLICY, AGENT), command_lines=(line,))
        if good:
            assert granted(host.judged(asked))
        else:
            assert codes(host.judged(asked)) == {"ima.policy_unknown"}


def test_m12_the_agent_itself_is_read_under_the_policy():
    host = Host()
    load_policy(host, AGREED)
    lib = "/opt/runtime/lib0.so"
    assert codes(host.judged(with_policies(host, AGREED, measured=(IMA_POLICY, lib)))) == {
        "boot.agent"
    }
    asked = with_policies(host, AGREED, measured=(IMA_POLICY, AGENT))
    assert codes(host.judged(asked)) == {"ima.policy_unproven"}
    host.measure(AGENT, digest(b"agent"))
    assert granted(host.judged(asked))


@pytest.mark.parametrize(
    ("path", "agent"),
    [
        ("/opt/svetovid/svetovid/host/agent.py", True),
        ("/opt/svetovid/svetovid/host/__pycache__/agent.cpython-311.pyc", True),
        ("/v/lib/svetovid/host/measure/__pycache__/kernel.cpython-313.opt-1.pyc", True),
        ("/v/lib/svetovid/manager/core.py", True),
        ("/opt/svetovid/svetovid/training/local.py", False),
        ("/var/lib/svetovid/host/host.json", False),
        ("/opt/svetovid/host/agent.py.txt", False),
    ],
)
def test_which_file_is_the_agent_s(path: str, agent: bool):
    assert policies.is_agent(path) is agent


def test_m12_known_policies_are_the_files_that_we_ship():
    recipe = CHECKOUT / "images" / "attested-host" / "attested_host" / "guest"
    image, more = ((recipe / f"ima-policy{n}").read_bytes() for n in ("", "-enforce"))
    assert (digest(image), digest(image + more)) == policies.IMAGE_POLICIES
    assert digest((CHECKOUT / "docs/guide/ima-policy").read_bytes()) == policies.HOST_POLICY


def test_m14_kexec():
    """A log that kexec carried over is read; whose kernel goes on with it, no boot log says."""
    host = Host()
    assert granted(host.judged())
    line = boot_aggregate(host.tpm.pcrs)
    host.append(line, extension(line))
    appraisal = host.judged()
    assert codes(appraisal) == {"ima.kexec"}
    assert "kexec" in observed(appraisal, "measurement")
    pending = Host()
    before = pending.tpm.pcrs[10]
    pending.append(line, extension(line))
    pending.tpm.pcrs[10] = before
    assert codes(pending.judged()) == {"ima.kexec"}


def test_m13_boot_aggregate_in_another_bank():
    """What the boot log says of a bank that was not quoted is the host's own word: no kernel."""
    for bank in ("sha384", "sha512", "sha1"):
        fw = uefi.linux(banks=("sha1", "sha256", "sha384", "sha512"))
        host = Host(fw)
        value = boot_aggregate_digest(fw.pcrs(bank), bank)
        first = raw_entry(b"boot_aggregate", value, algorithm=bank.encode() + b":\0")
        host.tpm.pcrs[10] = bytes(32)
        host.lines, rest = [first], host.lines[1:]
        for line in (first, *rest):
            host.tpm.extend(10, extension(line))
        host.lines += rest
        assert codes(host.judged()) == {"ima.boot_aggregate"}
        assert host.judged(host.references).affirmed
        with pytest.raises(Exception, match="boot_aggregate"):
            host.verify(host.evidence())


def test_m16_buffers():
    host = Host()
    data = b"console=ttyS0"
    good = fields(b"sha256:\0" + bytes.fromhex(digest(data)[7:]), b"kexec-cmdline\0", data)
    line = raw_entry(template=b"ima-buf", body=good)
    host.append(line, extension(line))
    assert codes(host.judged(), "kernel") == {"ima.buf"}
    listed = host.allow().model_copy(update={"buffers": {"kexec-cmdline": (digest(data),)}})
    assert granted(host.judged(listed))
    other = host.allow().model_copy(update={"buffers": {"kexec-cmdline": (digest(b""),)}})
    assert codes(host.judged(other), "kernel") == {"ima.buf"}
    # a file of that name and digest, or the buffer under `files`, is another thing
    as_file = host.allow().model_copy(
        update={"files": host.references.files | {"kexec-cmdline": (digest(data),)}}
    )
    assert codes(host.judged(as_file), "kernel") == {"ima.buf"}


def test_m4_a_violation_under_a_known_kernel():
    host = Host()
    line = raw_entry(b"/opt/runtime/lib0.so", bytes(32), sha1=bytes(20))
    host.append(line, b"\xff" * 32)
    assert codes(host.judged(), "kernel") == {"ima.violation"}


def test_m21_a_file_in_memory_only():
    host = Host()
    host.measure("/memfd:payload (deleted)", digest(b"payload"))
    assert "ima.unlisted" in codes(host.judged(), "kernel")


@pytest.mark.parametrize(
    "boot",
    [
        {"events": {"10": {"x": (digest(b""),)}}},
        {"events": {"15": {"x": (digest(b""),)}}},
        {"pcrs": {"01": (digest(b""),)}},
        {"pcrs": {"1": ("sha1:" + "0" * 40,)}},
        {"command_lines": ("ž",)},
        {"command_lines": ("a\nb",)},
        {"command_lines": ("",)},
        {"kernels": {"x": ("00",)}},
        {"unknown": 1},
    ],
)
def test_reference_values_are_read_strictly(boot):
    with pytest.raises(ParseError) as e:
        BootReferences.from_json(boot)
    assert e.value.code == "document.invalid"


def test_an_inserted_no_action_changes_nothing():
    host = Host()
    fake = Event(9, uefi.NO_ACTION, uefi.tagged(0x8F3B22ED, b"evil"), b"")
    host.fw.events.append(fake)
    assert granted(host.judged())
