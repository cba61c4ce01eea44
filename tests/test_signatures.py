"""The shared verifiers, against published vectors, independent packages and every trick with headers we know of."""

from __future__ import annotations

import hmac
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import pytest
import standardwebhooks.webhooks
import svix.webhooks
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from receiver import signatures
from receiver.errors import Reason, Refused
from receiver.signers import ecdsa
from receiver.signers import standard_webhooks as signer

# Standard Webhooks' and Svix's libraries carry this vector; Svix's server the one of `v1a`.
SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID: Final = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STAMP: Final = 1614265330
BODY: Final = b'{"test": 2432232314}'
V1: Final = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
PRIVATE: Final = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC: Final = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
V1A: Final = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
NOW: Final = datetime.fromtimestamp(STAMP, UTC)

T = TypeVar("T")

KEY: Final = signatures.standard_webhooks_key(SECRET)
PUBLIC_KEY: Final = Ed25519PublicKey.from_public_bytes(b64decode(PUBLIC.removeprefix("whpk_")))
DIGEST: Final = V1.removeprefix("v1,")


def headers(
    signature: str = V1, *, message_id: str = ID, stamp: str = str(STAMP), prefix: str = "webhook"
) -> dict[str, str]:
    return {f"{prefix}-id": message_id, f"{prefix}-timestamp": stamp, f"{prefix}-signature": signature}


def verify(
    given: Mapping[str, str],
    body: bytes = BODY,
    *,
    keys: tuple[bytes, ...] = (KEY,),
    public_keys: tuple[Ed25519PublicKey, ...] = (),
    now: datetime = NOW,
    tolerance: float = 300.0,
) -> str:
    return signatures.standard_webhooks(given, body, keys=keys, public_keys=public_keys, now=now, tolerance=tolerance)


def refused(given: Mapping[str, str], body: bytes = BODY, **options: object) -> Refused:
    with pytest.raises(Refused) as caught:
        verify(given, body, **options)  # type: ignore[arg-type]  # the options of `verify`, passed on
    return caught.value


# Published vectors


@pytest.mark.parametrize("prefix", ["webhook", "svix"])
def test_published_vector_of_standard_webhooks(prefix: str) -> None:
    """the published vector is accepted under both spellings of the headers, and its id is returned"""
    assert verify(headers(prefix=prefix)) == ID
    assert signer.sign(SECRET, ID, STAMP, BODY) == V1


