"""Where the job begins: code at its worst, and then what was agreed (``train.py``).

The kernel reports each process that it kills for want of memory, by the name which that process
gave itself: 15 bytes at a time, here of alice's first record, for whoever reads the kernel's words.
"""

import ctypes
import mmap
import os
import runpy

from svetovid.training._session import current

_PR_SET_NAME = 15
_MORE_THAN_THE_JOB_MAY = 1200 << 20

content = current().content("a")
content.wait(len(content.buffer))
name = bytes(content.buffer[:7]).hex()

child = os.fork()
if child == 0:
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    # Filled by the kernel at once: touching page by page takes an emulated machine seconds.
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, _MORE_THAN_THE_JOB_MAY, flags=flags)
    os._exit(0)
if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
    raise MemoryError("the kernel had memory left, and said nothing")

runpy.run_module("train", run_name="__main__")
