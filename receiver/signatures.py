"""The verifiers that provider files share. All compare in constant time, over bytes, and try every live secret.

Nothing here decodes a body. A verifier returns when the proof holds and raises `Refused` with the reason when not.
The signers of the simulator are written apart (`receiver/signers/`) and must never import this module.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from receiver.errors import Reason, Refused

MAX_HEADER: Final = 4096


def same(left: bytes, right: bytes) -> bool:
    """Whether the two are equal, in a time that depends on their length alone."""
    return hmac.compare_digest(left, right)


def header(headers: Mapping[str, str], *names: str, again: bool = False) -> str:
    """The first of the headers that is there. Raises Refused when none is, it is empty, or absurdly long.

    `again`: see `Refused`.
    """
    for name in names:
        value = headers.get(name)
        if value is not None:
            break
    else:
        raise Refused(Reason.MISSING_HEADER, f"the header {names[0]} is missing", again=again)
    if not value or value.isspace():
        raise Refused(Reason.MISSING_HEADER, f"the header {name} is empty", again=again)
    if len(value) > MAX_HEADER:
        raise Refused(Reason.MALFORMED_HEADER, f"the header {name} is longer than {MAX_HEADER} characters", again=again)
    return value


def unbase64(value: str, name: str) -> bytes:
    """The bytes of strict base64. Raises Refused."""
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:  # not ASCII, or not base64
        raise Refused(Reason.MALFORMED_HEADER, f"{name} is not base64") from error


def unhex(value: str, name: str) -> bytes:
    """The bytes of strict hexadecimal text. Raises Refused."""
    try:
        return binascii.unhexlify(value)  # unlike bytes.fromhex it takes no blanks
    except ValueError as error:
        raise Refused(Reason.MALFORMED_HEADER, f"{name} is not hexadecimal") from error


def unix_seconds(value: str, name: str) -> int:
    """A whole number of seconds since 1970 as providers send it in headers. Raises Refused."""
    if not (value.isascii() and value.isdigit() and len(value) <= 12):
        raise Refused(Reason.MALFORMED_HEADER, f"{name} is not a number of seconds")
    return int(value)


def unix_milliseconds(value: str, name: str) -> float:
    """Seconds since 1970 of a whole number of milliseconds as providers send it in headers. Raises Refused."""
    if not (value.isascii() and value.isdigit() and len(value) <= 15):
        raise Refused(Reason.MALFORMED_HEADER, f"{name} is not a number of milliseconds")
    return int(value) / 1000


def check_time(
    signed_at: float, now: datetime, *, past: float | None, ahead: float = 300.0, proof: bytes | None = None
) -> None:
    """Refuse a signed time (seconds since 1970) older than `past` seconds (`None`: any age) or more than `ahead` ahead.

    Called after the signature was found right, so that what is refused here is authentic. `proof`: see `Authentic`.
    """
    age = now.timestamp() - signed_at
    if past is not None and age > past:
        detail = f"signed {age:.0f} s ago, more than the allowed {past:.0f} s"
        raise Refused(Reason.STALE, detail, authentic=True, proof=proof)
    if age < -ahead:
        detail = f"signed {-age:.0f} s in the future: is this machine's clock right?"
        raise Refused(Reason.FUTURE, detail, authentic=True, proof=proof)


def hmac_sha256(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 of the parts joined."""
    return _hmac(key, b"".join(parts))


def _hmac(key: bytes, signed: bytes) -> bytes:
    """RFC 2104 by two contexts that hold the key already: half of what the library takes to set up a new one."""
    inner, outer = _keyed(key)
    within, around = inner.copy(), outer.copy()
    within.update(signed)
    around.update(within.digest())
    return around.digest()


@lru_cache(maxsize=1024)
def _keyed(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    block = (key if len(key) <= 64 else hashlib.sha256(key).digest()).ljust(64, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))


_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


def any_hmac(keys: Sequence[bytes], signed: bytes, given: Sequence[bytes], algorithm: str = "sha256") -> bool:
    """Whether one of the given signatures is that of one of the keys. All pairs are compared."""
    found = False
    for key in keys:
        expected = _hmac(key, signed) if algorithm == "sha256" else hmac.digest(key, signed, algorithm)
        for signature in given:
            found |= hmac.compare_digest(expected, signature)
    return found


def any_hmac_sha1(keys: Sequence[bytes], signed: bytes, given: bytes) -> bool:
    """Whether the signature is that of one of the keys, with HMAC-SHA1, which is still sound as a MAC (RFC 6194)."""
    found = False
    for key in keys:
        found |= hmac.compare_digest(hmac.digest(key, signed, "sha1"), given)
    return found