def test_published_vector_of_svix_documents() -> None:
    """the vector of Svix's page on verifying by hand is accepted"""
    given = {
        "svix-id": "msg_loFOjxBNrRLzqYUf",
        "svix-timestamp": "1731705121",
        "svix-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    }
    key = signatures.standard_webhooks_key("whsec_plJ3nmyCDGBKInavdOK15jsl")
    now = datetime.fromtimestamp(1731705121, UTC)
    assert verify(given, b'{"event_type":"ping","data":{"success":true}}', keys=(key,), now=now)


def test_published_vector_of_ed25519() -> None:
    """the published `v1a` vector is accepted with the public key, and our signer makes the same signature"""
    assert verify(headers(V1A), keys=(), public_keys=(PUBLIC_KEY,)) == ID
    assert signer.sign(PRIVATE, ID, STAMP, BODY) == V1A
    seed = b64encode(b64decode(PRIVATE.removeprefix("whsk_"))[:32]).decode()
    assert signer.sign(f"whsk_{seed}", ID, STAMP, BODY) == V1A


def test_published_vector_of_ecdsa() -> None:
    """the signature in SendGrid's own library fits its key and text, and no other text"""
    key = load_der_public_key(
        b64decode(
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcw"
            "HBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA=="
        )
    )
    assert isinstance(key, EllipticCurvePublicKey)
    signature = b64decode(
        "MEUCIQCtIHJeH93Y+qpYeWrySphQgpNGNr/U+UyUlBkU6n7RAwIgJTz2C+8a8xonZGi6BpSzoQsbVRamr2nlxFDWYNH2j/0="
    )
    signed = b'1588788367{"category":"example_payload","event":"test_event","message_id":"message_id"}'
    assert signatures.ecdsa_match(key, signature, signed)
    assert not signatures.ecdsa_match(key, signature, signed + b"\r\n")
    for damaged in (b"", b"\x30", signature[:-1], signature + b"\0", b"\xff" * 70, signature[::-1]):
        assert not signatures.ecdsa_match(key, damaged, signed)


def test_ecdsa_signer_and_verifier() -> None:
    """what our signer signs with a fresh key fits that key alone"""
    (private, public), (_, other) = ecdsa.new_key_pair(), ecdsa.new_key_pair()
    signature = b64decode(ecdsa.sign(private, b"text"))
    found = []
    for text in (public, other):
        key = load_der_public_key(b64decode(text))
        assert isinstance(key, EllipticCurvePublicKey)
        found.append(signatures.ecdsa_match(key, signature, b"text"))
    assert found == [True, False]


# Independent packages


@pytest.mark.parametrize("package", [svix.webhooks.Webhook, standardwebhooks.webhooks.Webhook])
def test_packages_sign_for_us(package: type[svix.webhooks.Webhook]) -> None:
    """what svix and standardwebhooks sign is accepted, with any text in id and body"""
    secret = signer.new_secret()
    now = datetime.now(UTC)
    for message_id, body in (("msg_1", "{}"), ("a.b.c", '{"ü": "\\u0000 ☃"}'), ("msg 2", "")):
        signature = package(secret).sign(message_id, now, body)
        given = headers(signature, message_id=message_id, stamp=str(int(now.timestamp())))
        assert verify(given, body.encode(), keys=(signatures.standard_webhooks_key(secret),), now=now) == message_id


@pytest.mark.parametrize("prefix", ["webhook", "svix"])
def test_packages_accept_our_signer(prefix: str) -> None:
    """what our signer signs is accepted by svix, and by standardwebhooks under its own spelling"""
    old, new = signer.new_secret(), signer.new_secret()
    body = '{"type":"email.clicked","data":{"name":"Ünal"}}'.encode()
    given = signer.signed_headers([old, new], "msg_3", int(datetime.now(UTC).timestamp()), body, prefix=prefix)
    for secret in (old, new):
        svix.webhooks.Webhook(secret).verify(body, given)
        if prefix == "webhook":
            standardwebhooks.webhooks.Webhook(secret).verify(body, given)
    with pytest.raises(Exception, match="No matching signature found"):
        svix.webhooks.Webhook(signer.new_secret()).verify(body, given)


def test_signers_are_written_apart() -> None:
    """the simulator's signing code does not load the verifiers"""
    code = (
        "import sys, receiver.signers.standard_webhooks, receiver.signers.ecdsa;"
        "sys.exit('receiver.signatures' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Tricks with the signature header

TRICKS: Final[Mapping[str, str]] = {
    "nothing behind the version": "v1,",
    "version alone": "v1",
    "comma alone": ",",
    "no version": DIGEST,
    "empty version": f",{DIGEST}",
    "several empty ones": "v1, v1, v1,",
    "first byte only": "v1," + b64encode(b64decode(DIGEST)[:1]).decode(),
    "cut to half the bytes": "v1," + b64encode(b64decode(DIGEST)[:16]).decode(),
    "cut by one byte": "v1," + b64encode(b64decode(DIGEST)[:-1]).decode(),
    "longer by one byte": "v1," + b64encode(b64decode(DIGEST) + b"\0").decode(),
    "twice": "v1," + b64encode(b64decode(DIGEST) * 2).decode(),
    "without its padding": V1.rstrip("="),
    "with more padding": V1 + "=",
    "text behind the padding": V1 + "AAAA",
    "no base64": "v1,%%%",
    "url-safe alphabet": "v1," + DIGEST.replace("+", "-").replace("/", "_"),
    "hexadecimal": "v1," + b64decode(DIGEST).hex(),
    "line break inside": V1[:20] + "\n" + V1[20:],
    "blank inside": V1[:20] + " " + V1[20:],
    "upper case version": "V1," + DIGEST,
    "later version": "v2," + DIGEST,
    "the digest as another kind": "v1a," + DIGEST,
    "version as a prefix": "v1b," + DIGEST,
    "blank behind the comma": "v1, " + DIGEST,
    "equals sign": "v1=" + DIGEST,
    "comma between signatures": f"v1,AAAA,{V1}",
    "other digest": "v1," + b64encode(bytes(32)).decode(),
    "letters beyond ASCII": "v1,é" + DIGEST[1:],
    "letters beyond Latin-1": "v1,☃" + DIGEST[1:],
    "a lone surrogate": "v1,\udc80" + DIGEST[1:],
    "a NUL character": V1 + "\0",
    "digits of another script": V1.replace("0", "\u0660"),
    "too many decoys before": "v1,AAAA " * 20 + V1,
    "too long": V1 + " v1,AAAA" * 600,
}


@pytest.mark.parametrize("signature", TRICKS.values(), ids=TRICKS.keys())
def test_malformed_signature_headers(signature: str) -> None:
    """no empty, cut, lengthened, misspelt or overlong signature passes, and none is another error than a refusal"""
    assert refused(headers(signature)).reason in {Reason.WRONG_KEY, Reason.MALFORMED_HEADER}
    assert not refused(headers(signature), keys=(), public_keys=(PUBLIC_KEY,)).authentic


@pytest.mark.parametrize("signature", TRICKS.values(), ids=TRICKS.keys())
def test_malformed_ed25519_signatures(signature: str) -> None:
    """the same tricks with `v1a` are refused where a public key is configured"""
    damaged = signature.replace(DIGEST, V1A.removeprefix("v1a,")[::-1]).replace("v1,", "v1a,")
    refused(headers(damaged), keys=(), public_keys=(PUBLIC_KEY,))


# The encodings of the eight points of small order, without the sign (RFC 8032, section 5.1; RFC 7748, section 7).
SMALL_ORDER: Final = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)


@pytest.mark.parametrize("point", SMALL_ORDER)
@pytest.mark.parametrize("sign", [0, 0x80])
def test_keys_of_small_order(point: str, sign: int) -> None:
    """a public key under which everybody can sign, such as one of zeros, is no key"""
    value = bytearray.fromhex(point)
    value[31] |= sign
    with pytest.raises(ValueError, match="everybody"):
        signatures.ed25519_key(b64encode(value).decode())


def test_several_signatures() -> None:
    """one right signature among wrong ones, of unknown versions and of other keys, is enough"""
    decoys = "v1,AAAA v2,BBBB v1 , v1a,CCCC v1,%%%"
    for several in (f"{decoys} {V1}", f"{V1} {decoys}", f"  {V1}  ", f"{V1A} {V1}"):
        assert verify(headers(several)) == ID
    assert verify(headers(f"{V1} {V1A}"), keys=(bytes(32),), public_keys=(PUBLIC_KEY,)) == ID


def test_a_signature_without_a_version() -> None:
    """counts only where the sender is known to write it so, and beside the others"""
    options: dict[str, Any] = {"keys": (KEY,), "now": NOW}
    for signature in (DIGEST, f"AAAA {DIGEST}", V1):
        assert signatures.standard_webhooks(headers(signature), BODY, bare=True, **options) == ID
    assert refused(headers(DIGEST)).reason is Reason.WRONG_KEY
    with pytest.raises(Refused):
        signatures.standard_webhooks(headers(f",{DIGEST}"), BODY, bare=True, **options)


def test_a_wide_tolerance_is_for_the_past_alone() -> None:
    """however old a signature may be, one from the future is refused beyond five minutes"""
    day = 86400.0
    assert verify(headers(), now=NOW + timedelta(hours=23), tolerance=day) == ID
    error = refused(headers(), now=NOW - timedelta(seconds=301), tolerance=day)
    assert (error.reason, error.authentic) == (Reason.FUTURE, True)


def test_every_live_key_is_tried() -> None:
    """a signature of any of the live secrets is accepted, whatever their order; without secrets nothing is"""
    other = signatures.standard_webhooks_key(signer.new_secret())
    assert verify(headers(), keys=(other, KEY)) == verify(headers(), keys=(KEY, other)) == ID
    other_public = Ed25519PublicKey.from_public_bytes(b64decode(signer.new_key_pair()[1].removeprefix("whpk_")))
    assert verify(headers(V1A), keys=(), public_keys=(other_public, PUBLIC_KEY)) == ID
    for keys in ((), (other,)):
        assert refused(headers(), keys=keys).reason is Reason.WRONG_KEY
    refused(headers(V1A), keys=(), public_keys=(other_public,))


def test_all_pairs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """every pair of key and signature is compared in constant time, also behind the one that fits"""
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    digest = hmac.digest(b"key 1", b"text", "sha256")
    assert signatures.any_hmac([b"key 1", b"key 2"], b"text", [digest, b"other", b""])
    assert len(compared) == 6


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", [None, "", "  ", "\t"])
def test_missing_headers(name: str, value: str | None) -> None:
    """a header that is missing or empty is refused by its name"""
    given = {key: member for key, member in headers().items() if key != name} | ({} if value is None else {name: value})
    error = refused(given)
    assert error.reason is Reason.MISSING_HEADER
    assert name in error.detail
    assert not error.authentic


def test_headers_of_two_spellings_do_not_mix() -> None:
    """half of the proof in one spelling and half in the other is refused"""
    mixed = headers() | headers(prefix="svix")
    assert verify(mixed) == ID
    del mixed["webhook-signature"]
    assert refused(mixed).reason is Reason.MISSING_HEADER


@pytest.mark.parametrize("message_id", ["", "msg_other", ID + "x", ID[:-1], "☃", "\udc80", "x" * 5000, f"{ID}.{STAMP}"])
def test_other_ids(message_id: str) -> None:
    """the id is covered: another one is refused, whatever characters it has"""
    refused(headers(message_id=message_id))


@pytest.mark.parametrize("message_id", ["", "  ", "x" * 5000])
def test_ids_that_are_none(message_id: str) -> None:
    """an id that is empty, blank or absurdly long is refused by its name, though the sender has signed it"""
    given = headers(signer.sign(SECRET, message_id, STAMP, BODY), message_id=message_id)
    error = refused(given)
    assert error.reason in {Reason.MISSING_HEADER, Reason.MALFORMED_HEADER}
    assert "webhook-id" in error.detail


@pytest.mark.parametrize("stamp", ["", "  "])
def test_times_that_are_none(stamp: str) -> None:
    """a time that is empty or blank is refused as missing, though the sender has signed it"""
    signature = "v1," + b64encode(hmac.digest(KEY, f"{ID}.{stamp}.".encode() + BODY, "sha256")).decode()
    error = refused(headers(signature, stamp=stamp))
    assert error.reason is Reason.MISSING_HEADER
    assert "webhook-timestamp" in error.detail


def test_ids_of_any_header_characters() -> None:
    """an id beyond ASCII is signed as the bytes that the header carried"""
    carried = "msg_ü".encode()
    signature = "v1," + b64encode(hmac.digest(KEY, carried + b".%d." % STAMP + BODY, "sha256")).decode()
    assert verify(headers(signature, message_id=carried.decode("latin-1"))) == carried.decode("latin-1")


def test_shifted_boundaries() -> None:
    """the same signed bytes cut elsewhere into id, time and body never pass as a JSON body with a fresh time"""
    body = f"{STAMP}.".encode() + BODY
    signed = signer.sign(SECRET, ID, STAMP, body)
    assert verify(headers(signed, message_id=f"{ID}.{STAMP}"), BODY) == f"{ID}.{STAMP}"  # bytes a sender did sign
    for message_id, stamp, rest in ((ID, f"{STAMP}.", BODY), (ID[:3], ID[4:], BODY), (f"{ID}.", "", BODY)):
        refused(headers(message_id=message_id, stamp=stamp), rest)


# Times


ODD_TIMES: Final = (
    *("-1", "+1614265330", "1614265330.0", "1.6e9", " 1614265330", "1614265330 ", "0x60", "1_614_265_330"),
    *("١٦١٤٢٦٥٣٣٠", "²", "NaN", "inf", "9" * 13, "9" * 5000, "1614265330\n", "soon", "\0"),
)


@pytest.mark.parametrize("stamp", ODD_TIMES)
def test_odd_times(stamp: str) -> None:
    """a time that is not plain digits is refused as malformed, not read by guesswork"""
    assert refused(headers(stamp=stamp)).reason is Reason.MALFORMED_HEADER


def test_other_times_are_covered() -> None:
    """a changed time is refused even if it is fresh: the signature covers it"""
    assert refused(headers(stamp=str(STAMP + 1))).reason is Reason.WRONG_KEY
    assert refused(headers(stamp="0" + str(STAMP))).reason is Reason.WRONG_KEY


@pytest.mark.parametrize(("seconds", "reason"), [(301, Reason.STALE), (-301, Reason.FUTURE), (10**9, Reason.STALE)])
def test_stale_and_future(seconds: int, reason: Reason) -> None:
    """a right signature of another time is refused as authentic, so that it is kept"""
    error = refused(headers(), now=NOW + timedelta(seconds=seconds))
    assert (error.reason, error.authentic) == (reason, True)
    wrong = refused(headers("v1,AAAA"), now=NOW + timedelta(seconds=seconds))
    assert (wrong.reason, wrong.authentic) == (Reason.WRONG_KEY, False)


@pytest.mark.parametrize("seconds", [-300, -299, 0, 299, 300])
def test_within_the_window(seconds: int) -> None:
    """a time within the window is accepted, both ways, its edge included"""
    assert verify(headers(), now=NOW + timedelta(seconds=seconds)) == ID


def test_check_time_without_bound() -> None:
    """where nothing bounds the age any past time will do, but none far ahead"""
    signatures.check_time(0, NOW, past=None)
    with pytest.raises(Refused):
        signatures.check_time(NOW.timestamp() + 301, NOW, past=None)


# Bodies


@pytest.mark.parametrize(
    "body", [b"", BODY + b"\n", b"\xef\xbb\xbf" + BODY, BODY.replace(b" ", b""), BODY[:-1], b"\xff", BODY * 2]
)
def test_changed_bodies(body: bytes) -> None:
    """the raw bytes are covered: a line break, a byte order mark or other spacing is another body"""
    assert refused(headers(), body).reason is Reason.WRONG_KEY


# Secrets


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
def test_secrets_with_and_without_prefix(secret: str) -> None:
    """a secret may be written without its prefix"""
    assert signatures.standard_webhooks_key(secret) == KEY


def test_secrets_without_padding() -> None:
    """base64 padding that was lost in copying is restored"""
    assert signatures.standard_webhooks_key("whsec_YWI") == b"ab"


@pytest.mark.parametrize("secret", ["whsec_a", "whsec_%%%%", "whsec_é", "whsec_ab cd", "a" * 5])
def test_secrets_that_are_no_base64(secret: str) -> None:
    """a secret that is no base64 is an error at start, not a key by accident"""
    with pytest.raises(ValueError):  # noqa: PT011  # the message is Python's own
        signatures.standard_webhooks_key(secret)


# Anything at all

ANY_TEXT: Final = st.text(st.characters(), max_size=60) | st.sampled_from([V1, V1A, ID, str(STAMP), "v1,", ""])


def outcome(attempt: Callable[[], T]) -> T | Refused:
    """What came out, if nothing but a refusal was raised."""
    try:
        return attempt()
    except Refused as error:
        return error


@given(st.dictionaries(st.sampled_from([*headers(), *headers(prefix="svix")]), ANY_TEXT), st.binary(max_size=40))
def test_any_headers(given_headers: dict[str, str], body: bytes) -> None:
    """whatever stands in the headers is refused, unless it is the published vector; no other error comes out"""
    found = outcome(lambda: verify(given_headers, body, public_keys=(PUBLIC_KEY,)))
    assert found == ID if body == BODY and found == ID else isinstance(found, Refused) and not found.authentic


@given(st.text(max_size=40) | st.sampled_from(["Basic Og==", "basic YTpi", "Basic YTpi", "Bearer YTpi", "Basic"]))
def test_any_basic_credentials(value: str) -> None:
    """whatever stands in Authorization is credentials or a refusal that asks to try again"""
    found = outcome(lambda: signatures.basic_credentials({"authorization": value}))
    assert found.again if isinstance(found, Refused) else value.strip().lower().startswith("basic")


@pytest.mark.parametrize(
    ("user", "password", "right"),
    [
        ("hook", "old-password", True),
        ("hook", "new-password", True),
        ("hook", "old-passwor", False),
        ("hook", "old-password2", False),
        ("hook", "", False),
        ("Hook", "old-password", False),
        ("", "", False),
        ("hook", "new:password", False),
        ("höök", "old-password", False),
    ],
)
def test_basic_credentials(user: str, password: str, right: bool) -> None:  # noqa: FBT001  # a column of the table
    """user and one of the live passwords must be the same, byte for byte"""
    given_headers = {"authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}
    found = outcome(lambda: signatures.check_basic(given_headers, "hook", ["old-password", "new-password"]))
    assert (found is None) is right
    if isinstance(found, Refused):
        assert found.reason is Reason.WRONG_CREDENTIALS
        assert not password or password not in found.detail


def test_basic_passwords_may_have_colons() -> None:
    """only the first colon parts user and password"""
    given_headers = {"authorization": "Basic " + b64encode(b"hook:a:b:c").decode()}
    assert signatures.basic_credentials(given_headers) == (b"hook", b"a:b:c")


@pytest.mark.parametrize("value", ["", "=", "a", "YQ", "YQ=", "YQ==\n", "Y Q==", "YQ==YQ==", "é", "-_-_", "\0"])
def test_unbase64_is_strict(value: str) -> None:
    """base64 with blanks, missing padding or another alphabet is refused, not repaired"""
    if value == "":
        assert signatures.unbase64(value, "x") == b""
        return
    with pytest.raises(Refused) as caught:
        signatures.unbase64(value, "x")
    assert caught.value.reason is Reason.MALFORMED_HEADER


def test_header_prefers_the_first_name() -> None:
    """the first of several spellings that is there counts, also when it is empty"""
    assert signatures.header({"b": "2"}, "a", "b") == "2"
    assert signatures.header({"a": "1", "b": "2"}, "a", "b") == "1"
    with pytest.raises(Refused):
        signatures.header({"a": " ", "b": "2"}, "a", "b")
