"""SNS's proof: topics, signatures, certificates and where they may come from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from receiver import sns
from receiver.contract import Answer, Authentic, Delivery, World
from receiver.errors import Reason, Refused, Unavailable
from receiver.providers.ses import Ses, SesSettings
from receiver.providers.ses_raw import SesRaw, SesRawSettings
from receiver.signers import sns as signer
from receiver.signers.credentials import basic
from receiver.sns_certificates import FORGET_FAILURE, MAX_FAILED, Certificates, load_certificates, public_roots

NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
TOPIC: Final = signer.SAMPLE_TOPIC
URL: Final = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
ISSUER_URL: Final = "http://crt.r2m01.amazontrust.com/r2m01.cer"
RECORDED: Final = Path(__file__).parent / "fixtures" / "providers" / "ses" / "moto.json"


class Web:
    """What the service may fetch; it notes every call, and knows only what it was given."""

    def __init__(self, **pages: bytes) -> None:
        self.pages: dict[str, bytes | Exception] = dict(pages)
        self.calls: list[str] = []
        self.called = asyncio.Event()
        self.gate: asyncio.Event | None = None

    async def fetch(self, url: str, *, max_bytes: int = 65536) -> bytes:
        self.calls.append(url)
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        page = self.pages.get(url, Unavailable("not found"))
        if isinstance(page, Exception):
            raise page
        assert len(page) <= max_bytes
        return page


class Authority:
    """A root, an intermediate that it signed, and leaves for whatever name."""

    def __init__(self) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._middle_key = ec.generate_private_key(ec.SECP256R1())
        root, middle = _name("Root"), _name("Intermediate")
        self.root = _issue(root, self._root_key.public_key(), root, self._root_key, ca=True)
        self.middle = _issue(middle, self._middle_key.public_key(), root, self._root_key, ca=True)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def private_key(self) -> str:
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()

    def leaf(self, *names: str, key: Any = None, until: datetime = NOW + timedelta(days=90)) -> x509.Certificate:
        issuer = self.middle.subject
        public = (key or self.key).public_key()
        return _issue(x509.Name([]), public, issuer, self._middle_key, names=names, until=until)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _issue(
    subject: x509.Name,
    public: Any,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = False,
    names: Sequence[str] = (),
    until: datetime = NOW + timedelta(days=900),
) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(NOW - timedelta(days=400))
    builder = builder.not_valid_after(until)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(authority, critical=False)
    if ca:
        usage = x509.KeyUsage(**{name: name in {"key_cert_sign", "crl_sign"} for name in _USAGES})
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    else:
        access = x509.AccessDescription(
            AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(ISSUER_URL)
        )
        builder = builder.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternatives, critical=True)
    return builder.sign(key, hashes.SHA256())


_USAGES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def web(authority: Authority) -> Web:
    found = Web()
    found.pages = {URL: pem(authority.leaf("sns.amazonaws.com")), ISSUER_URL: der(authority.middle)}
    return found


def certificates(web: Web, authority: Authority, now: Callable[[], datetime] = lambda: NOW) -> Certificates:
    return Certificates(web.fetch, now, lambda: [authority.root])


def source(web: Web, authority: Authority, **settings: Any) -> Ses:
    """A source that fetches certificates, and trusts the test's own root."""
    made = SesSettings.model_validate({"provider": "ses", "topics": [TOPIC], **settings})
    provider = Ses(made, World(fetch=web.fetch, now=lambda: NOW))
    provider._topics._certificates = certificates(web, authority)
    return provider


def delivery(message: dict[str, str], **headers: str) -> Delivery:
    return Delivery(source="ses", headers=signer.headers_of(message) | headers, body=signer.body_of(message), at=NOW)


async def post(provider: Ses, message: dict[str, str], **headers: str) -> Authentic:
    return await provider.authenticate(delivery(message, **headers))


async def refusal(provider: Ses, message: dict[str, str], **headers: str) -> Refused:
    with pytest.raises(Refused) as caught:
        await post(provider, message, **headers)
    return caught.value


def notification(authority: Authority, **changed: str) -> dict[str, str]:
    return signer.sign(signer.notification("{}", NOW) | changed, authority.private_key)


