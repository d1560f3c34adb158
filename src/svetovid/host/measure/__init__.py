"""The measurement log of this host: the kernel's where it keeps one, else the launcher's."""

from svetovid.host.measure.files import Found, Root, agent_root, digests, find
from svetovid.host.measure.kernel import BOOT_LOG, IMA_LOG, KernelLog, boot_log
from svetovid.host.measure.launcher import Launcher, Progress
from svetovid.host.measure.loaded import loaded_files

__all__ = [
    "BOOT_LOG",
    "IMA_LOG",
    "Found",
    "KernelLog",
    "Launcher",
    "Progress",
    "Root",
    "agent_root",
    "boot_log",
    "digests",
    "find",
    "loaded_files",
]
