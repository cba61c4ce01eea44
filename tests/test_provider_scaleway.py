"""Scaleway: its topics, its certificates and their authority. The rest is in `test_provider_contract.py`.

What is shared with Amazon's SNS (envelope, signature, keeping of certificates) is tested in `test_sns.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from receiver.contract import Authentic, Delivery, World
from receiver.errors import ConfigError, Reason, Refused
from receiver.providers.scaleway import SAMPLE_TOPIC, Scaleway, ScalewaySettings, authority, topic_of
from receiver.signers import sns as signer
from tests.test_sns import ISSUER_URL, NOW, Authority, Web, der, pem

URL: Final = "https://messaging.s3.fr-par.scw.cloud/fr-par/sns/sns_certificate_0123456789abcdef.crt"
FILE: Final = "sns_certificate_0123456789abcdef.crt"


@pytest.fixture(scope="module", name="own")
def _own() -> Authority:
    return Authority()


def chain(tmp_path: Path, *certificates: x509.Certificate) -> str:
    path = tmp_path / "chain.pem"
    path.write_bytes(b"".join(map(pem, certificates)))
    return str(path)


def source(web: Web, **settings: Any) -> Scaleway:
    made = ScalewaySettings.model_validate({"provider": "scaleway", "topics": [SAMPLE_TOPIC], **settings})
    return Scaleway(made, World(fetch=web.fetch, now=lambda: NOW))


def serving(page: bytes, issuer: Authority) -> Web:
    """Serves the signing certificate, and who issued it where certificates say that it is found."""
    web = Web()
    web.pages = {URL: page, ISSUER_URL: der(issuer.middle)}
    return web


async def post(provider: Scaleway, message: dict[str, str]) -> Authentic:
    delivery = Delivery(source="s", headers=signer.headers_of(message), body=signer.body_of(message))
    return await provider.authenticate(delivery)


async def refusal(provider: Scaleway, message: dict[str, str]) -> Refused:
    with pytest.raises(Refused) as caught:
        await post(provider, message)
    return caught.value


def notification(own: Authority, **changed: str) -> dict[str, str]:
    return signer.sign(signer.notification("{}", NOW, topic=SAMPLE_TOPIC) | changed, own.private_key)


@pytest.mark.parametrize("region", ["fr-par", "nl-ams"])
def test_hosts_follow_from_the_topic(region: str) -> None:
    """a topic's region gives its endpoint and the folder of its certificates"""
    topic = topic_of(f"arn:scw:sns:{region}:project-1:mails")
    assert topic is not None
    assert topic.host == f"sns.mnq.{region}.scaleway.com"
    assert topic.certificates == f"https://messaging.s3.fr-par.scw.cloud/{region}/sns/"


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:sns:us-east-1:123456789012:mails",
        "arn:scw:sqs:fr-par:project-1:mails",
        "arn:scw:sns:fr-par.evil.example/:project-1:mails",
        "arn:scw:sns:FR-PAR:project-1:mails",
        "arn:scw:sns:fr-par:project-1:",
        "arn:scw:sns:fr-par:project-1:mails\n",
        "*",
    ],
)
def test_other_arns(arn: str) -> None:
    """what is not the ARN of a Scaleway topic is none, and a problem of the configuration"""
    assert topic_of(arn) is None
    settings = ScalewaySettings.model_validate({"provider": "scaleway", "topics": [arn]})
    (problem,) = Scaleway.problems(settings, "sources.s")
    assert "arn:scw:sns:" in problem.right


@pytest.mark.parametrize("names", [(), ("sns.mnq.srr.scw.cloud",), ("anything.example",)])
async def test_certificates_of_the_authority(names: Sequence[str], own: Authority, tmp_path: Path) -> None:
    """a certificate of Scaleway's authority is accepted, whatever name it bears, and fetched once for many messages"""
    web = serving(pem(own.leaf(*names)), own)
    provider = source(web, trust_chain=chain(tmp_path, own.root, own.middle))
    for _ in range(2):
        await post(provider, notification(own))
    assert web.calls == [URL]


async def test_certificates_of_other_authorities(own: Authority, tmp_path: Path) -> None:
    """a certificate of anybody else is refused, also of a public authority, and with the whole chain behind it"""
    other = Authority()
    for page in (pem(other.leaf("a.example")), pem(other.leaf("a.example")) + pem(other.middle) + pem(other.root)):
        provider = source(serving(page, other), trust_chain=chain(tmp_path, own.root, own.middle))
        error = await refusal(provider, notification(other))
        assert (error.reason, error.again) == (Reason.CERTIFICATE, True)
        assert "not trusted" in error.detail
    error = await refusal(source(serving(pem(own.leaf("a.example")), own)), notification(own))
    assert "not trusted" in error.detail


