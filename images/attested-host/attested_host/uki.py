"""The unified kernel image: systemd's stub with kernel, command line and initrd inside it."""

from __future__ import annotations

from dataclasses import dataclass

from attested_host.pe import add_sections

__all__ = ["Parts", "assemble"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What is inside, in the order in which systemd-stub measures it (systemd 252, stub.c).

    Attributes:
        stub: ``linuxx64.efi.stub``.
        linux: the kernel, itself a PE image.
        os_release: the text of ``.osrel``.
        command_line: ASCII, without a newline.
        initrd: a cpio archive.
    """

    stub: bytes
    linux: bytes
    os_release: bytes
    command_line: str
    initrd: bytes

    def sections(self) -> list[tuple[str, bytes]]:
        return [
            (".linux", self.linux),
            (".osrel", self.os_release),
            (".cmdline", self.command_line.encode("ascii")),
            (".initrd", self.initrd),
        ]


def assemble(parts: Parts) -> bytes:
    """The bytes of the image."""
    return add_sections(parts.stub, parts.sections())
