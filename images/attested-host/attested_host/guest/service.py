"""Process 1 of an attested host: mounts, the network, and the agent. There is nothing else.

Whatever stands on the data disk is the operator's word and decides nothing about trust: which
managers to enrol with, which jobs to run, where the runtime is. A lie there is measured, or refused
by a manager. What goes to the console is what the operator may see of a job (T9); the kernel itself
writes nothing there, since foreign code could choose its words.

    /var/lib/svetovid/     the data disk
      network.json         {"interface", "address", "prefix", "gateway"}; without it, no network
      service.json         {"power_off": true} to stop once all jobs were run
      host/                the agent's home
      passphrase           of that home
      statement.json       what the operator signed
      managers/*.json      pins of the managers to enrol with and to run jobs for
      jobs/*.job.json      signed jobs, run in the order of their names
      storage/             sealed assets
      out/                 sealed outputs, receipts, NAME.result.json; boot.log, the firmware's log
"""

import ctypes
import errno
import fcntl
import ipaddress
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

AGENT_GROUP = 1879048000
DATA = Path("/var/lib/svetovid")
SITE = "/opt/svetovid"
_BOOT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
_DATA_LABEL = "PARTNAME=svetovid-data"
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_MOUNTS = (
    ("tmpfs", "/run", "tmpfs", "mode=0755,size=64m"),
    ("tmpfs", "/tmp", "tmpfs", "mode=1777,size=64m"),  # noqa: S108
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
)
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFFLAGS, _SIOCADDRT = 0x8916, 0x891C, 0x8914, 0x890B
_UP, _ROUTE_UP_GATEWAY = 0x1, 0x3
_POWER_OFF = 0x4321FEDC
_WAIT_S = 10
_STANDARD_ERROR = 2


def say(text: str) -> None:
    sys.stdout.write(f"attested-host: {text}\n")
    sys.stdout.flush()


# -- the machine ------------------------------------------------------------------------------


