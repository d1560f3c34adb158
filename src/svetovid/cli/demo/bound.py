"""A module of ours run as ``python -m`` would, in a process that does not outlive the play.

``python -m svetovid.cli.demo.bound PARENT MODULE ARGUMENT...``: the kernel kills it as soon as the
thread that started it is gone. So even ``kill -9`` of the demo leaves no manager with opened keys.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, module = int(sys.argv[1]), sys.argv[2]
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        sys.exit("the kernel does not bind this process to the demo")
    if os.getppid() != parent:  # gone before it could be asked for
        os.kill(os.getpid(), signal.SIGKILL)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
