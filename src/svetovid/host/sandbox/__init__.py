"""The sandbox: where a job's code runs, with nothing to leak through. docs/adr/0011-sandbox.md."""

from svetovid.host.sandbox.process import Confinement, Sandbox, find_bubblewrap
from svetovid.host.sandbox.seccomp import seccomp_filter

__all__ = ["Confinement", "Sandbox", "find_bubblewrap", "seccomp_filter"]