def confirmation(authority: Authority, *, leave: bool = False, **changed: str) -> dict[str, str]:
    return signer.sign(signer.confirmation(NOW, leave=leave) | changed, authority.private_key)


# Topics, and what follows from them.


@pytest.mark.parametrize(
    ("arn", "host", "names"),
    [
        (
            "arn:aws:sns:us-east-1:123456789012:events",
            "sns.us-east-1.amazonaws.com",
            {"sns.amazonaws.com", "sns.us-east-1.amazonaws.com"},
        ),
        (
            "arn:aws:sns:ap-southeast-3:123456789012:events",
            "sns.ap-southeast-3.amazonaws.com",
            {"sns-signing.ap-southeast-3.amazonaws.com"},
        ),
        (
            "arn:aws-cn:sns:cn-north-1:123456789012:events",
            "sns.cn-north-1.amazonaws.com.cn",
            {"sns-cn-north-1.amazonaws.com.cn"},
        ),
        (
            "arn:aws-us-gov:sns:us-gov-east-1:123456789012:events",
            "sns.us-gov-east-1.amazonaws.com",
            {"sns-us-gov-west-1.amazonaws.com"},
        ),
        (
            "arn:aws-eusc:sns:eusc-de-east-1:123456789012:events",
            "sns.eusc-de-east-1.amazonaws.eu",
            {"sns-signing.eusc-de-east-1.amazonaws.eu"},
        ),
    ],
)
def test_host_and_names_follow_from_the_topic(arn: str, host: str, names: set[str]) -> None:
    """region and partition of a topic give its endpoint and the names its certificates may bear"""
    topic = sns.topic_of(arn)
    assert topic is not None
    assert topic.certificate_names is not None
    assert topic.host == host
    assert names <= topic.certificate_names
    assert not any(name.startswith("sns.s3") for name in topic.certificate_names)


@pytest.mark.parametrize(
    "arn",
    [
        "",
        "*",
        "arn:aws:sns:us-east-1:123456789012:",
        "arn:aws:sns:us-east-1:123456789012:a:b",
        "arn:aws:sns:us-east-1:123456789012:*",
        "arn:aws:sns:us-east-1:12345:events",
        "arn:aws:sns:s3-us-east-1:123456789012:events",
        "arn:aws:sns:us-east-1.evil.example:123456789012:events",
        "arn:aws:sns:us-east-1/x:123456789012:events",
        "arn:aws:sqs:us-east-1:123456789012:events",
        "arn:aws-new:sns:us-east-1:123456789012:events",
        "arn:aws:sns:us-east-1:123456789012:events\n",
        " arn:aws:sns:us-east-1:123456789012:events",
        "ARN:aws:sns:us-east-1:123456789012:events",
    ],
)
def test_what_is_no_topic(arn: str) -> None:
    """an ARN that is not exactly a topic of a known partition is none"""
    assert sns.topic_of(arn) is None


