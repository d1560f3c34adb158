"""One owner's view of a proven boot: whether the measurement log is a known kernel's (T4).

``kernel`` takes all of:

1. a boot log that the quote proves (:mod:`.replay`), without an event or value that the owner's
   reference values do not name (:mod:`.explain`);
2. of one edition of them, a kernel and a command line that were measured, and no other edition's
   with them. The command line counts where Linux's own stub measured it, in PCR 9. The word of a
   boot loader for it (PCR 8, 11, 12) counts only where the owner lists PCR 4 whole: started
   without that loader, the same kernel would leave those PCRs for whoever comes later to fill;
3. a ``boot_aggregate`` over PCR 0 to 9, which the kernel took before any program could extend them;
4. on every command line measured, ``ima_policy=`` with ``tcb``: nothing weaker measures what root
   reads, or the loading of another policy;
5. a measurement log that shows this at work: it names files, those that the edition asks for, and
   :data:`~svetovid.evidence.ima.listing.IMA_POLICY` only if asked for, with one digest, which is
   known as one that measures what root reads on such a host (:mod:`.policies`);
6. where a policy was loaded, a file of the agent among those asked for: what asks the TPM for
   quotes was itself read under that policy;
7. no kexec: the boot log says nothing of the kernel that it started.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svetovid.errors import Reason
from svetovid.evidence.boot.explain import (
    KERNEL_PCRS,
    LINE_PCRS,
    kernels,
    line_digests,
    pcr_claims,
)
from svetovid.evidence.boot.policies import is_agent, known
from svetovid.evidence.boot.replay import Boot
from svetovid.evidence.claims import Claim
from svetovid.evidence.ima.listing import IMA_POLICY, compare
from svetovid.evidence.ima.state import LogState
from svetovid.evidence.references import BootReferences, Current

__all__ = ["judge"]

_STUB_PCRS = frozenset({11, 12, 13})
_SHOWN = 400
_REASONS = (
    Reason(code="boot.kernel", next_step="boot a kernel of the reference values"),
    Reason(
        code="boot.cmdline",
        next_step="boot with a command line of the reference values and a kernel that measures it "
        "into PCR 9, or list PCR 4 whole",
    ),
    Reason(code="boot.edition", next_step="boot kernel and command line of the same edition"),
    Reason(code="pcr.missing", next_step="quote PCR 11 to 13 as well"),
    Reason(
        code="ima.policy_unproven",
        next_step="boot with ima_policy=tcb and an IMA policy of the reference values",
    ),
    Reason(
        code="ima.policy_changed",
        next_step="restart the host, and load no IMA policy but the one agreed",
    ),
    Reason(
        code="ima.policy_unknown",
        next_step="load docs/guide/ima-policy, unchanged; the image's is for the image alone",
    ),
    Reason(
        code="boot.agent",
        next_step="have the reference values ask for a file of the agent in boot.measured",
    ),
)
_STEPS = {r.code: r.next_step for r in _REASONS}


class _Story:
    """What was measured, as far as the editions name it."""

    def __init__(self, boot: Boot, editions: Sequence[BootReferences]) -> None:
        self._boot = boot
        measured = {pcr: {v for _, v in boot.events.get(pcr, ())} for pcr in LINE_PCRS}
        images = {v for pcr in KERNEL_PCRS for _, v in boot.events.get(pcr, ())}
        self.kernels = {v for e in editions for v in kernels(e) & images}
        self.lines: dict[str, set[int]] = {}
        for line in (line for e in editions for line in e.command_lines):
            pcrs = {p for p in LINE_PCRS if line_digests(line, p, boot.bank) & measured[p]}
            if pcrs:
                self.lines[line] = pcrs
        self._whole = any(boot.value(4) in e.pcrs.get("4", ()) for e in editions)
        self.editions = [
            e
            for e in editions
            if self.kernels <= kernels(e) and self.lines.keys() <= set(e.command_lines)
        ]

    def code(self) -> str:
        """Why kernel and command line are not good; empty where they are."""
        if not self.kernels:
            return "boot.kernel"
        if not self.lines or not (self._whole or all(9 in p for p in self.lines.values())):
            return "boot.cmdline"
        if not self.editions:
            return "boot.edition"
        by_stub = any(p <= _STUB_PCRS for p in self.lines.values())
        return "pcr.missing" if by_stub and not self._boot.quoted >= _STUB_PCRS else ""


def _started(story: _Story, source: str) -> Claim:
    code = story.code()
    lines = "; ".join(f"{line} (PCR {sorted(p)})" for line, p in sorted(story.lines.items()))
    shown = f"kernels {sorted(story.kernels)}, command lines {lines or 'none that is listed'}"
    return Claim(
        name="boot.kernel",
        ok=not code,
        value=" | ".join(sorted(story.lines))[:_SHOWN],
        observed=shown[:_SHOWN],
        expected="a kernel and a command line of one edition, the line measured by the kernel "
        "itself or behind a PCR 4 that is listed whole",
        source=source,
        code=code,
        next_step=_STEPS.get(code, ""),
    )


def _words(line: str) -> Iterator[str]:
    """The kernel's own parameters: split at spaces outside double quotes, up to ``--``."""
    word, quoted = "", False
    for c in line + " ":
        quoted ^= c == '"'
        if c != " " or quoted:
            word += c
            continue
        if word == "--":
            return
        yield word.replace('"', "")
        word = ""