# What nearly every provider does: HMAC-SHA256 of some bytes, with the signature as text in a header.


def check_hmac(keys: Sequence[bytes], signed: bytes, given: Sequence[bytes], algorithm: str = "sha256") -> None:
    """Refuse unless one of the given signatures is that of one of the keys (HMAC of that algorithm)."""
    if not any_hmac(keys, signed, given, algorithm):
        raise wrong_key("signing secrets")


def check_hex(headers: Mapping[str, str], name: str, keys: Sequence[bytes], signed: bytes) -> None:
    """Refuse unless the header is the hexadecimal HMAC-SHA256 of what is signed."""
    check_hmac(keys, signed, [unhex(header(headers, name), name)])


def check_base64(headers: Mapping[str, str], name: str, keys: Sequence[bytes], signed: bytes) -> None:
    """Refuse unless the header is the base64 HMAC-SHA256 of what is signed."""
    check_hmac(keys, signed, [unbase64(header(headers, name), name)])


def check_ed25519(
    headers: Mapping[str, str], name: str, keys: Sequence[ed25519.Ed25519PublicKey], signed: bytes
) -> None:
    """Refuse unless the header is the base64 Ed25519 signature of what is signed, by one of the keys."""
    signature = unbase64(header(headers, name), name)
    if not any(ed25519_match(key, signature, signed) for key in keys):
        raise wrong_key("public keys")


def key_bytes(value: str) -> bytes:
    """The bytes of a key in base64 or PEM, also with escaped line breaks (environment). Raises ValueError."""
    lines = value.replace("\\n", "\n").split("\n")
    return base64.b64decode("".join(line.strip() for line in lines if not line.startswith("-----")), validate=True)