TRICKS: Final = [
    "http://sns.us-east-1.amazonaws.com/{file}",
    "HTTPS://sns.us-east-1.amazonaws.com/{file}",
    "https://SNS.us-east-1.amazonaws.com/{file}",
    "https://sns.us-east-1.amazonaws.com.evil.example/{file}",
    "https://evil.example/sns.us-east-1.amazonaws.com/{file}",
    "https://sns.us-east-1.amazonaws.com@evil.example/{file}",
    "https://sns.us-east-1.amazonaws.com:443/{file}",
    "https://sns.us-east-1.amazonaws.com:8443/{file}",
    "https://user@sns.us-east-1.amazonaws.com/{file}",
    "https://user:pass@sns.us-east-1.amazonaws.com/{file}",
    "https://evil.example#sns.us-east-1.amazonaws.com/{file}",
    "https://evil.example?sns.us-east-1.amazonaws.com/{file}",
    "https://evil.example\\@sns.us-east-1.amazonaws.com/{file}",
    "https://sns.us-east-1.amazonaws.com\\@evil.example/{file}",
    "https://sns.s3-us-east-1.amazonaws.com/{file}",
    "https://sns.s3.us-east-1.amazonaws.com/{file}",
    "https://sns.us-east-1.s3.amazonaws.com/{file}",
    "https://s3.amazonaws.com/sns/{file}",
    "https://sns.execute-api.us-east-1.amazonaws.com/{file}",
    "https://sns.us-west-2.amazonaws.com/{file}",
    "https://sns.us-east-1.amazonaws.com.cn/{file}",
    "https://sns.us-east-1.amazonaws.eu/{file}",
    "https://sns.amazonaws.com/{file}",
    "https://sns-us-east-1.amazonaws.com/{file}",
    "https://sns.us-east-1.amazonaws.com./{file}",
    "https://sns%2eus-east-1.amazonaws.com/{file}",
    "https://sns.us-east-1.amazonaws.com/{file}?x=1",
    "https://sns.us-east-1.amazonaws.com/{file}#x",
    "https://sns.us-east-1.amazonaws.com/{file}\n",
    "https://sns.us-east-1.amazonaws.com/{file}\r\nHost: evil.example",
    "https://sns.us-east-1.amazonaws.com\n.evil.example/{file}",
    " https://sns.us-east-1.amazonaws.com/{file}",
    "https://sns.us-east-1.amazonaws.com//{file}",
    "https://sns.us-east-1.amazonaws.com/../{file}",
    "https://sns.us-east-1.amazonaws.com/x/{file}",
    "https://sns.us-east-1.amazonaws.com/",
    "https://sns.us-east-1.amazonaws.com/SimpleNotificationService.pem",
    "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.txt",
    "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789ABCDEF0123456789ABCDEF.pem",
    "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem.pem",
    "https://sns.us-east-1.amazonaws.com/?Action=GetTopic&x={file}",
    "//sns.us-east-1.amazonaws.com/{file}",
    "file:///{file}",
    "",
]


@pytest.mark.parametrize("trick", TRICKS)
async def test_trick_hosts_are_refused_and_nothing_is_fetched(trick: str, web: Web, authority: Authority) -> None:
    """a certificate's URL that is not exactly SNS's own in the topic's region is refused for good, uncalled"""
    url = trick.format(file="SimpleNotificationService-0123456789abcdef0123456789abcdef.pem")
    provider = source(web, authority)
    for spelling in ("SigningCertURL", "SigningCertUrl"):
        message = notification(authority)
        del message["SigningCertURL"]
        error = await refusal(provider, message | {spelling: url})
        assert (error.reason, error.again) == (Reason.CERTIFICATE, False)
        error = await refusal(provider, confirmation(authority) | {spelling: url, "SigningCertURL": url})
        assert error.reason is Reason.CERTIFICATE
    assert web.calls == []


async def test_unknown_topics_come_first(web: Web, authority: Authority) -> None:
    """a rightly signed message of another's topic is refused before anything is fetched, and may come again"""
    other = "arn:aws:sns:us-east-1:210987654321:ses-events"
    message = signer.sign(signer.notification("{}", NOW, topic=other), authority.private_key)
    error = await refusal(source(web, authority), message)
    assert (error.reason, error.again, web.calls) == (Reason.UNKNOWN_TOPIC, True, [])
    assert other in error.detail
    # The headers are a stranger's hint and decide nothing.
    error = await refusal(source(web, authority), message, **{"x-amz-sns-topic-arn": TOPIC})
    assert error.reason is Reason.UNKNOWN_TOPIC


async def test_a_strangers_topic_is_not_quoted(web: Web, authority: Authority) -> None:
    """what is not even an ARN does not get into the refusal's text"""
    error = await refusal(source(web, authority), notification(authority) | {"TopicArn": "\x1b[31mred"})
    assert error.reason is Reason.UNKNOWN_TOPIC
    assert "red" not in error.detail


# Signatures.


@pytest.mark.parametrize("version", ["1", "2"])
async def test_both_signature_versions(version: str, web: Web, authority: Authority) -> None:
    """SHA-1 (version 1, SNS's default) and SHA-256 (version 2) are both verified"""
    message = notification(authority, SignatureVersion=version)
    assert (await post(source(web, authority), message)).payload["Message"] == "{}"
    other = {"1": "2", "2": "1"}[version]
    error = await refusal(source(web, authority), message | {"SignatureVersion": other})
    assert (error.reason, error.again) == (Reason.WRONG_KEY, False)


