"""Parsers of evidence: TPM structures, certificates, logs, recordings."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from cryptography import x509

from fuzz.targets import ROOT, Target
from svetovid.crypto import b64decode
from svetovid.errors import SvetovidError
from svetovid.evidence import ReferenceValues
from svetovid.evidence.boot import judge, parse_boot_log, prove_boot, replay
from svetovid.evidence.boot.describe import describe
from svetovid.evidence.boot.variables import parse_variable
from svetovid.evidence.certificates import find_path, load_certificate
from svetovid.evidence.ima import advance, parse_log
from svetovid.evidence.ima.listing import compare
from svetovid.evidence.ima.signatures import check_signature, load_signer
from svetovid.evidence.recorded import (
    FILES,
    Expectations,
    RecordedEvidence,
    appraise_recorded,
    from_files,
    read_authorities,
)
from svetovid.evidence.recorded.tpm2tools import parse_pcrs, strip_size
from svetovid.evidence.references import Current
from svetovid.evidence.revocation import check_revocation, load_crl
from svetovid.evidence.tee import verify_report
from svetovid.evidence.tpm import (
    EK_CERTIFICATE_OID,
    ClockInfo,
    check_ak,
    check_ek,
    endorsement_signers,
    parse_attest,
    parse_public,
    parse_signature,
    public_key,
    verify_quote,
)
from svetovid.evidence.tpm.credential import make_credential

SUITE = ROOT / "tests" / "conformance"
VECTORS = ROOT / "tests" / "vectors" / "evidence"
NOW = 1_800_000_000
_QUIET = contextlib.suppress(SvetovidError)


@cache
def good(world: str = "forged") -> Mapping[str, bytes]:
    """The files of a good recording."""
    return {p.name: p.read_bytes() for p in (SUITE / "worlds" / world).iterdir()}


def stored(name: str) -> Callable[[], Iterable[bytes]]:
    """Every file of this name in the suite."""

    def seeds() -> Iterable[bytes]:
        return {p.read_bytes() for p in sorted(SUITE.glob(f"*/*/{name}"))}

    return seeds


def _public(data: bytes) -> None:
    public = parse_public(strip_size(data))
    for check in (check_ak, check_ek, public_key):
        with _QUIET:
            check(public)


def split(data: bytes, parts: int) -> list[bytes]:
    """Parts behind their sizes, 2 bytes each; what is missing is empty."""
    found = []
    for _ in range(parts - 1):
        size = int.from_bytes(data[:2])
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return [*found, data]


def joined(*parts: bytes) -> bytes:
    return b"".join(len(p).to_bytes(2) + p for p in parts[:-1]) + parts[-1]


def _quote(data: bytes) -> None:
    attest, signature, ak = split(data, 3)
    files = good()
    public, ek = parse_public(ak), parse_public(strip_size(files["ek.pub"]))
    verify_quote(
        attest,
        signature,
        ak=public,
        signers=endorsement_signers(ek, public),
        extra_data=bytes.fromhex(files["nonce.hex"].decode()),
        pcrs=parse_pcrs(files["quote.pcrs"])["sha256"],
        needed=frozenset(range(11)),
    )


def _quotes() -> Iterable[bytes]:
    for world in ("forged", "tpm"):
        f = good(world)
        yield joined(f["quote.msg"], f["quote.sig"], strip_size(f["ak.pub"]))


def _credential(data: bytes) -> None:
    ek, ak = split(data, 2)
    make_credential(ek, ak, b"s" * 32, randomness=b"r" * 64)


def _credentials() -> Iterable[bytes]:
    f = good()
    rsa = (VECTORS / "direct1" / "ek.pub").read_bytes()
    for ek in (f["ek.pub"], rsa):
        yield joined(strip_size(ek), strip_size(f["ak.pub"]))


def _chain(data: bytes) -> None:
    anchors = read_authorities(good()["authorities.pem"]).anchors
    chain = [part for part in split(data, 3) if part]
    find_path(chain, anchors, "ek", NOW, EK_CERTIFICATE_OID)


def _chains() -> Iterable[bytes]:
    for leaf in stored("ekcert.der")():
        yield joined(leaf, b"", b"")
    yield joined(good()["ekcert.der"], good("tpm")["ekcert.der"], b"")


def _blocks(label: str) -> Iterable[bytes]:
    begin, end = f"-----BEGIN {label}-----", f"-----END {label}-----"
    for pem in stored("authorities.pem")():
        for part in pem.decode().split(begin)[1:]:
            with contextlib.suppress(ValueError):
                yield base64.b64decode(part.split(end)[0])


@cache
def _revocable() -> list[x509.Certificate]:
    """A leaf, and the authorities that its lists are of."""
    case = SUITE / "cases" / "i5-not-revoked"
    given = read_authorities((case / "authorities.pem").read_bytes()).anchors
    chain = [(case / "ekcert.der").read_bytes(), *(b64decode(a.certificate) for a in given)]
    return [load_certificate(der, "ek") for der in chain]


def _crl(data: bytes) -> None:
    check_revocation(_revocable(), [load_crl(data)], NOW)


def _boot(data: bytes) -> None:
    log = parse_boot_log(data)
    pcrs: dict[int, bytes] = {}
    for bank in log.banks:
        if bank == "sha256":
            pcrs = dict.fromkeys(range(15), bytes(32)) | replay(log, bank)
            for event in log.events:
                describe(event, bank)
    boot = prove_boot(data, pcrs)
    state = advance(
        None,
        good()["ima.bin"],
        offset=0,
        pcrs=parse_pcrs(good()["quote.pcrs"])["sha256"],
        clock=ClockInfo(1, 1, 0, True),
    )
    judge(boot, state, Current.at([ReferenceValues.parse(good()["references.json"])], NOW))


def _variables() -> Iterable[bytes]:
    for name in ("bios.bin",):
        for data in stored(name)():
            with _QUIET:
                yield from (e.data for e in parse_boot_log(data).events if e.pcr == 7)


def _ima(data: bytes) -> None:
    for bank in ("sha256", "sha384", "sha512"):
        pcr = bytes(hashlib.new(bank).digest_size)
        for entry in parse_log(data, bank):
            pcr = hashlib.new(bank, pcr + entry.extension).digest()
    pcrs = parse_pcrs(good()["quote.pcrs"])["sha256"]
    entries = parse_log(data)
    value = bytes(32)
    for entry in entries:
        value = hashlib.sha256(value + entry.extension).digest()
    with _QUIET:
        advance(None, data, offset=0, pcrs={**pcrs, 10: value}, clock=ClockInfo(1, 1, 0, True))


def _templates() -> Iterable[bytes]:
    """Logs, and one line of each template that the kernel has."""
    yield from stored("ima.bin")()
    body = struct.pack("<I", 40) + b"sha256:\0" + bytes(32) + struct.pack("<I", 3) + b"/x\0"
    for template in (b"ima-ng", b"ima-ngv2", b"ima-sig", b"ima-sigv2", b"ima-buf"):
        yield _line(template, body)
        yield _line(template, body + bytes(4))
    for template, more in ((b"ima-modsig", 3), (b"evm-sig", 7)):
        yield _line(template, body + bytes(4 * more))


def _line(template: bytes, body: bytes) -> bytes:
    head = struct.pack("<I20sI", 10, hashlib.sha1(body).digest(), len(template))
    return head + template + struct.pack("<I", len(body)) + body


_TEMPLATES = (
    b"ima-ng",
    b"ima-ngv2",
    b"ima-sig",
    b"ima-sigv2",
    b"ima-buf",
    b"ima-modsig",
    b"evm-sig",
)


def _fields(data: bytes) -> None:
    """The first byte says of which template the rest is; its hash is right, as a liar's is."""
    template = _TEMPLATES[data[0] % len(_TEMPLATES)] if data else b""
    for entry in parse_log(_line(template, data[1:])):
        assert entry.path


