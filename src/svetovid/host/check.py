"""What this machine can and cannot do as a host, tried and not guessed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from svetovid.errors import Reason, SvetovidError
from svetovid.host.accelerators import Accelerators
from svetovid.host.alone import lone_job
from svetovid.host.feed import Feed
from svetovid.host.home import HostHome
from svetovid.host.life import host_status
from svetovid.host.measure import IMA_LOG
from svetovid.host.runtime import interpreter
from svetovid.host.sandbox import Confinement, Sandbox

__all__ = ["Finding", "check_host"]

OWN_UID = "each job has a uid of its own"
_START_S = 30.0
_KERNEL = Path("/proc/sys/kernel")
_NOT_LOOKED_AT = "not looked at: this host is simulated"
_MOUNTS = Path("/proc/self/mountinfo")
_HIDDEN = frozenset({"hidepid=invisible", "hidepid=ptraceable", "hidepid=2", "hidepid=4"})
_CONFINEMENT = Confinement(memory_mib=256, processes=16)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        what: for example ``sandbox``.
        observed: how it is here.
        reason: why no job can run that needs it; None where all is well.
    """

    what: str
    observed: str
    reason: Reason | None = None


def check_host(
    home: Path, devices: Sequence[str] = (), *, accelerators: Accelerators | None = None
) -> list[Finding]:
    """Try all that a job would need: home, TPM, sandbox, memory, and the devices that are named.

    No manager is asked, no key is needed, and no data is touched; ``devices`` are lent and cleared
    as they would be for a job (T8).

    Args:
        home: the host.
        devices: accelerator device nodes, as a job would list them.
    """
    machine = accelerators or Accelerators()
    tried: list[tuple[str, Callable[[], str]]] = [
        ("home", lambda: _home(home)),
        ("job", lambda: _free(home)),
        ("evidence", lambda: _evidence(home)),
        ("sandbox", lambda: _sandbox(home)),
        ("processes", lambda: _processes(home)),
        ("kernel", lambda: _kernel(home)),
        ("memory", _memory),
        ("devices", lambda: _devices(machine, devices)),
    ]
    return [_tried(what, act) for what, act in tried]


def _tried(what: str, act: Callable[[], str]) -> Finding:
    try:
        return Finding(what, act())
    except SvetovidError as e:
        return Finding(what, e.reason.observed, e.reason)


def _home(home: Path) -> str:
    status = host_status(home)
    count = len(status.managers)
    return f"{status.name}, " + ("not enrolled" if not count else f"enrolled with {count} managers")


def _free(home: Path) -> str:
    with lone_job(home):
        return "none runs"


def _evidence(home: Path) -> str:
    at = HostHome(home)
    config = at.config()
    if config.kind == "simulated-tee":
        return "a SIMULATED TEE, which protects nothing"
    with at.open_tpm() as tpm:
        tpm.ek()
    if not config.tpm.startswith("device:"):
        return "a SOFTWARE TPM, which protects nothing; files measured by the launcher"
    measured = "the kernel's IMA" if IMA_LOG.exists() else "the launcher"
    return f"a TPM at {config.tpm}; files measured by {measured}"


def _sandbox(home: Path) -> str:
    """Start one with the runtime's own interpreter, which ends at once."""
    command = [str(interpreter()), "-I", "-S", "-c", "pass"]
    with Sandbox(HostHome(home).runtime, {}, command, [], _CONFINEMENT) as sandbox:
        if sandbox.wait(_START_S) != 0:
            raise sandbox.why_not_started()
        bounds = " and ".join(sandbox.bounds)
    whole = f"{bounds} bounded for the job as a whole" if bounds else "bounds hold for each process"
    return f"starts; {_who()}; {whole}"


def _who() -> str:
    """What keeps the files of agent and jobs from a sandbox, besides its mounts."""
    uid = os.geteuid()
    return f"it has uid {uid}, as the agent: only root could give it another" if uid else OWN_UID


def _processes(home: Path) -> str:
    """What other users of this machine see of a job's processes. Words, no refusal: on a host that
    nobody else uses there is nobody to see it."""
    if _is_simulated(home):
        return _NOT_LOOKED_AT
    hidden = "hidden from other users"
    shown = (
        "WARNING: any user of this machine reads the command lines and names of a job's processes,"
        " where its code can write data: mount /proc with hidepid=invisible"
    )
    traced = (
        "WARNING: a process may trace any other of its user: set kernel.yama.ptrace_scope to 1 or"
        " more"
    )
    words = [hidden if _proc_is_hidden() else shown]
    restricted = _setting("yama/ptrace_scope", otherwise=0) >= 1
    return "; ".join([*words, "tracing restricted" if restricted else traced])


def _kernel(home: Path) -> str:
    """Who reads the kernel's own lines: they name a process that is killed for want of memory as
    its code called it (T9). Words, no refusal, as for processes."""
    if _is_simulated(home):
        return _NOT_LOOKED_AT
    shown = (
        "WARNING: whoever reads the console reads names of a job's processes, where its code can"
        " write data: set kernel.printk to 0 4 0 0, and loglevel=0 on the command line"
    )
    free = (
        "WARNING: any user of this machine reads the kernel's log: set kernel.dmesg_restrict to 1"
    )
    quiet = _setting("printk", otherwise=1) == 0
    restricted = _setting("dmesg_restrict", otherwise=0) >= 1
    words = ["silent on the console" if quiet else shown]
    return "; ".join([*words, "its log is for root" if restricted else free])


def _is_simulated(home: Path) -> bool:
    config = HostHome(home).config()
    return config.kind != "tpm" or not config.tpm.startswith("device:")


def _setting(name: str, *, otherwise: int) -> int:
    """First number of a setting of the kernel's; ``otherwise`` where it has none of that name."""
    try:
        return int((_KERNEL / name).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return otherwise


def _proc_is_hidden() -> bool:
    """Whether what is mounted last at /proc shows each user only processes of its own (proc(5))."""
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    options = [line.split()[-1] for line in lines if " /proc " in line.partition(" - ")[0]]
    return bool(options) and not _HIDDEN.isdisjoint(options[-1].split(","))


def _memory() -> str:
    with Feed({"check": _Page()}) as feed:
        return "locked against swapping" if feed.locked else "not locked, and no swap is in use"


class _Page:
    """One page of nothing, in an asset's place."""

    size = 4096

    def stream_into(
        self, buffer: memoryview, on_progress: Callable[[int], None] | None = None
    ) -> None:
        buffer[:] = bytes(self.size)


def _devices(machine: Accelerators, devices: Sequence[str]) -> str:
    gpus = machine.find(devices)
    with machine.lent(gpus):
        cleared = machine.clear(gpus)
    words = [f"{c.node}: {c.cleared >> 20} of {c.total >> 20} MiB cleared" for c in cleared]
    return "; ".join(words) or "no accelerator was named"
