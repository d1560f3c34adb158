"""Numbers of the TPM 2.0 Library specification, Part 2 (structures): only those used here."""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = [
    "EK_CERTIFICATE_OID",
    "GENERATED_MAGIC",
    "MEASUREMENT_PCR",
    "NV_INDEX_EK_CERT_ECC_P256",
    "NV_INDEX_EK_CERT_RSA2048",
    "PCR_COUNT",
    "RESETTABLE_PCRS",
    "TRANSIENT_FIRST",
    "Alg",
    "Cap",
    "Cc",
    "Curve",
    "NvAttr",
    "ObjectAttr",
    "Rc",
    "Rh",
    "SessionAttr",
    "SessionType",
    "St",
    "Su",
]

GENERATED_MAGIC = 0xFF544347
"""TPM_GENERATED_VALUE: a restricted key signs it only over what the TPM itself made."""

PCR_COUNT = 24
MEASUREMENT_PCR = 10
"""Where the kernel's IMA, and our launcher, extend."""
RESETTABLE_PCRS = frozenset({16, 23})
"""PCRs that software may reset at will (PC Client Platform TPM Profile): never evidence."""

EK_CERTIFICATE_OID = "2.23.133.8.1"
"""tcg-kp-EKCertificate (TCG EK Credential Profile)."""
NV_INDEX_EK_CERT_RSA2048 = 0x01C00002
NV_INDEX_EK_CERT_ECC_P256 = 0x01C0000A
TRANSIENT_FIRST = 0x80000000


class Alg(IntEnum):
    """TPM_ALG_ID (Part 2, section 6.3)."""

    RSA = 0x0001
    SHA1 = 0x0004
    HMAC = 0x0005
    AES = 0x0006
    KEYEDHASH = 0x0008
    XOR = 0x000A
    SHA256 = 0x000B
    SHA384 = 0x000C
    SHA512 = 0x000D
    NULL = 0x0010
    SM3_256 = 0x0012
    RSASSA = 0x0014
    RSAES = 0x0015
    RSAPSS = 0x0016
    OAEP = 0x0017
    ECDSA = 0x0018
    ECDH = 0x0019
    ECDAA = 0x001A
    ECSCHNORR = 0x001C
    KDF1_SP800_56A = 0x0020
    KDF1_SP800_108 = 0x0022
    ECC = 0x0023
    SYMCIPHER = 0x0025
    SHA3_256 = 0x0027
    SHA3_384 = 0x0028
    SHA3_512 = 0x0029
    CTR = 0x0040
    CBC = 0x0042
    CFB = 0x0043


class Curve(IntEnum):
    """TPM_ECC_CURVE (Part 2, section 6.4)."""

    NIST_P256 = 0x0003
    NIST_P384 = 0x0004
    NIST_P521 = 0x0005


class St(IntEnum):
    """TPM_ST: structure tags (Part 2, section 6.9)."""

    NO_SESSIONS = 0x8001
    SESSIONS = 0x8002
    ATTEST_NV = 0x8014
    ATTEST_COMMAND_AUDIT = 0x8015
    ATTEST_SESSION_AUDIT = 0x8016
    ATTEST_CERTIFY = 0x8017
    ATTEST_QUOTE = 0x8018
    ATTEST_TIME = 0x8019
    ATTEST_CREATION = 0x801A
    CREATION = 0x8021


class Su(IntEnum):
    """TPM_SU: startup and shutdown types."""

    CLEAR = 0x0000
    STATE = 0x0001


class Cc(IntEnum):
    """TPM_CC: command codes (Part 2, section 6.5.2)."""

    NV_UNDEFINE_SPACE = 0x00000122
    CLEAR = 0x00000126
    NV_DEFINE_SPACE = 0x0000012A
    CREATE_PRIMARY = 0x00000131
    NV_INCREMENT = 0x00000134
    NV_WRITE = 0x00000137
    DICTIONARY_ATTACK_LOCK_RESET = 0x00000139
    PCR_EVENT = 0x0000013C
    PCR_RESET = 0x0000013D
    STARTUP = 0x00000144
    SHUTDOWN = 0x00000145
    ACTIVATE_CREDENTIAL = 0x00000147
    NV_READ = 0x0000014E
    POLICY_SECRET = 0x00000151
    CREATE = 0x00000153
    LOAD = 0x00000157
    QUOTE = 0x00000158
    UNSEAL = 0x0000015E
    CONTEXT_LOAD = 0x00000161
    CONTEXT_SAVE = 0x00000162
    FLUSH_CONTEXT = 0x00000165
    LOAD_EXTERNAL = 0x00000167
    NV_READ_PUBLIC = 0x00000169
    POLICY_AUTH_VALUE = 0x0000016B
    POLICY_COMMAND_CODE = 0x0000016C
    READ_PUBLIC = 0x00000173
    START_AUTH_SESSION = 0x00000176
    GET_CAPABILITY = 0x0000017A
    GET_RANDOM = 0x0000017B
    PCR_READ = 0x0000017E
    POLICY_PCR = 0x0000017F
    READ_CLOCK = 0x00000181
    PCR_EXTEND = 0x00000182
    EVICT_CONTROL = 0x00000120
    POLICY_GET_DIGEST = 0x00000189


class Cap(IntEnum):
    """TPM_CAP: capabilities."""

    ALGS = 0x00000000
    HANDLES = 0x00000001
    COMMANDS = 0x00000002
    PCRS = 0x00000005
    TPM_PROPERTIES = 0x00000006


class Rh(IntEnum):
    """TPM_RH: permanent handles (Part 2, section 7.4)."""

    OWNER = 0x40000001
    NULL = 0x40000007
    PW = 0x40000009
    LOCKOUT = 0x4000000A
    ENDORSEMENT = 0x4000000B
    PLATFORM = 0x4000000C


class Rc(IntEnum):
    """TPM_RC: response codes that callers act on (Part 2, section 6.6.3)."""

    SUCCESS = 0x000
    INITIALIZE = 0x100
    AUTH_FAIL = 0x08E
    HANDLE = 0x08B
    INTEGRITY = 0x09F
    POLICY_FAIL = 0x09D
    NV_DEFINED = 0x14C
    NV_UNINITIALIZED = 0x14A
    YIELDED = 0x908
    OBJECT_MEMORY = 0x902
    SESSION_MEMORY = 0x903
    NV_RATE = 0x920
    LOCKOUT = 0x921
    RETRY = 0x922
    NV_UNAVAILABLE = 0x923


class SessionType(IntEnum):
    """TPM_SE."""

    HMAC = 0x00
    POLICY = 0x01
    TRIAL = 0x03


class SessionAttr(IntFlag):
    """TPMA_SESSION."""

    CONTINUE = 0x01


class ObjectAttr(IntFlag):
    """TPMA_OBJECT (Part 2, section 8.3)."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


class NvAttr(IntFlag):
    """TPMA_NV (Part 2, section 13.4)."""

    PPWRITE = 1 << 0
    OWNERWRITE = 1 << 1
    AUTHWRITE = 1 << 2
    COUNTER = 1 << 4
    """TPM_NT.COUNTER in bits 4 to 7."""
    NT_MASK = 0xF << 4
    POLICY_DELETE = 1 << 10
    OWNERREAD = 1 << 17
    AUTHREAD = 1 << 18
    NO_DA = 1 << 25
    ORDERLY = 1 << 26
    WRITTEN = 1 << 29