def _mount(source: str, target: str, kind: str, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _NOSUID | _NODEV | _NOEXEC
    fields = (source.encode(), target.encode(), kind.encode(), flags, options.encode())
    if libc.mount(*fields) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _data_device() -> str | None:
    for second in range(_WAIT_S):
        for uevent in Path("/sys/class/block").glob("*/uevent"):
            if _DATA_LABEL in uevent.read_text().splitlines():
                return f"/dev/{uevent.parent.name}"
        time.sleep(second / 10)
    return None


def _control_groups() -> None:
    root = Path("/sys/fs/cgroup")
    (root / "cgroup.subtree_control").write_text("+memory +pids")


def _address(text: str) -> bytes:
    return struct.pack("<HH4s8x", socket.AF_INET, 0, ipaddress.IPv4Address(text).packed)


def _network(wanted: dict[str, str]) -> None:
    name = wanted["interface"].encode()
    mask = ipaddress.IPv4Network(f"0.0.0.0/{int(wanted['prefix'])}").netmask
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:

        def set_interface(call: int, value: bytes, interface: bytes) -> None:
            fcntl.ioctl(s, call, struct.pack("16s24s", interface, value))

        set_interface(_SIOCSIFFLAGS, struct.pack("<H", _UP), b"lo")
        set_interface(_SIOCSIFADDR, _address(wanted["address"]), name)
        set_interface(_SIOCSIFNETMASK, _address(str(mask)), name)
        set_interface(_SIOCSIFFLAGS, struct.pack("<H", _UP), name)
        if gateway := wanted.get("gateway"):
            anywhere = _address("0.0.0.0")  # noqa: S104 - a route, no socket
            # struct rtentry of x86_64: pad, destination, gateway, mask, flags
            entry = struct.pack(
                "<Q16s16s16sH62x", 0, anywhere, _address(gateway), anywhere, _ROUTE_UP_GATEWAY
            )
            fcntl.ioctl(s, _SIOCADDRT, entry)


def _read_json(name: str) -> dict[str, str] | None:
    path = DATA / name
    value = json.loads(path.read_bytes()) if path.is_file() else None
    return value if isinstance(value, dict) else None


def prepare() -> None:
    """Mounts, control groups, network."""
    for mount in _MOUNTS:
        _mount(*mount)
    Path("/run/lock").mkdir()
    _control_groups()
    device = _data_device()
    if device is None:
        raise OSError("no partition svetovid-data")
    _mount(device, str(DATA), "ext4", "")
    (DATA / "out").mkdir(exist_ok=True)
    if _BOOT_LOG.exists():
        (DATA / "out" / "boot.log").write_bytes(_BOOT_LOG.read_bytes())
    if (network := _read_json("network.json")) is not None:
        _network(network)


# -- the agent --------------------------------------------------------------------------------


def _enrol_and_run() -> None:
    home = DATA / "host"
    if not home.is_dir():
        say("the data disk holds no host")
        return
    sys.path.append(SITE)
    from svetovid.crypto import Envelope, Secret
    from svetovid.errors import SvetovidError
    from svetovid.host import enrol_host, find_storage, run_host
    from svetovid.policy.documents import Job
    from svetovid.protocol import ManagerPin

    say(f"agent ready after {time.clock_gettime(time.CLOCK_BOOTTIME):.1f} s")
    secret = Secret((DATA / "passphrase").read_bytes().rstrip(b"\r\n"))
    pins = [ManagerPin.parse(p.read_bytes()) for p in sorted((DATA / "managers").glob("*.json"))]
    try:
        statement = Envelope.parse((DATA / "statement.json").read_bytes())
        for record in enrol_host(home, pins, statement, secret):
            say(f"enrolled {record.host_id}")
    except SvetovidError as e:
        say(f"enrolment refused: {e.code}")
        return
    for path in sorted((DATA / "jobs").glob("*.job.json")):
        name = path.name.removesuffix(".job.json")
        try:
            signed = Envelope.parse(path.read_bytes())
            job = signed.open(Job, by=signed.peek(Job).proposer)
            outcome = run_host(
                home, job, pins, secret,
                storage=find_storage(job, [str(DATA / "storage")]),
                outputs=(DATA / "out").as_uri() + "/",
                on_event=lambda event: say(f"{event.seconds:8.1f} s  {event.stage}"),
            )  # fmt: skip
            result: dict[str, object] = {"ok": True, "timings": outcome.timings}
            say(f"job {name}: ok")
        except SvetovidError as e:
            result = {"ok": False, "reasons": [r.to_dict() for r in e.reasons]}
            say(f"job {name}: refused: {', '.join(sorted({r.code for r in e.reasons}))}")
        (DATA / "out" / f"{name}.result.json").write_text(json.dumps(result))


def agent() -> int:
    try:
        _enrol_and_run()
    except Exception as e:  # noqa: BLE001 - process 1 says what it was, and goes on
        say(f"the agent failed: {type(e).__name__} {_number(e)}".rstrip())
        return 1
    return 0


def _number(e: Exception) -> str:
    """An error's code or number. Its text may hold words of a job's, and is for nobody (T9)."""
    return str(getattr(e, "code", "") or errno.errorcode.get(getattr(e, "errno", 0) or 0, ""))


def _reap(child: int) -> None:
    """Wait for ``child``; take in whatever else ends as an orphan meanwhile."""
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            return
        if pid == child:
            return


def _power_off() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.umount2(str(DATA).encode(), 0)
    os.sync()
    libc.reboot(ctypes.c_int(_POWER_OFF))


def _in_child(act: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        # A library's warning, a thread's last words: what else is written there is no fixed text.
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STANDARD_ERROR)
        os._exit(act())
    return pid


def main() -> None:
    os.setgid(AGENT_GROUP)  # files that it makes in memory are known by it: see the IMA policy
    os.umask(0o077)
    os.environ.clear()
    os.environ.update({"HOME": "/run", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin"})
    power_off = True
    try:
        prepare()
        power_off = bool((_read_json("service.json") or {}).get("power_off"))
        _reap(_in_child(agent))
    except OSError as e:
        say(f"cannot start: {e}")
    if power_off:
        say("power off")
        _power_off()
    signal.pause()


if __name__ == "__main__":
    main()