def _bodies() -> Iterable[bytes]:
    for log in _templates():
        at = 0
        while at + 28 < len(log):
            (size,) = struct.unpack_from("<I", log, at + 24)
            name, at = log[at + 28 : at + 28 + size], at + 28 + size
            (size,) = struct.unpack_from("<I", log + bytes(4), at)
            if name in _TEMPLATES:
                yield bytes([_TEMPLATES.index(name)]) + log[at + 4 : at + 4 + size]
            at += 4 + size


def _references() -> ReferenceValues:
    return ReferenceValues.parse((SUITE / "cases" / "m15-signed" / "references.json").read_bytes())


def _signature(data: bytes) -> None:
    signature, digest, der = split(data, 3)
    key = der or base64.b64decode(_references().file_signers[0])
    check_signature(signature, digest, [load_signer(key)])


def _signatures() -> Iterable[bytes]:
    for name in ("m15-signed", "m15-sha1", "m15-version-1"):
        log = (SUITE / "cases" / name / "ima.bin").read_bytes()
        last = parse_log(log)[-1]
        yield joined(last.detail.signature, last.digest, b"")  # type: ignore[union-attr]


def _listing(data: bytes) -> None:
    """Reference values, and a log that they are held against."""
    values, log = split(data, 2)
    current = Current.at([ReferenceValues.parse(values)], NOW)
    compare(parse_log(log), current, begins=False)