def test_a_message_signed_by_another_implementation() -> None:
    """what moto 5.2.1 signed is accepted, with its certificate's key and no other"""
    recorded = json.loads(RECORDED.read_text())
    envelope = sns.envelope_of(json.dumps(recorded["message"]).encode())
    key = load_certificates(recorded["certificate"].encode())[0].public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    sns.check(sns.proof_of(envelope), [key])
    with pytest.raises(Refused):
        sns.check(sns.proof_of(envelope | {"Message": envelope["Message"] + " "}), [key])
    with pytest.raises(Refused):
        sns.check(sns.proof_of(envelope), [])


def test_the_signed_text_by_the_letter() -> None:
    """the bytes that are signed are the documented fields, each as name and value on a line of its own"""
    message = signer.notification("first\nsecond é", NOW)
    message |= {"Subject": "a subject"}
    assert sns.signed_text(message).decode() == (
        f"Message\nfirst\nsecond é\nMessageId\n{message['MessageId']}\nSubject\na subject\n"
        f"Timestamp\n2026-11-20T12:00:00.000Z\nTopicArn\n{TOPIC}\nType\nNotification\n"
    )
    message = signer.confirmation(NOW)
    assert sns.signed_text(message).decode() == (
        f"Message\n{message['Message']}\nMessageId\n{message['MessageId']}\nSubscribeURL\n{message['SubscribeURL']}\n"
        f"Timestamp\n2026-11-20T12:00:00.000Z\nToken\n{message['Token']}\nTopicArn\n{TOPIC}\n"
        "Type\nSubscriptionConfirmation\n"
    )


async def test_subjects_that_are_null_are_not_signed(web: Web, authority: Authority) -> None:
    """`Subject: null` counts as no subject, an empty one as a subject"""
    unsigned = signer.notification("{}", NOW)
    del unsigned["Subject"]
    signed = signer.sign(unsigned, authority.private_key)
    provider = source(web, authority)
    body = json.dumps(signed | {"Subject": None}).encode()
    await provider.authenticate(Delivery(source="ses", headers={}, body=body))
    assert (await refusal(provider, signed | {"Subject": ""})).reason is Reason.WRONG_KEY
    await post(provider, signer.sign(unsigned | {"Subject": ""}, authority.private_key))


@pytest.mark.parametrize("field", ["Message", "MessageId", "Subject", "Timestamp", "Type", "Signature"])
async def test_changed_fields_are_refused(field: str, web: Web, authority: Authority) -> None:
    """each signed field counts"""
    message = notification(authority)
    changed = message[field][:-3] + ("AAA" if not message[field].endswith("AAA") else "BBB")
    error = await refusal(source(web, authority), message | {field: changed})
    assert not error.again


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"not JSON",
        b"\xff\xfe",
        b'{"Type":"Notification"}',
        b'{"Type":["Notification"]}',
        b'{"Type":"Other"}',
        b"[" * 100_000,
    ],
)
async def test_bodies_that_are_no_messages(body: bytes, web: Web, authority: Authority) -> None:
    """a body that is no SNS message is refused, with no other exception"""
    with pytest.raises(Refused) as caught:
        await source(web, authority).authenticate(Delivery(source="ses", headers={}, body=body))
    assert caught.value.reason is Reason.MISSING_FIELD
    assert web.calls == []


@pytest.mark.parametrize("field", ["Message", "MessageId", "Timestamp", "TopicArn", "Type", "Signature"])
@pytest.mark.parametrize("value", [None, 7, ["x"], {"x": 1}, True])
async def test_fields_of_another_kind(field: str, value: object, web: Web, authority: Authority) -> None:
    """a field that is no text counts as missing"""
    body = json.dumps({**notification(authority), field: value}).encode()
    with pytest.raises(Refused) as caught:
        await source(web, authority).authenticate(Delivery(source="ses", headers={}, body=body))
    assert caught.value.reason is Reason.MISSING_FIELD


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-amz-sns-rawdelivery": "true"}, b'{"eventType":"Send","mail":{}}'),
        ({}, b'{"eventType":"Send","mail":{}}'),
        ({}, b'{"notificationType":"Bounce","bounce":{}}'),
    ],
)
async def test_raw_deliveries_say_what_to_do(
    headers: dict[str, str], body: bytes, web: Web, authority: Authority
) -> None:
    """an unsigned raw delivery is refused with the setting's name, to come again when that is mended"""
    with pytest.raises(Refused, match="raw message delivery is on") as caught:
        await source(web, authority).authenticate(Delivery(source="ses", headers=headers, body=body))
    assert caught.value.again


