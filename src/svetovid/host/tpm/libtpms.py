"""A software TPM inside this process: libtpms, loaded by ctypes; the embedded default.

It is a whole TPM 2.0, and it protects nothing: whoever runs the host reads its keys. Its state
stands in one file, mode 0600, replaced atomically at every change, and locked while in use. The
PCRs begin anew with every process, as after a reset of a machine.

The library keeps its state in globals, so a process has one TPM at a time.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path
from typing import Any

from pydantic import Field

from svetovid.crypto import Base64, Document, b64decode, b64encode
from svetovid.crypto.private import write_private
from svetovid.errors import HostError, SvetovidError
from svetovid.host.tpm.transports import MAX_RESPONSE, lost, response_length

__all__ = ["LibtpmsTransport"]

_LIBRARY = "libtpms.so.0"
_TPM2 = 1
_OK, _FAIL, _RETRY = 0, 9, 0x800
"""TPM_SUCCESS, TPM_FAIL; TPM_RETRY is how loaddata says that there is nothing yet."""
_MAX_STATE = 4 << 20

_u32 = ctypes.c_uint32
_bytes = ctypes.POINTER(ctypes.c_ubyte)
_Init = ctypes.CFUNCTYPE(_u32)
_Load = ctypes.CFUNCTYPE(_u32, ctypes.POINTER(_bytes), ctypes.POINTER(_u32), _u32, ctypes.c_char_p)
_Store = ctypes.CFUNCTYPE(_u32, _bytes, _u32, _u32, ctypes.c_char_p)
_Delete = ctypes.CFUNCTYPE(_u32, _u32, ctypes.c_char_p, ctypes.c_ubyte)
_Number = ctypes.CFUNCTYPE(_u32, ctypes.POINTER(_u32), _u32)
_Flag = ctypes.CFUNCTYPE(_u32, ctypes.POINTER(ctypes.c_ubyte), _u32)


class _Callbacks(ctypes.Structure):
    """``struct libtpms_callbacks`` of libtpms/tpm_library.h, as of version 0.6."""

    _fields_ = [
        ("sizeOfStruct", ctypes.c_int),
        ("nvram_init", _Init),
        ("nvram_loaddata", _Load),
        ("nvram_storedata", _Store),
        ("nvram_deletename", _Delete),
        ("io_init", _Init),
        ("io_getlocality", _Number),
        ("io_getphysicalpresence", _Flag),
    ]


class _State(Document):
    """What the library asked us to keep: its blobs by name."""

    TYPE = "libtpms-state"
    blobs: dict[str, Base64] = Field(max_length=16)


def _load_library() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as e:
        raise HostError(
            "tpm.absent",
            expected=_LIBRARY,
            observed=str(e),
            next_step="apt-get install libtpms0",
        ) from e
    library.TPMLIB_Process.argtypes = [
        ctypes.POINTER(_bytes),
        ctypes.POINTER(_u32),
        ctypes.POINTER(_u32),
        ctypes.c_char_p,
        _u32,
    ]
    library.TPM_Malloc.argtypes = [ctypes.POINTER(_bytes), _u32]
    library.TPM_Free.argtypes = [_bytes]
    library.TPM_Free.restype = None
    library.TPMLIB_Terminate.restype = None
    for name in ("TPMLIB_Process", "TPM_Malloc", "TPMLIB_MainInit", "TPMLIB_RegisterCallbacks"):
        getattr(library, name).restype = _u32
    return library


class LibtpmsTransport:
    """libtpms in process, its state kept in ``path``.

    Raises:
        HostError: ``tpm.absent`` (no library), ``tpm.one_per_process`` (one is open already),
            ``tpm.busy`` (another process has the state file), ``tpm.state`` (the file is
            readable by others, is not ours, or cannot be written).
    """

    owns_power = True
    _open_one: LibtpmsTransport | None = None

    def __init__(self, path: Path) -> None:
        if LibtpmsTransport._open_one is not None:
            raise HostError(
                "tpm.one_per_process",
                expected="one libtpms in a process",
                observed="a second",
                next_step="close the first, or use a process for each",
            )
        self._path = path
        self._blobs: dict[str, bytes] = {}
        self._failure: OSError | None = None
        self._library = _load_library()
        self._lock = self._take_lock()
        try:
            self._read_state()
            self._start()
        except BaseException:
            os.close(self._lock)
            raise
        self._response = _bytes()
        self._size, self._capacity = _u32(0), _u32(0)
        LibtpmsTransport._open_one = self

    # -- state on disk ------------------------------------------------------------------------

    def _broken(self, observed: object) -> HostError:
        return HostError(
            "tpm.state",
            expected=f"a private, writable state file at {self._path}",
            observed=observed,
            next_step="restore the file from a backup, or name a new one: a new software TPM"
            " must be enrolled again",
        )

    def _take_lock(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = self._path.with_name(self._path.name + ".lock")
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            raise self._broken(e.strerror) from e
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(lock)
            raise HostError(
                "tpm.busy",
                expected=f"{self._path} for ourselves",
                observed="another process uses it",
                next_step="stop the other process, or name another state file",
            ) from e
        return lock

    def _read_state(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        except OSError as e:
            raise self._broken(e.strerror) from e
        with os.fdopen(fd, "rb") as f:
            if os.fstat(fd).st_mode & 0o077:
                raise self._broken("others may read it")
            data = f.read(_MAX_STATE + 1)
        try:
            state = _State.parse(data)
        except SvetovidError as e:
            raise self._broken(e.code) from e
        self._blobs = {name: b64decode(text) for name, text in state.blobs.items()}

    def _write_state(self) -> int:
        blobs = {name: b64encode(data) for name, data in sorted(self._blobs.items())}
        try:
            write_private(self._path, _State(blobs=blobs).canonical())
        except OSError as e:
            self._failure = e  # an exception cannot cross C; transmit() raises it
            return _FAIL
        return _OK

    # -- the library's questions --------------------------------------------------------------

    def _on_load(self, data: Any, length: Any, _tpm: int, name: bytes) -> int:
        blob = self._blobs.get(name.decode("ascii", "replace"))
        if blob is None:
            return _RETRY
        if self._library.TPM_Malloc(data, len(blob)) != _OK:
            return _FAIL
        ctypes.memmove(data[0], blob, len(blob))
        length[0] = len(blob)
        return _OK

    def _on_store(self, data: Any, length: int, _tpm: int, name: bytes) -> int:
        self._blobs[name.decode("ascii", "replace")] = ctypes.string_at(data, length)
        return self._write_state()

    def _on_delete(self, _tpm: int, name: bytes, must_exist: int) -> int:
        if self._blobs.pop(name.decode("ascii", "replace"), None) is None:
            return _FAIL if must_exist else _OK
        return self._write_state()

    @staticmethod
    def _on_number(value: Any, _tpm: int) -> int:
        value[0] = 0
        return _OK

    def _start(self) -> None:
        # Kept on self: ctypes does not keep the callbacks alive for C.
        self._callbacks = _Callbacks(
            ctypes.sizeof(_Callbacks),
            _Init(lambda: _OK),
            _Load(self._on_load),
            _Store(self._on_store),
            _Delete(self._on_delete),
            _Init(lambda: _OK),
            _Number(self._on_number),
            _Flag(self._on_number),
        )
        library = self._library
        for step, result in (
            ("ChooseTPMVersion", lambda: library.TPMLIB_ChooseTPMVersion(_TPM2)),
            (
                "RegisterCallbacks",
                lambda: library.TPMLIB_RegisterCallbacks(ctypes.byref(self._callbacks)),
            ),
            ("MainInit", library.TPMLIB_MainInit),
        ):
            code = result()
            if code != _OK:
                library.TPMLIB_Terminate()
                raise self._broken(self._failure or f"TPMLIB_{step} answered {code:#x}")

    # -- Transport ----------------------------------------------------------------------------

    def transmit(self, command: bytes) -> bytes:
        """As :meth:`Transport.transmit`."""
        if LibtpmsTransport._open_one is not self:
            raise lost("an open TPM", "a closed one")
        code = self._library.TPMLIB_Process(
            ctypes.byref(self._response),
            ctypes.byref(self._size),
            ctypes.byref(self._capacity),
            command,
            len(command),
        )
        failure, self._failure = self._failure, None
        if failure is not None:
            raise self._broken(failure.strerror) from failure
        if code != _OK or not self._response or self._size.value > MAX_RESPONSE:
            raise lost("an answer from libtpms", f"code {code:#x}")
        answer = ctypes.string_at(self._response, self._size.value)
        if response_length(answer) != len(answer):
            raise lost("as many bytes as announced", f"{len(answer)} bytes")
        return answer

    def close(self) -> None:
        """Stop the TPM and let another be opened. A second time it does nothing."""
        if LibtpmsTransport._open_one is self:
            self._library.TPMLIB_Terminate()
            self._library.TPM_Free(self._response)
            self._response = _bytes()
            os.close(self._lock)
            LibtpmsTransport._open_one = None
