"""M: what stands in the measurement log, and what the reader lists."""

from __future__ import annotations

import struct

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import firmware as uefi
from conformance.making.keys import NOW, derived, spki
from conformance.making.logs import ALL, EVIL, FIRST, LIB0, POLICY, measured, told
from conformance.making.references import edition
from conformance.making.story import FILES, Story, file_line, sha256, violation
from conformance.making.suite import GOOD, UNPROVEN, Case
from evidence.ima_bytes import fields, raw_entry
from firmware import sha
from svetovid.crypto import b64encode


def _signature(
    key: ec.EllipticCurvePrivateKey,
    content: bytes,
    *,
    version: int = 2,
    kind: int = 3,
    named: int = 4,
    by: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """security.ima as evmctl writes it; ``by`` is the key whose id it bears."""
    made = key.sign(content, ec.ECDSA(hashes.SHA256(), True))
    number = x509.SubjectKeyIdentifier.from_public_key((by or key).public_key()).digest[-4:]
    return struct.pack(">BBB", kind, version, named) + number + struct.pack(">H", len(made)) + made


_SIGNER, _STRANGER = derived("ima signer"), derived("ima stranger")
_SIGNED = edition(file_signers=[b64encode(spki(_SIGNER))])


def _signed_file(
    name: str, what: str, code: str, signature: bytes, references: bytes = _SIGNED
) -> Case:
    d = b"sha256:\0" + sha256(b"tool")
    line = raw_entry(template=b"ima-sig", body=fields(d, b"/usr/bin/tool\0", signature))
    expected = GOOD if not code else {"reasons": (code,)}
    return measured(f"m15-{name}", what, line, attacks=("M15",), references=references, **expected)


_BUFFER = b"console=ttyS0"


_TMP, _PID = ("subtree", "/tmp"), ("glob", "/run/*.pid")
_COSTLY = ("glob", "/run/" + "*a" * 60 + "*b")


def _unchecked(rule: tuple[str, str]) -> bytes:
    return edition(unchecked=[{"kind": rule[0], "path": rule[1], "why": "scratch"}])


def _superseding(start: int) -> bytes:
    return edition(superseded={LIB0: {sha(FILES[LIB0]): start}})


def _buffer(data: bytes) -> bytes:
    d = b"sha256:\0" + sha256(data)
    return raw_entry(template=b"ima-buf", body=fields(d, b"kexec-cmdline\0", data))


ENTRIES = (
    measured(
        *("m4-violation", "A file that the reader lists was written while it was measured."),
        violation(LIB0),
        attacks=("M4",),
        reasons=("ima.violation",),
    ),
    measured(
        *("m4-late-violation", "A violation in a line after the quote."),
        attacks=("M4", "M19"),
        late=[violation(LIB0)],
        reasons=("ima.violation",),
    ),
    measured(
        *("m5-violation-under-a-path", "A violation whose path an exclude list would pass over."),
        violation("/tmp/scratch"),
        attacks=("M5",),
        reasons=("ima.violation",),
    ),
    measured(
        *("m17-unlisted", "A file that the reader does not list."),
        EVIL,
        attacks=("M17",),
        reasons=("ima.unlisted",),
    ),
    measured(
        *("m17-another-digest", "A listed file with an older digest, no longer listed."),
        file_line(LIB0, b"an older library"),
        attacks=("M17",),
        reasons=("ima.digest",),
    ),
    measured(
        *("m9-trailing-space", "A listed file's name with a space behind: another file."),
        file_line(LIB0 + " ", FILES[LIB0]),
        attacks=("M9",),
        reasons=("ima.unlisted",),
    ),
    measured(
        *("m10-prefix", "A file whose path begins as a listed one."),
        file_line(LIB0 + "evil", b"evil"),
        attacks=("M10",),
        reasons=("ima.unlisted",),
    ),
    *(
        measured(
            f"m10-{name}",
            what,
            file_line(path, b"scratch"),
            attacks=("M10",),
            references=_unchecked(rule),
            **({**GOOD} if good else {"reasons": ("ima.unlisted",)}),
        )
        for name, what, rule, path, good in (
            *(
                (f"subtree-{name}", f"The reader does not check /tmp: {what}.", _TMP, path, good)
                for name, what, path, good in (
                    ("within", "a file within", "/tmp/a/b", True),
                    ("prefix-trick", "a file beside it whose path begins alike", "/tmpevil", False),
                    ("itself", "a file of its very name", "/tmp", False),
                    ("elsewhere", "a file with /tmp/ in the middle", "/usr/tmp/x", False),
                )
            ),
            *(
                (f"glob-{name}", f"The reader does not check /run/*.pid: {what}.", _PID, path, good)
                for name, what, path, good in (
                    ("within", "a file of this form", "/run/x.pid", True),
                    ("deeper", "a file one folder deeper", "/run/a/x.pid", False),
                    ("longer", "a file with more behind it", "/run/x.pid.so", False),
                )
            ),
            (
                *("glob-costly", "A rule of many stars and a path that almost fits it.", _COSTLY),
                *("/run/" + "a" * 4000, False),
            ),
        )
    ),
    *(
        Case(
            f"m10-rule-{name}",
            f"A rule for unchecked files: {what}.",
            lambda world, rule=rule: {**world, "references.json": _unchecked(rule)},  # type: ignore[misc]
            ("M10",),
            verdict="unreadable",
            reasons=("document.invalid",),
        )
        for name, what, rule in (
            ("everything", "all there is", ("glob", "/*")),
            ("two-stars", "two stars in a row", ("glob", "/run/**")),
            ("dots", "a path with ..", ("subtree", "/tmp/../usr")),
        )
    ),
    measured(
        *("m5-violation-unchecked", "A violation under a path that the reader does not check."),
        violation("/tmp/scratch"),
        attacks=("M5",),
        references=_unchecked(_TMP),
        reasons=("ima.violation",),
    ),
    *(
        Case(
            f"m17-{name}",
            f"The reader supersedes the digest of a measured file {what}.",
            lambda world, start=start: {**world, "references.json": _superseding(start)},  # type: ignore[misc]
            ("M17",),
            **more,
        )
        for name, what, start, more in (
            ("superseded", "from now on", NOW, {"reasons": ("ima.superseded",)}),
            ("not-yet-superseded", "from a second later on", NOW + 1, GOOD),
        )
    ),
    measured(
        *("m19-late-line", "A listed file, measured after the quote: the log is ahead of it."),
        attacks=("M19",),
        late=[file_line(LIB0, FILES[LIB0])],
        **GOOD,
    ),
    measured(
        *("m19-late-unlisted", "An unlisted file, measured after the quote."),
        attacks=("M19",),
        late=[EVIL],
        reasons=("ima.unlisted",),
    ),
    measured(
        *("m21-memory-file", "A program run from memory alone."),
        file_line("/memfd:payload (deleted)", b"payload"),
        attacks=("M21",),
        reasons=("ima.unlisted",),
    ),
    measured(
        *("m14-kexec", "Another kernel was started by kexec and went on with the log."),
        FIRST,
        attacks=("M14",),
        reasons=("ima.kexec",),
    ),
    measured(
        *("m14-kexec-other-aggregate", "A second boot_aggregate with another value."),
        Story(fw=uefi.grub()).aggregate(),
        attacks=("M14", "M13"),
        reasons=("ima.boot_aggregate", UNPROVEN),
    ),
    measured(
        *("m12-policy-loaded", "An IMA policy was loaded that the reader lists as a file only."),
        file_line(POLICY, b"policy"),
        attacks=("M12",),
        references=edition({**FILES, POLICY: b"policy"}),
        reasons=("ima.policy_changed",),
    ),
    measured(
        *("m12-second-policy", "A second IMA policy replaced the one that the reader asks for."),
        *(file_line(POLICY, b"policy"), file_line(POLICY, b"second")),
        attacks=("M12",),
        references=edition({**FILES, POLICY: (b"policy", b"second")}, boot={"measured": [POLICY]}),
        reasons=("ima.policy_changed",),
    ),
    measured(
        *("m11-nothing-of-the-runtime", "The reader asks for a file that was never measured."),
        attacks=("M11",),
        references=edition(boot={"measured": ["/usr/bin/python3"]}),
        reasons=("ima.policy_unproven",),
    ),
    measured(
        *("m16-buffer", "The kernel measured a command line for kexec that the reader lists."),
        _buffer(_BUFFER),
        attacks=("M16",),
        references=edition(buffers={"kexec-cmdline": [sha(_BUFFER)]}),
        **GOOD,
    ),
    measured(
        *("m16-unlisted-buffer", "It measured one that the reader does not list."),
        _buffer(b"init=/bin/sh"),
        attacks=("M16",),
        references=edition(buffers={"kexec-cmdline": [sha(_BUFFER)]}),
        reasons=("ima.buf",),
    ),
    told(
        *("m16-buffer-digest", "A buffer with the digest of another.", "ima.buf"),
        [
            *ALL,
            raw_entry(
                template=b"ima-buf",
                body=fields(b"sha256:\0" + sha256(_BUFFER), b"kexec-cmdline\0", b"other"),
            ),
        ],
        "M16",
    ),
    _signed_file(
        "signed",
        "An unlisted file with a signature of a key that the reader lists.",
        "",
        _signature(_SIGNER, b"tool"),
    ),
    _signed_file(
        "stranger", "Its signature is a stranger's.", "ima.sig_key", _signature(_STRANGER, b"tool")
    ),
    _signed_file(
        "no-keys",
        "The reader lists no keys.",
        "ima.sig_key",
        _signature(_SIGNER, b"tool"),
        edition(),
    ),
    _signed_file(
        "borrowed-id",
        "A stranger's signature with the listed key's id.",
        "ima.sig_invalid",
        _signature(_STRANGER, b"tool", by=_SIGNER),
    ),
    _signed_file(
        "other-file",
        "The signature of another file.",
        "ima.sig_invalid",
        _signature(_SIGNER, b"other"),
    ),
    _signed_file(
        "version-1",
        "A signature of version 1.",
        "ima.sig_version",
        _signature(_SIGNER, b"tool", version=1),
    ),
    _signed_file(
        "portable-evm",
        "A portable EVM signature in its place.",
        "ima.sig_version",
        _signature(_SIGNER, b"tool", kind=5),
    ),
    _signed_file(
        "sha1",
        "A signature that says SHA-1.",
        "ima.sig_alg",
        _signature(_SIGNER, b"tool", named=2),
    ),
    _signed_file("malformed", "A signature of three bytes.", "ima.sig_malformed", b"\3\2\4"),
)

REFERENCES = (
    Case(
        "m17-values-out-of-their-time",
        "The reader's values were valid until a second ago.",
        lambda world: {**world, "references.json": edition(valid_until=1_799_999_999)},
        ("M17",),
        reasons=("reference.expired", "ima.unlisted"),
    ),
    Case(
        "m17-no-values",
        "The reader lists nothing.",
        dict,
        ("M17",),
        references=(),
        reasons=("reference.none",),
    ),
    Case(
        "m1-no-log",
        "There is no measurement log.",
        lambda world: {n: d for n, d in world.items() if n != "ima.bin"},
        ("M1",),
        reasons=("ima.missing", UNPROVEN),
    ),
)

CASES = (*ENTRIES, *REFERENCES)