def _measures(line: str) -> bool:
    """Whether a command line asks for the ``tcb`` policy, alone or with others (``tcb|...``)."""
    return any(
        "tcb" in word.partition("=")[2].split("|")
        for word in _words(line)
        if word.startswith("ima_policy=")
    )


def _policy_code(story: _Story, asked: frozenset[str], loaded: set[str], files: int) -> str:
    """Why the IMA policy is not proven for one edition; empty where it is.

    What PCR 10 does not cover yet is a host's own text: it speaks against it, never for it.
    """
    if not story.lines or not all(_measures(line) for line in story.lines) or not files:
        return "ima.policy_unproven"
    if len(loaded) > 1 or (loaded and IMA_POLICY not in asked):
        return "ima.policy_changed"
    lines = [list(_words(line)) for line in story.lines]
    return "" if all(known(policy, lines) for policy in loaded) else "ima.policy_unknown"


def _measured_code(asked: frozenset[str], proven: set[str], policy: bool) -> str:
    """Why the log does not show the policy at work for one edition; empty where it does.

    Args:
        policy: whether a good one was loaded.
    """
    if not asked <= proven:
        return "ima.policy_unproven"
    return "boot.agent" if policy and not any(is_agent(path) for path in asked) else ""


def _policy(story: _Story, log: LogState, current: Current, source: str) -> Iterator[Claim]:
    proven = log.listing.compare(log.entries, current).seen
    seen = proven | compare(log.pending, current, begins=False).seen
    files = log.count - 1 - log.kexecs
    loaded = {digest for path, digest in seen if path == IMA_POLICY}
    paths = {path for path, _ in proven}
    editions = [frozenset(e.measured) for e in story.editions] or [frozenset[str]()]
    found = []
    for asked in editions:
        code = _policy_code(story, asked, loaded, files)
        found.append((code, _measured_code(asked, paths, bool(loaded) and not code), asked))
    code, not_measured, asked = min(found, key=lambda f: (bool(f[0]) + bool(f[1]), bool(f[0])))
    yield Claim(
        name="boot.ima_policy",
        ok=not code,
        value="" if code else "tcb",
        observed=f"{files} measured, policies loaded: {sorted(loaded) or 'none'}"[:_SHOWN],
        expected="ima_policy=tcb on the command line, files in the measurement log, and no policy "
        "loaded but one asked for, known to measure what root reads on such a host",
        source=source,
        code=code,
        next_step=_STEPS.get(code, ""),
    )
    missing = sorted(asked - paths)
    yield Claim(
        name="boot.measured",
        ok=not not_measured,
        value=len(asked & paths),
        observed=f"of {len(asked)} paths asked for, not in the log: {missing or 'none'}"[:_SHOWN],
        expected="every path asked for in the measurement log, a file of the agent among them "
        "where a policy is loaded",
        source=source,
        code=not_measured,
        next_step=_STEPS.get(not_measured, ""),
    )


def _aggregate(log: LogState, bank: str) -> Claim:
    """In the quoted bank: what the boot log says of another one is the host's own word."""
    named = log.entries[0].named_digest
    ok = named.startswith(f"{bank}:")
    return Claim(
        name="boot.aggregate",
        ok=ok,
        value=named,
        observed=named,
        expected=f"{bank} of PCR 0 to 9, the quoted bank, as the kernel found them",
        source="measurement log",
        code="" if ok else "ima.boot_aggregate",
        next_step="" if ok else f"boot with ima_hash={bank}",
    )


def _unproven(why: Reason | None, source: str) -> Claim:
    why = why or Reason(
        code="boot.missing",
        expected="a TCG event log",
        observed="none",
        next_step="boot through UEFI firmware with a TPM, and mount securityfs",
    )
    return Claim(
        name="boot.log",
        ok=False,
        value="",
        observed=why.observed,
        expected=why.expected,
        source=source,
        code=why.code,
        next_step=why.next_step,
    )


def judge(boot: Boot | Reason | None, log: LogState, current: Current) -> tuple[Claim, ...]:
    """Claims about the boot; none where no reference values speak of it.

    Args:
        boot: proven, or why it could not be, or None where no boot log was sent.
        log: the proven measurement log of the same quote.
        current: one owner's sets of reference values.

    All of them good, and ``log.kexecs`` zero, is what ``measurement: kernel`` means.
    """
    speaking = [(r.boot, f"{r.product} v{r.version}") for r in current.sets if r.boot]
    editions = [edition for edition, _ in speaking]
    source = "reference values " + ", ".join(name for _, name in speaking)
    if not editions:
        return ()
    if not isinstance(boot, Boot):
        return (_unproven(boot, source),)
    story = _Story(boot, editions)
    secure = boot.secure_boot
    return (
        Claim("boot.log", True, len(boot.quoted), "explains the quoted PCRs", source="quote"),
        *pcr_claims(boot, editions, source),
        _started(story, source),
        _aggregate(log, boot.bank),
        *_policy(story, log, current, source),
        Claim(
            name="boot.secure_boot",
            ok=True,
            value=secure.enabled,
            observed="; ".join([secure.why, *secure.authorities])[:_SHOWN],
            source="PCR 7",
        ),
    )
