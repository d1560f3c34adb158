"""IMA policies of which we know that they measure what root reads, and on which hosts they do.

A policy is a program: whether it leaves out what root reads as code depends on its rules and on
where things lie. So each is known by its digest, which the kernel enters as it loads the file. The
files lie in this repository; a test holds their digests against these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["HOST_POLICY", "IMAGE_POLICIES", "is_agent", "known"]

HOST_POLICY = "sha256:e6036f214700f9ad5ee91fe6296b3cde16e5b7f076536711c8e904a2442f09e1"
"""docs/guide/ima-policy. It leaves out nothing that root reads from any disk: good everywhere."""
IMAGE_POLICIES = (
    "sha256:063a7719d345ef9db2f28f774d2260fd1eb65b7cba3a0df1d367cf9adc92090f",
    "sha256:1332adab5f73fc3e9c724dac701785a788b4daed1a58a143d38d1676bc3fa751",
)
"""The attested host image's, measuring and enforcing. They leave out what the agent reads from one
file system. Which one that is, its own UUID says, and so the operator: good only where the root
file system cannot be that one, because its hash tree's root is on the measured command line."""
_VERITY_ROOT = "svetovid.root="
_AGENT = re.compile(
    r"/svetovid/(host|manager)/(\w+/)*(\w+\.py|__pycache__/\w+\.cpython-\d+(\.opt-\d)?\.pyc)"
)


def known(policy: str, lines: Sequence[Iterable[str]]) -> bool:
    """Whether ``policy`` measures what root reads, on a host with these command lines.

    Args:
        policy: digest of the file that was loaded.
        lines: words of each command line that was measured.
    """
    if policy in IMAGE_POLICIES:
        return all(any(w.startswith(_VERITY_ROOT) for w in words) for words in lines)
    return policy == HOST_POLICY


def is_agent(path: str) -> bool:
    """Whether a path is a file of svetovid's own host or manager, as source or byte code."""
    found = _AGENT.search(path)
    return found is not None and found.end() == len(path)