def _listings() -> Iterable[bytes]:
    for name in ("m10-glob-costly", "m15-signed", "m17-superseded", "m16-buffer"):
        case = SUITE / "cases" / name
        log = case / "ima.bin" if (case / "ima.bin").exists() else SUITE / "worlds/tpm/ima.bin"
        yield joined((case / "references.json").read_bytes(), log.read_bytes())


def _bundle(data: bytes) -> None:
    evidence = RecordedEvidence.parse(data)
    _appraised(evidence)


@cache
def _wanted() -> Expectations:
    return Expectations(
        now=NOW,
        references=[ReferenceValues.parse(good()["references.json"])],
        authorities=read_authorities(good()["authorities.pem"]),
    )


def _appraised(evidence: RecordedEvidence) -> None:
    appraise_recorded(evidence, _wanted()).to_json()


def _bundles() -> Iterable[bytes]:
    yield (VECTORS / "live_after_violation.json").read_bytes()
    for world in ("forged", "tpm"):
        yield from_files(good(world)).canonical()


_NAMES = tuple(FILES)


def _directory(data: bytes) -> None:
    """The first byte says which file of a good recording the rest replaces."""
    name = _NAMES[data[0] % len(_NAMES)] if data else _NAMES[0]
    _appraised(from_files({**good(), name: data[1:]}))


def _directories() -> Iterable[bytes]:
    for i, name in enumerate(_NAMES):
        yield bytes([i]) + good()[name]
        for path in sorted(SUITE.glob(f"cases/*/{name}"))[:8]:
            yield bytes([i]) + path.read_bytes()


def _report(data: bytes) -> None:
    report, signature, certificate = split(data, 3)
    verify_report(report, signature, certificate=certificate, report_data=bytes(32))


def _reports() -> Iterable[bytes]:
    said = {"debug": False, "measurement": "sha256:" + "0" * 64, "report_data": "0" * 64, "svn": 1}
    text = json.dumps(said, separators=(",", ":"), sort_keys=True).encode()
    yield joined(text, b"0\6\2\1\1\2\1\1", good()["ekcert.der"])


_TPM = ("svetovid.evidence.tpm",)
_BOOT = ("svetovid.evidence.boot",)
_IMA = ("svetovid.evidence.ima",)
_RECORDED = ("svetovid.evidence.recorded", *_TPM, *_BOOT, *_IMA)
TARGETS = (
    Target("tpm-attest", parse_attest, _TPM, stored("quote.msg")),
    Target("tpm-public", _public, _TPM, lambda: {*stored("ak.pub")(), *stored("ek.pub")()}),
    Target("tpm-signature", parse_signature, _TPM, stored("quote.sig")),
    Target("quote", _quote, _TPM, _quotes),
    Target("credential", _credential, _TPM, _credentials),
    Target("ek-chain", _chain, ("svetovid.evidence.certificates",), _chains),
    Target("crl", _crl, ("svetovid.evidence.revocation",), lambda: set(_blocks("X509 CRL"))),
    Target(
        "authorities",
        read_authorities,
        ("svetovid.evidence.recorded.device",),
        stored("authorities.pem"),
    ),
    Target("boot-log", _boot, _BOOT, stored("bios.bin")),
    Target("uefi-variable", parse_variable, _BOOT, _variables),
    Target("ima-log", _ima, _IMA, _templates),
    Target("ima-fields", _fields, _IMA, lambda: set(_bodies())),
    Target("ima-signature", _signature, _IMA, _signatures),
    Target("reference-values", _listing, (*_IMA, "svetovid.evidence.references"), _listings),
    Target("pcr-file", parse_pcrs, ("svetovid.evidence.recorded.tpm2tools",), stored("quote.pcrs")),
    Target("recorded-document", _bundle, _RECORDED, _bundles),
    Target("recorded-directory", _directory, _RECORDED, _directories),
    Target("tee-report", _report, ("svetovid.evidence.tee",), _reports),
)
