"""The runtime: an immutable tree that is the root file system of every sandbox."""

from svetovid.host.runtime.build import MOUNT_POINTS, build_runtime
from svetovid.host.runtime.sources import BOOTSTRAP, DEFAULT_DISTRIBUTIONS, SITE, interpreter
from svetovid.host.runtime.values import environment_digest, reference_values, runtime_files

__all__ = [
    "BOOTSTRAP",
    "DEFAULT_DISTRIBUTIONS",
    "MOUNT_POINTS",
    "SITE",
    "build_runtime",
    "environment_digest",
    "interpreter",
    "reference_values",
    "runtime_files",
]
