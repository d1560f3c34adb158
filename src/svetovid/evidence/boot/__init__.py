"""The TCG boot log: read, replayed, held against an owner's reference values (T4)."""

from svetovid.evidence.boot.judge import judge
from svetovid.evidence.boot.log import (
    MAX_BOOT_EVENTS,
    MAX_BOOT_LOG_BYTES,
    BootEvent,
    BootLog,
    parse_boot_log,
)
from svetovid.evidence.boot.replay import Boot, prove_boot, replay
from svetovid.evidence.boot.variables import SecureBoot

__all__ = [
    "MAX_BOOT_EVENTS",
    "MAX_BOOT_LOG_BYTES",
    "Boot",
    "BootEvent",
    "BootLog",
    "SecureBoot",
    "judge",
    "parse_boot_log",
    "prove_boot",
    "replay",
]
