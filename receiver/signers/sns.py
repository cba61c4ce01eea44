"""How Amazon SNS, and Scaleway's service of that kind, write and sign what they post: for the simulator and tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from receiver.contract import Post
from receiver.signers import rsa as signer

SAMPLE_TOPIC: Final = "arn:aws:sns:us-east-1:123456789012:ses-events"
SAMPLE_TOKEN: Final = "2336412f37fb687f5d51e6e241d09c805a5a57b30d712f794cc5f6a988666d92"  # noqa: S105 - made up
_CERTIFICATE: Final = "SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
_PRIVATE: Final = re.compile(r"-----BEGIN (?:RSA )?PRIVATE KEY-----[^-]+-----END (?:RSA )?PRIVATE KEY-----")
_ARN_PARTS: Final = ("partition", "region", "account", "topic")


def arn_parts(arn: str) -> dict[str, str]:
    """A topic's ARN as the simulator's keys hold it."""
    _, partition, _, region, account, topic = arn.split(":")
    return dict(zip(_ARN_PARTS, (partition, region, account, topic), strict=True))


def arn_of(parts: Mapping[str, str]) -> str:
    """The topic's ARN from the simulator's keys."""
    return "arn:{partition}:sns:{region}:{account}:{topic}".format_map(parts)


def stamp(moment: datetime) -> str:
    """A time as SNS and SES write it: UTC, milliseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_key(name: str, now: datetime) -> tuple[str, str]:
    """A fresh RSA key and a certificate it signed itself, both PEM text, good for ten years."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
    certificate = builder.not_valid_after(now + timedelta(days=3650)).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()


def sign(message: Mapping[str, str], private_key: str) -> dict[str, str]:
    """The message with `Signature` added, by the key (PEM text) and in the way that its `SignatureVersion` says."""
    names = ["Message", "MessageId", "Timestamp", "TopicArn", "Type"]
    names += ["Subject"] if message["Type"] == "Notification" else ["SubscribeURL", "Token"]
    lines = [line for name in sorted(names) if name in message for line in (name, message[name])]
    signed = "".join(line + "\n" for line in lines).encode()
    return {**message, "Signature": signer.sign(private_key, signed, sha1=message["SignatureVersion"] == "1")}


def notification(text: str, now: datetime, *, topic: str = SAMPLE_TOPIC, version: str = "") -> dict[str, str]:
    """An unsigned notification that carries `text`; the same text always gets the same MessageId."""
    host = _host(topic)
    subject = {} if _of_scaleway(topic) else {"Subject": "Amazon SES Email Event Notification"}
    return {
        "Type": "Notification",
        "MessageId": str(uuid5(NAMESPACE_URL, topic + text)),
        "TopicArn": topic,
        **subject,
        "Message": text,
        "Timestamp": stamp(now),
        "SignatureVersion": version or _version(topic),
        "SigningCertURL": _certificate(topic),
        "UnsubscribeURL": f"https://{host}/?Action=Unsubscribe&SubscriptionArn={_subscription(topic)}",
    }


def confirmation(now: datetime, *, topic: str = SAMPLE_TOPIC, version: str = "", leave: bool = False) -> dict[str, str]:
    """An unsigned request to confirm a subscription, or (`leave`) the notice that one was ended."""
    host = _host(topic)
    verb = "chosen to deactivate the subscription" if leave else "chosen to subscribe to the topic"
    return {
        "Type": "UnsubscribeConfirmation" if leave else "SubscriptionConfirmation",
        "MessageId": str(uuid5(NAMESPACE_URL, f"{topic} {leave}")),
        "Token": SAMPLE_TOKEN,
        "TopicArn": topic,
        "Message": f"You have {verb} {topic}.\nVisit the SubscribeURL included in this message.",
        "SubscribeURL": f"https://{host}/?Action=ConfirmSubscription&TopicArn={topic}&Token={SAMPLE_TOKEN}",
        "Timestamp": stamp(now),
        "SignatureVersion": version or _version(topic),
        "SigningCertURL": _certificate(topic),
    }


def body_of(message: Mapping[str, str]) -> bytes:
    """The request's body in SNS's own layout."""
    return json.dumps(message, indent=2, separators=(",", " : "), ensure_ascii=False).encode()


def headers_of(message: Mapping[str, str]) -> dict[str, str]:
    """The request's headers."""
    topic = message["TopicArn"]
    return {
        "x-amz-sns-message-type": message["Type"],
        "x-amz-sns-message-id": message["MessageId"],
        "x-amz-sns-topic-arn": topic,
        "x-amz-sns-subscription-arn": _subscription(topic),
        "content-type": "text/plain; charset=UTF-8",
        "user-agent": "Amazon Simple Notification Service Agent",
    }


def _subscription(topic: str) -> str:
    return f"{topic}:{uuid5(NAMESPACE_URL, topic)}"


def _of_scaleway(topic: str) -> bool:
    return topic.startswith("arn:scw:")


def _version(topic: str) -> str:
    return "1" if _of_scaleway(topic) else "2"


def _certificate(topic: str) -> str:
    if _of_scaleway(topic):
        return f"https://messaging.s3.fr-par.scw.cloud/{topic.split(':')[3]}/sns/sns_certificate_0123456789abcdef.crt"
    return f"https://{_host(topic)}/{_CERTIFICATE}"


def _host(topic: str) -> str:
    partition, region = topic.split(":")[1], topic.split(":")[3]
    if _of_scaleway(topic):
        return f"sns.mnq.{region}.scaleway.com"
    domain = {"aws-cn": "amazonaws.com.cn", "aws-eusc": "amazonaws.eu"}.get(partition, "amazonaws.com")
    return f"sns.{region}.{domain}"


def demo(topic: str) -> Callable[[Path], tuple[dict[str, Any], dict[str, str]]]:
    """For `Simulation.demo`: a topic whose messages are signed by a fresh key, whose certificate is pinned."""

    def make(directory: Path) -> tuple[dict[str, Any], dict[str, str]]:
        private, certificate = make_key("SNS of this demo", datetime.now(UTC))
        path = directory / f"{topic.rpartition(':')[2]}-demo.pem"
        path.write_text(certificate)
        return {"topics": [topic], "certificates": [str(path)]}, {"private_key": private, **arn_parts(topic)}

    return make


def keys(settings: Any) -> dict[str, str] | None:
    """For `Simulation.keys`: the private key, where somebody who tries out put it into a pinned certificate's file."""
    for one in settings.certificates:
        found = _PRIVATE.search(one if "-----BEGIN" in one else Path(one).read_text(errors="replace"))
        if found and settings.topics:
            return {"private_key": found[0], **arn_parts(settings.topics[0])}
    return None


def post(items: Sequence[Any], given: Mapping[str, str], now: datetime) -> Sequence[Post]:
    """For `Simulation.post`: one notification for each item."""
    topic, version = arn_of(given), given.get("version", "")
    texts = [json.dumps(item, separators=(",", ":")) for item in items]
    unsigned = [notification(text, now, topic=topic, version=version) for text in texts]
    signed = [sign(message, given["private_key"]) for message in unsigned]
    return [Post(headers=headers_of(message), body=body_of(message)) for message in signed]
