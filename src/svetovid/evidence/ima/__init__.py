"""The measurement log in IMA's ``ima-ng`` form: read, replayed, carried on, and written."""

from svetovid.evidence.ima.entries import (
    BOOT_AGGREGATE,
    MAX_ENTRIES,
    MAX_LOG_BYTES,
    Entry,
    boot_aggregate,
    boot_aggregate_digest,
    build_entry,
    extension,
    parse_log,
)
from svetovid.evidence.ima.growing import Entries
from svetovid.evidence.ima.state import LogState, advance, replay

__all__ = [
    "BOOT_AGGREGATE",
    "MAX_ENTRIES",
    "MAX_LOG_BYTES",
    "Entries",
    "Entry",
    "LogState",
    "advance",
    "boot_aggregate",
    "boot_aggregate_digest",
    "build_entry",
    "extension",
    "parse_log",
    "replay",
]
