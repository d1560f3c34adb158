"""First code inside a sandbox; ours, measured with the runtime. Runs the job's script.

``python -I -S -B /opt/svetovid/bootstrap.py FD``: FD holds the configuration. Of a script that
fails, one word of a fixed list goes out (T9): neither message nor traceback, which could carry
data. Standard streams lead nowhere.
"""

import json
import os
import runpy
import sys

SITE, CODE = "/opt/site", "/code"


def _descriptors(config: "dict[str, object]") -> "set[int]":
    found = {config["channel"]}
    slots: dict[str, dict[str, int]] = config["slots"]  # type: ignore[assignment]
    for slot in slots.values():
        found |= {slot["data"], slot["mark"]}
    resume: dict[str, int] | None = config["resume"]  # type: ignore[assignment]
    if resume is not None:
        found.add(resume["data"])
    masked: dict[str, int] | None = config["masked"]  # type: ignore[assignment]
    if masked is not None:
        found.add(masked["memory"])
    return found  # type: ignore[return-value]


def _close_others(keep: "set[int]") -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        fd = int(name)
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                continue  # the one that listdir itself had open


def main() -> None:
    with os.fdopen(int(sys.argv[1]), "rb") as f:
        config = json.load(f)
    _close_others(_descriptors(config))
    for fd in _descriptors(config):
        os.set_inheritable(fd, False)
    script = f"{CODE}/{config['entry']}"
    sys.path.append(SITE)
    sys.argv = [script, *config["arguments"]]

    from svetovid.training._session import SandboxSession, install
    from svetovid.training._wire import Wire, kind_of

    wire = Wire(config["channel"])
    install(SandboxSession(config, wire))
    wire.send("ready")
    # Only now: a bundle with a module of our name must not run before the host stops listening to
    # what the sandbox prints.
    sys.path[:0] = list(dict.fromkeys([os.path.dirname(script), CODE]))  # noqa: PTH120
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as e:
        if e.code not in (None, 0):
            wire.send("failed", kind=kind_of(e))
            return
    except BaseException as e:  # noqa: BLE001 - one word goes out, whatever it is
        wire.send("failed", kind=kind_of(e))
        return
    wire.send("done")


if __name__ == "__main__":
    main()
    # Threads or atexit handlers of the script have no say in when the job ends.
    os._exit(0)
