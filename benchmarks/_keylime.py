"""Keylime's reader of measurement logs, in an interpreter of its own, for comparison.

``SVETOVID_KEYLIME`` names a Python that has the package ``keylime``; it never comes into ours.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping

from svetovid.errors import HostError
from svetovid.evidence.ima import parse_log

__all__ = ["reader"]

_SCRIPT = """
import copy, json, sys, types
sys.modules["gpg"] = types.ModuleType("gpg")  # it signs policies, which nobody does here
from keylime.agentstates import AgentAttestState
from keylime.common.algorithms import Hash
from keylime.ima import ima
given = json.load(open(sys.argv[1]))
policy = copy.deepcopy(ima.EMPTY_RUNTIME_POLICY) | {"digests": given["digests"]}
print("ready", flush=True)
for _ in sys.stdin:
    state = AgentAttestState("agent")
    value, failure = ima.process_measurement_list(
        state, given["lines"], policy, pcrval=given["pcr"], hash_alg=Hash.SHA256
    )
    print("bad" if failure else "good", flush=True)
"""


def _ascii(log: bytes) -> list[str]:
    """The same entries as the kernel's ``ascii_runtime_measurements`` has them."""
    lines, at = [], 0
    for entry in parse_log(log):
        sha1 = log[at + 4 : at + 24].hex()
        lines.append(f"10 {sha1} ima-ng {entry.named_digest} {entry.path}")
        at += 4 + 20 + 4 + 6 + 4 + 4 + 8 + 32 + 4 + len(entry.path.encode()) + 1
    return lines


def reader(log: bytes, pcr: bytes, files: Mapping[str, str]) -> Callable[[], bool] | None:
    """A call that has Keylime read ``log`` against ``files`` once and gives its verdict; None where
    there is no Keylime.

    Args:
        log: ``binary_runtime_measurements`` in ``ima-ng``.
        pcr: SHA-256 value of PCR 10 after it.
        files: path to digest, ``sha256:`` and hex.

    Raises:
        HostError: ``bench.keylime``.
    """
    python = os.environ.get("SVETOVID_KEYLIME")
    if not python:
        return None
    lines = _ascii(log)
    aggregate = lines[0].split()[3]
    digests = {path: [value.partition(":")[2]] for path, value in files.items()}
    digests["boot_aggregate"] = [aggregate.partition(":")[2]]
    given = {"lines": lines, "pcr": pcr.hex(), "digests": digests}
    read, write = os.pipe()
    process = subprocess.Popen(
        [python, "-c", _SCRIPT, f"/dev/fd/{read}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        pass_fds=(read,),
    )
    os.close(read)
    atexit.register(process.kill)
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "w") as f:
        json.dump(given, f)
    if process.stdout.readline().strip() != "ready":
        process.kill()
        process.communicate()
        raise HostError(
            "bench.keylime",
            expected="a Python in SVETOVID_KEYLIME that can import keylime.ima",
            observed=python,
            next_step="make an environment of its own for Keylime: pip install keylime jsonschema "
            "packaging",
        )
    ask, answer = process.stdin, process.stdout

    def once() -> bool:
        ask.write("\n")
        ask.flush()
        return answer.readline().strip() == "good"

    return once