async def test_expired_certificates(own: Authority, tmp_path: Path) -> None:
    """an expired certificate is refused although the authority issued it"""
    expired = own.leaf("a.example", until=datetime(2026, 11, 1, tzinfo=UTC))
    provider = source(serving(pem(expired), own), trust_chain=chain(tmp_path, own.root, own.middle))
    assert "not trusted" in (await refusal(provider, notification(own))).detail


@pytest.mark.parametrize(
    "url",
    [
        f"https://attacker.s3.fr-par.scw.cloud/fr-par/sns/{FILE}",
        f"https://messaging.s3.nl-ams.scw.cloud/fr-par/sns/{FILE}",
        f"https://messaging.s3.fr-par.scw.cloud/nl-ams/sns/{FILE}",
        f"https://messaging.s3.fr-par.scw.cloud.evil.example/fr-par/sns/{FILE}",
        f"https://messaging.s3.fr-par.scw.cloud@evil.example/fr-par/sns/{FILE}",
        f"https://messaging.s3.fr-par.scw.cloud:8443/fr-par/sns/{FILE}",
        f"http://messaging.s3.fr-par.scw.cloud/fr-par/sns/{FILE}",
        f"https://messaging.s3.fr-par.scw.cloud/fr-par/sns/../../attacker/{FILE}",
        "https://messaging.s3.fr-par.scw.cloud/fr-par/sns/sns_certificate_.crt",
        f"{URL}?x=1",
        f"{URL}\n",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem",
        "",
    ],
)
async def test_certificates_elsewhere(url: str, own: Authority, tmp_path: Path) -> None:
    """a certificate anywhere but in Scaleway's own folder for the topic's region is refused, and nothing is fetched"""
    web = serving(pem(own.leaf("a.example")), own)
    web.pages[url] = web.pages[URL]
    provider = source(web, trust_chain=chain(tmp_path, own.root, own.middle))
    assert (await refusal(provider, notification(own, SigningCertURL=url))).reason is Reason.CERTIFICATE
    assert web.calls == []


async def test_subscriptions_are_confirmed(own: Authority, tmp_path: Path) -> None:
    """the confirming call goes to Scaleway's endpoint, built from topic and token; `SubscribeURL` is not called"""
    web = serving(pem(own.leaf("a.example")), own)
    call = (
        "https://sns.mnq.fr-par.scaleway.com/?Action=ConfirmSubscription"
        f"&TopicArn={SAMPLE_TOPIC.replace(':', '%3A')}&Token={signer.SAMPLE_TOKEN}&Version=2010-03-31"
    )
    web.pages[call] = b"<ConfirmSubscriptionResponse/>"
    unsigned = signer.confirmation(NOW, topic=SAMPLE_TOPIC) | {"SubscribeURL": "https://evil.example/steal"}
    provider = source(web, trust_chain=chain(tmp_path, own.root, own.middle))
    found = await post(provider, signer.sign(unsigned, own.private_key))
    assert found.answer is not None
    assert found.answer.status == 200
    assert web.calls == [URL, call]


async def test_other_topics(own: Authority, tmp_path: Path) -> None:
    """a topic that is not listed is refused, to be tried again, before anything is fetched"""
    web = serving(pem(own.leaf("a.example")), own)
    provider = source(web, trust_chain=chain(tmp_path, own.root, own.middle))
    for topic in (SAMPLE_TOPIC + "x", signer.SAMPLE_TOPIC):
        error = await refusal(provider, notification(own, TopicArn=topic))
        assert (error.reason, error.again) == (Reason.UNKNOWN_TOPIC, True)
    assert web.calls == []


def test_the_authority_we_bring() -> None:
    """the file holds Scaleway's root, which is good until 2032, and the authority that it issued"""
    root, issuer = authority()
    root.verify_directly_issued_by(root)
    issuer.verify_directly_issued_by(root)
    assert root.fingerprint(SHA256()).hex() == "c5a0145efb57916c07f9af3e3f311215062c0562c2d56d7ff3c57da9fb52e4d5"
    assert root.not_valid_after_utc.year == 2032
    assert root.subject.rfc4514_string() == "CN=Scaleway MnQ Root"


def test_problems_with_the_authority(tmp_path: Path) -> None:
    """a file without certificates is a problem at start, never a fall-back to another authority"""
    (tmp_path / "empty.pem").write_text("")
    for path in (tmp_path / "empty.pem", tmp_path / "missing.pem", tmp_path):
        made = {"provider": "scaleway", "topics": [SAMPLE_TOPIC], "trust_chain": str(path)}
        settings = ScalewaySettings.model_validate(made)
        assert [problem.key for problem in Scaleway.problems(settings, "sources.s")] == ["sources.s.trust_chain"]
        with pytest.raises(ConfigError):
            source(Web(), trust_chain=str(path))