def ecdsa_key(value: str) -> ec.EllipticCurvePublicKey:
    """A public key on P-256 from base64 of its DER, or PEM. Raises ValueError."""
    try:
        loaded = load_der_public_key(key_bytes(value))
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(loaded, ec.EllipticCurvePublicKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise ValueError("not a public key on P-256")  # noqa: TRY004  # the value is wrong, its type is not
    return loaded


def ed25519_key(value: str) -> ed25519.Ed25519PublicKey:
    """A public key from the base64 of its 32 bytes. Raises ValueError, also where everybody could sign."""
    key = base64.b64decode(value, validate=True)
    if int.from_bytes(key, "little") % 2**255 in _SMALL_ORDER:
        raise ValueError("a point of small order, under which everybody can sign")
    return ed25519.Ed25519PublicKey.from_public_bytes(key)


# The y of the eight points of small order, also where it is written with p added (RFC 8032, section 5.1). Nobody's key
# is one, but a made-up one may be: 0 is what a row of A is in base64.
_P: Final = 2**255 - 19
_OF_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER: Final = frozenset({0, 1, _P - 1, _P, _P + 1, _OF_ORDER_8, _P - _OF_ORDER_8})


def check_timed(
    headers: Mapping[str, str],
    name: str,
    keys: Sequence[bytes],
    body: bytes,
    *,
    now: datetime,
    past: float | None,
) -> int:
    """Refuse unless a header `t=<seconds>,v1=<hex>[,v1=<hex>...]` holds for `t.body`; returns `t`.

    `past`: see `check_time`. Several `v1` come while the provider replaces a secret.
    """
    parts = [part.strip().partition("=")[::2] for part in header(headers, name).split(",")[:20]]
    times = [value for key, value in parts if key == "t"]
    given = [value for key, value in parts if key == "v1"]
    if len(times) != 1 or not given:
        raise Refused(Reason.MALFORMED_HEADER, f"the header {name} is not of the form t=...,v1=...")
    at = unix_seconds(times[0], f"t of {name}")
    check_hmac(keys, b"%s.%s" % (times[0].encode(), body), [unhex(value, f"v1 of {name}") for value in given])
    check_time(at, now, past=past)
    return at


def wrong_key(what: str) -> Refused:
    """The refusal when no configured secret or key fits."""
    return Refused(
        Reason.WRONG_KEY,
        f"the signature fits none of the configured {what}: another account's, or the body was changed on the way",
    )


# Standard Webhooks (also Svix): https://github.com/standard-webhooks/standard-webhooks, spec, read 2026-11.


def standard_webhooks_key(secret: str) -> bytes:
    """The HMAC key of a secret `whsec_<base64>`. Raises ValueError."""
    encoded = secret.removeprefix("whsec_")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


_WEBHOOK: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")
_SVIX: Final = ("svix-id", "svix-timestamp", "svix-signature")


def standard_webhooks(
    headers: Mapping[str, str],
    body: bytes,
    *,
    keys: Sequence[bytes],
    public_keys: Sequence[ed25519.Ed25519PublicKey] = (),
    now: datetime,
    tolerance: float = 300.0,
    bare: bool = False,
) -> str:
    """Verify `webhook-*` (or `svix-*`) headers over `id.timestamp.body`; returns the message id.

    Several signatures and several live keys are tried. `tolerance`: seconds both ways, but ahead never more than 300.
    `keys`: as the HMAC takes them; `standard_webhooks_key` makes them where the sender follows the specification in
    that too. `bare`: a signature without `v1,` before it counts.
    """
    of_id, of_time, of_signature = _SVIX if "svix-id" in headers and "webhook-id" not in headers else _WEBHOOK
    message_id, stamp, signature = headers.get(of_id, ""), headers.get(of_time, ""), headers.get(of_signature, "")
    parts = signature.split()
    try:
        signed = f"{message_id}.{stamp}.".encode("latin-1") + body
    except UnicodeEncodeError as error:
        raise Refused(Reason.MALFORMED_HEADER, f"{of_id} has characters no header can carry") from error
    if bare:
        parts = [part if "," in part else f"v1,{part}" for part in parts]
    matched = _standard_match(signed, parts, keys, public_keys)
    in_order = stamp.isdigit() and 0 < len(message_id) <= MAX_HEADER >= len(signature) and not message_id.isspace()
    if not (matched and in_order):
        _ = header(headers, of_id), header(headers, of_time), header(headers, of_signature)  # says what is wrong
    signed_at = unix_seconds(stamp, of_time)
    if not matched:
        raise wrong_key("secrets")
    if not (-tolerance <= (age := now.timestamp() - signed_at) <= tolerance and age >= -300.0):
        check_time(signed_at, now, past=tolerance, ahead=min(tolerance, 300.0))  # says what is wrong
    return message_id


def _standard_match(
    signed: bytes,
    given: Sequence[str],
    keys: Sequence[bytes],
    public_keys: Sequence[ed25519.Ed25519PublicKey],
) -> bool:
    hmacs: list[bytes] = []
    ed: list[bytes] = []
    for part in given[:20]:
        version, _, text = part.partition(",")
        if version in ("v1", "v1a") and (value := _bytes_or_none(text)):
            (hmacs if version == "v1" else ed).append(value)
    if any_hmac(keys, signed, hmacs):
        return True
    return bool(public_keys) and any(ed25519_match(key, value, signed) for key in public_keys for value in ed)


def _bytes_or_none(value: str) -> bytes | None:
    try:
        return binascii.a2b_base64(value, strict_mode=True) or None
    except ValueError:  # not ASCII, or not base64
        return None


def ed25519_match(key: ed25519.Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    """Whether an Ed25519 signature fits."""
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def ecdsa_match(key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> bool:
    """Whether an ECDSA-SHA256 signature (DER) fits."""
    try:
        key.verify(signature, signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def check_rsa(
    keys: Sequence[rsa.RSAPublicKey], signature: bytes, signed: bytes, algorithm: HashAlgorithm, *, what: str
) -> None:
    """Refuse unless one of the keys made the RSA signature (PKCS #1 v1.5). `what`: the keys, for people."""
    for key in keys:
        try:
            key.verify(signature, signed, PKCS1v15(), algorithm)
        except InvalidSignature:
            continue
        return
    raise wrong_key(what)


def basic_credentials(headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """User and password of `Authorization: Basic`. Raises Refused."""
    value = headers.get("authorization")
    if value is None:
        raise Refused(Reason.MISSING_CREDENTIALS, "the header Authorization is missing", again=True)
    scheme, _, encoded = value.strip().partition(" ")
    if scheme.lower() != "basic" or len(value) > MAX_HEADER:
        raise Refused(Reason.MALFORMED_HEADER, "the header Authorization is not of the kind Basic", again=True)
    user, colon, password = unbase64(encoded.strip(), "Authorization").partition(b":")
    if not colon:
        raise Refused(Reason.MALFORMED_HEADER, "the Basic credentials have no colon", again=True)
    return user, password


def check_basic(headers: Mapping[str, str], username: str, passwords: Sequence[str]) -> None:
    """Refuse unless `Authorization: Basic` carries the username and one of the passwords; all are compared."""
    given_user, given_password = basic_credentials(headers)
    matched = False
    for password in passwords:
        matched |= same(given_password, password.encode())
    if not (same(given_user, username.encode()) & matched):
        raise Refused(Reason.WRONG_CREDENTIALS, "user or password of the Basic credentials is wrong", again=True)