# Age.


async def test_no_window_by_default(web: Web, authority: Authority) -> None:
    """SNS's time is that of publishing, so that a late retry is accepted"""
    old = notification(authority, Timestamp="2026-11-10T12:00:00.000Z")
    await post(source(web, authority), old)


async def test_a_configured_window(web: Web, authority: Authority) -> None:
    """`tolerance` makes a window; what is outside of it is authentic but stale"""
    provider = source(web, authority, tolerance=3600.0)
    await post(provider, notification(authority, Timestamp="2026-11-20T11:00:01.000Z"))
    error = await refusal(provider, notification(authority, Timestamp="2026-11-20T10:59:59.000Z"))
    assert (error.reason, error.authentic) == (Reason.STALE, True)
    error = await refusal(provider, notification(authority, Timestamp="2026-11-20T12:05:01.000Z"))
    assert error.reason is Reason.FUTURE
    error = await refusal(provider, notification(authority, Timestamp="lately"))
    assert error.reason is Reason.MISSING_FIELD


# Certificates.


async def test_the_issuer_is_fetched_once(web: Web, authority: Authority) -> None:
    """certificate and issuer are fetched for the first message and kept for the others"""
    provider = source(web, authority)
    for _ in range(3):
        await post(provider, notification(authority))
    assert web.calls == [URL, ISSUER_URL]


async def test_a_chain_in_one_file(web: Web, authority: Authority) -> None:
    """nothing more is fetched where the file brings its issuer along"""
    web.pages[URL] = pem(authority.leaf("sns.amazonaws.com")) + pem(authority.middle)
    await post(source(web, authority), notification(authority))
    assert web.calls == [URL]


async def test_fifty_at_once_fetch_once(web: Web, authority: Authority) -> None:
    """messages that wait for the same certificate share one fetch, and a caller that leaves does not end it"""
    web.gate = asyncio.Event()
    provider = source(web, authority)
    message = notification(authority)
    waiting = [asyncio.ensure_future(post(provider, message)) for _ in range(50)]
    await asyncio.wait_for(web.called.wait(), 5)
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    web.gate.set()
    await asyncio.gather(*waiting[1:])
    assert web.calls == [URL, ISSUER_URL]
    assert waiting[0].cancelled()


@pytest.mark.parametrize(
    "page",
    [Unavailable("away"), b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"],
)
async def test_certificates_that_cannot_be_had(page: bytes | Exception, web: Web, authority: Authority) -> None:
    """a certificate that cannot be fetched or read asks SNS to try again, and is left alone for a moment"""
    good, web.pages[URL] = web.pages[URL], page
    provider = source(web, authority)
    for _ in range(3):
        error = await refusal(provider, notification(authority))
        assert (error.reason, error.again) == (Reason.CERTIFICATE, True)
    assert web.calls == [URL]
    web.pages[URL] = good
    kept = provider._topics._certificates._failed
    kept[URL] = (kept[URL][0] - FORGET_FAILURE, "")  # ten seconds later
    await post(provider, notification(authority))


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("evil.example",),
        ("sns.us-west-2.amazonaws.com",),
        ("sns-signing.us-west-2.amazonaws.com",),
        ("*.amazonaws.com",),
        ("s3.amazonaws.com", "*.s3.amazonaws.com"),
        ("xsns.amazonaws.com",),
        ("sns.amazonaws.com.evil.example",),
    ],
)
async def test_certificates_for_other_names(names: Sequence[str], web: Web, authority: Authority) -> None:
    """a valid certificate that was not issued to SNS is refused"""
    web.pages[URL] = pem(authority.leaf(*names))
    error = await refusal(source(web, authority), notification(authority))
    assert (error.reason, error.again) == (Reason.CERTIFICATE, True)
    assert "not issued to SNS" in error.detail


async def test_certificates_of_other_authorities(web: Web, authority: Authority) -> None:
    """a certificate for the right name from an unknown authority is refused"""
    other = Authority()
    web.pages[URL] = pem(other.leaf("sns.amazonaws.com"))
    web.pages[ISSUER_URL] = der(other.middle)
    error = await refusal(source(web, authority), notification(other))
    assert "is not trusted" in error.detail
    web.pages[URL] = pem(other.leaf("sns.amazonaws.com")) + pem(other.middle) + pem(other.root)
    assert "is not trusted" in (await refusal(source(web, authority), notification(other))).detail


async def test_self_made_certificates(web: Web, authority: Authority) -> None:
    """a certificate that signed itself is refused, whatever its name"""
    private, certificate = signer.make_key("sns.amazonaws.com", NOW)
    web.pages[URL] = certificate.encode()
    message = signer.sign(signer.notification("{}", NOW), private)
    assert (await refusal(source(web, authority), message)).reason is Reason.CERTIFICATE


async def test_certificates_without_rsa(web: Web, authority: Authority) -> None:
    """a key of another kind is refused"""
    web.pages[URL] = pem(authority.leaf("sns.amazonaws.com", key=ec.generate_private_key(ec.SECP256R1())))
    assert "no RSA key" in (await refusal(source(web, authority), notification(authority))).detail


async def test_expired_certificates(web: Web, authority: Authority) -> None:
    """an expired certificate is refused, and one that expires while it is kept is fetched again"""
    web.pages[URL] = pem(authority.leaf("sns.amazonaws.com", until=NOW - timedelta(days=1)))
    assert "is not trusted" in (await refusal(source(web, authority), notification(authority))).detail
    clock = [NOW]
    web.pages[URL] = pem(authority.leaf("sns.amazonaws.com", until=NOW + timedelta(days=1)))
    kept = certificates(web, authority, lambda: clock[0])
    await kept.key(URL, {"sns.amazonaws.com"})
    clock[0] += timedelta(days=2)
    web.pages[URL] = pem(authority.leaf("sns.amazonaws.com", until=NOW + timedelta(days=60)))
    await kept.key(URL, {"sns.amazonaws.com"})
    assert web.calls.count(URL) == 3


async def test_an_issuer_that_is_away(web: Web, authority: Authority) -> None:
    """an issuer that cannot be fetched, or is rubbish, asks SNS to try again"""
    for page in (Unavailable("away"), b"rubbish"):
        web.pages[ISSUER_URL] = page
        error = await refusal(source(web, authority), notification(authority))
        assert (error.reason, error.again) == (Reason.CERTIFICATE, True)


async def test_made_up_urls_push_nothing_out(web: Web, authority: Authority) -> None:
    """a flood of well-formed but made-up URLs leaves the known certificate in place, and memory bounded"""
    provider, message = source(web, authority), notification(authority)
    await post(provider, message)
    for number in range(MAX_FAILED + 200):
        url = URL.replace("0123456789abcdef0123456789abcdef", f"{number:032x}")
        await refusal(provider, message | {"SigningCertURL": url})
    await post(provider, message)
    assert web.calls.count(URL) == 1
    assert len(provider._topics._certificates._failed) == MAX_FAILED


def test_public_roots_hold_amazons() -> None:
    """the roots that sign Amazon's certificates are among those we trust"""
    subjects = {root.subject.rfc4514_string() for root in public_roots()}
    assert "CN=Amazon Root CA 1,O=Amazon,C=US" in subjects
    assert len(subjects) > 50


# The handshake.


async def test_subscriptions_are_confirmed(web: Web, authority: Authority) -> None:
    """the confirming call is built from topic and token; `SubscribeURL` is not called, wherever it points"""
    call = (
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription"
        f"&TopicArn=arn%3Aaws%3Asns%3Aus-east-1%3A123456789012%3Ases-events&Token={signer.SAMPLE_TOKEN}"
        "&Version=2010-03-31"
    )
    web.pages[call] = b"<ConfirmSubscriptionResponse/>"
    message = confirmation(authority, SubscribeURL="https://evil.example/steal")
    found = await post(source(web, authority), message)
    assert isinstance(found.answer, Answer)
    assert found.answer.status == 200
    assert web.calls == [URL, ISSUER_URL, call]
    assert signer.SAMPLE_TOKEN.encode() not in found.answer.body


async def test_raw_subscriptions_are_confirmed(web: Web, authority: Authority) -> None:
    """with raw message delivery too, the message about the subscription is signed, and confirmed once proven"""
    made = SesRawSettings.model_validate({"provider": "ses_raw", "topics": [TOPIC], "password": "a password of ours"})
    provider = SesRaw(made, World(fetch=web.fetch, now=lambda: NOW))
    provider._topics._certificates = certificates(web, authority)
    proof = {"authorization": basic("webhook", "a password of ours")}
    with pytest.raises(Unavailable):
        await provider.authenticate(delivery(confirmation(authority), **proof))
    assert "ConfirmSubscription" in web.calls[-1]
    forged = delivery(confirmation(authority) | {"Token": "f" * 64}, **proof)
    with pytest.raises(Refused, match="fits none"):
        await provider.authenticate(forged)


async def test_a_confirmation_that_fails_is_tried_again(web: Web, authority: Authority) -> None:
    """where AWS does not answer the confirming call, SNS is asked to come again"""
    with pytest.raises(Unavailable):
        await post(source(web, authority), confirmation(authority))


async def test_confirmations_of_other_topics(web: Web, authority: Authority) -> None:
    """a subscription to a topic that is not listed is never confirmed, though SNS signed it"""
    provider = source(web, authority, topics=["arn:aws:sns:us-east-1:123456789012:another"])
    error = await refusal(provider, confirmation(authority))
    assert (error.reason, web.calls) == (Reason.UNKNOWN_TOPIC, [])


async def test_forged_confirmations(web: Web, authority: Authority) -> None:
    """a confirmation with a changed token is refused, and nothing is confirmed"""
    error = await refusal(source(web, authority), confirmation(authority) | {"Token": "f" * 64})
    assert (error.reason, web.calls) == (Reason.WRONG_KEY, [URL, ISSUER_URL])


@pytest.mark.parametrize("token", ["", "short", "a&Action=Publish&x=" + "a" * 20, "../" * 9, "a" * 5000, "é" * 20])
async def test_odd_tokens(token: str, web: Web, authority: Authority) -> None:
    """a token that could be more than a token is refused although it is signed"""
    error = await refusal(source(web, authority), confirmation(authority, Token=token))
    assert (error.reason, web.calls) == (Reason.MISSING_FIELD, [URL, ISSUER_URL])


async def test_confirming_can_be_turned_off(web: Web, authority: Authority) -> None:
    """with `confirm = false` the handshake is answered and nobody is called"""
    found = await post(source(web, authority, confirm=False), confirmation(authority))
    assert found.answer is not None
    assert b"not confirmed" in found.answer.body
    assert web.calls == [URL, ISSUER_URL]


async def test_an_ended_subscription_is_noted(web: Web, authority: Authority) -> None:
    """the notice that a subscription ended is answered, and the subscription not made anew"""
    found = await post(source(web, authority), confirmation(authority, leave=True))
    assert found.answer is not None
    assert found.answer.status == 200
    assert web.calls == [URL, ISSUER_URL]


async def test_pinned_certificates_call_nobody(web: Web, authority: Authority) -> None:
    """with a pinned certificate nothing is fetched: not for a message, nor to confirm a subscription"""
    private, certificate = signer.make_key("trial", NOW)
    provider = source(web, authority, certificates=certificate)
    await post(provider, signer.sign(signer.notification("{}", NOW), private))
    found = await post(provider, signer.sign(signer.confirmation(NOW), private))
    assert found.answer is not None
    assert b"pinned" in found.answer.body
    assert (await refusal(provider, notification(authority))).reason is Reason.WRONG_KEY
    assert web.calls == []
