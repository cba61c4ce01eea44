"""Amazon SNS over HTTPS: proof that a message comes from SNS and from one of our topics.

Rests on "Verifying the signatures of Amazon SNS messages", "Parsing Amazon SNS message formats" and the API
page of ConfirmSubscription (docs.aws.amazon.com/sns), and on the names that AWS's own Java verifier expects in
signing certificates (aws-sdk-java-v2, sns-message-manager); all read 2026-11.

A right signature only says "some SNS topic"; whose topic, is said by the list of topics: that comes first.
Nothing in a message chooses where we connect: the host is computed from the region and partition of a listed
topic and compared whole (patterns such as `sns.*.amazonaws.com` match a bucket of S3 called `sns`), and
`SubscribeURL` is never called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

from receiver.errors import Reason, Refused
from receiver.payload import strip
from receiver.signatures import check_rsa, unbase64

NOTIFICATION: Final = "Notification"
MAX_FIELDS: Final = 50  # of an envelope; SNS documents a dozen
SUBSCRIPTION: Final = "SubscriptionConfirmation"
UNSUBSCRIPTION: Final = "UnsubscribeConfirmation"

# The domain of each partition's endpoints: botocore's endpoints.json, read 2026-11.
SUFFIXES: Final = {
    "aws": "amazonaws.com",
    "aws-cn": "amazonaws.com.cn",
    "aws-us-gov": "amazonaws.com",
    "aws-eusc": "amazonaws.eu",
}

_ARN: Final = re.compile(
    r"arn:(?P<partition>aws[a-z-]{0,12}):sns:(?P<region>[a-z]{2,5}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2})"
    r":[0-9]{12}:[A-Za-z0-9_-]{1,256}"
)
_CERTIFICATE: Final = re.compile(r"SimpleNotificationService-[0-9a-f]{32}\.pem")
_TOKEN: Final = re.compile(r"[0-9A-Za-z._~-]{16,1024}")

# The signed fields of each type, in their order.
_SIGNED: Final[Mapping[str, Sequence[str]]] = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    SUBSCRIPTION: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    UNSUBSCRIPTION: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_SPELLINGS: Final = {"SigningCertUrl": "SigningCertURL", "SubscribeUrl": "SubscribeURL"}
_HASHES: Final[Mapping[str, HashAlgorithm]] = {"1": SHA1(), "2": SHA256()}  # noqa: S303 - version 1 is SNS's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic's ARN and what follows from it.

    `host`: the endpoint of SNS in the topic's region. `certificates`: what the URL of a signing certificate begins
    with, and `certificate_file` what follows. `certificate_names`: one of these such a certificate bears; `None`
    where its roots issue certificates for nothing else.
    """

    arn: str
    host: str
    certificates: str
    certificate_file: re.Pattern[str]
    certificate_names: frozenset[str] | None


def topic_of(arn: str) -> Topic | None:
    """The topic of a well-formed ARN of a partition we know; None for anything else."""
    found = _ARN.fullmatch(arn)
    suffix = SUFFIXES.get(found["partition"]) if found else None
    if not found or not suffix:
        return None
    host = f"sns.{found['region']}.{suffix}"
    return Topic(
        arn=arn,
        host=host,
        certificates=f"https://{host}/",
        certificate_file=_CERTIFICATE,
        certificate_names=_names(found["region"], suffix),
    )


def _names(region: str, suffix: str) -> frozenset[str]:
    """The names one of which a signing certificate of this region bears.

    Older regions share `sns.amazonaws.com`, newer ones have `sns-signing.<region>...`, China and GovCloud
    `sns-<region>...`, where both GovCloud regions use the name of us-gov-west-1.
    """
    own = f"{region}.{suffix}"
    names = {f"sns.{suffix}", f"sns.{own}", f"sns-signing.{own}", f"sns-{own}"}
    if region.startswith("us-gov-"):
        names.add(f"sns-us-gov-west-1.{suffix}")
    return frozenset(names)


def envelope_of(body: bytes) -> dict[str, str]:
    """The text fields of an SNS message, usual spelling; all signed ones are there. Raises Refused.

    JSON by the letter alone: what a repair would change is signed as it is, and nothing is proven yet.
    """
    try:
        value = _decode(strip(body))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(Reason.MISSING_FIELD, "the body is not the JSON of an SNS message") from error
    if not isinstance(value, dict) or len(value) > MAX_FIELDS:
        raise Refused(Reason.MISSING_FIELD, "the body is not an SNS message")
    if "Type" not in value and ("eventType" in value or "notificationType" in value):
        raise raw_delivery()
    fields = {_SPELLINGS.get(str(key), str(key)): text for key, text in value.items() if isinstance(text, str)}
    required = _SIGNED.get(fields.get("Type", ""))
    if required is None:
        raise Refused(Reason.MISSING_FIELD, "the field Type is none that SNS documents")
    for key in (*required, "Signature", "SignatureVersion"):
        if key not in fields and key != "Subject":
            raise Refused(Reason.MISSING_FIELD, f"the field {key} is missing or no text")
    return fields


_decode: Final = msgspec.json.Decoder().decode


def is_raw(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a subscription with raw message delivery ("Amazon SNS raw message delivery")."""
    return headers.get("x-amz-sns-rawdelivery", "").lower() == "true"


def raw_delivery() -> Refused:
    """The refusal of a raw delivery, which carries no signature. It may come again: the setting is ours to mend."""
    return Refused(
        Reason.MISSING_FIELD,
        "raw message delivery is on for this subscription, so SNS does not sign what it sends: "
        "turn it off, or use the provider ses_raw",
        again=True,
    )


def signed_text(envelope: Mapping[str, str]) -> bytes:
    """What SNS signs: the signed fields, each as name, line feed, value, line feed. Raises Refused.

    A `Subject` that is absent or null is left out.
    """
    keys = _SIGNED[envelope["Type"]]
    text = "".join(f"{key}\n{envelope[key]}\n" for key in keys if key in envelope)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Refused(Reason.MISSING_FIELD, "the signed fields hold what is no text") from error


@dataclass(frozen=True, slots=True)
class Proof:
    """A message's signature, the bytes it was made over, and the hash it uses."""

    signature: bytes
    signed: bytes
    algorithm: HashAlgorithm


def proof_of(envelope: Mapping[str, str]) -> Proof:
    """What is to be checked, before any certificate is looked for. Raises Refused."""
    algorithm = _HASHES.get(envelope["SignatureVersion"])
    if algorithm is None:
        raise Refused(Reason.MISSING_FIELD, "the field SignatureVersion is neither 1 nor 2")
    return Proof(unbase64(envelope["Signature"], "the field Signature"), signed_text(envelope), algorithm)


def check(proof: Proof, keys: Sequence[RSAPublicKey]) -> None:
    """Refuse what none of the keys signed."""
    check_rsa(keys, proof.signature, proof.signed, proof.algorithm, what="certificates")


def certificate_url(envelope: Mapping[str, str], topic: Topic) -> str:
    """The URL of the signing certificate. Raises Refused unless it is where SNS keeps those of this topic.

    Compared as text from the first to the last character: nothing is left for URL parsers to disagree about.
    """
    url = envelope.get("SigningCertURL", "")
    base = topic.certificates
    if not url.startswith(base) or topic.certificate_file.fullmatch(url[len(base) :]) is None:
        raise Refused(Reason.CERTIFICATE, f"SigningCertURL is not a signing certificate below {base}")
    return url


def confirmation_url(envelope: Mapping[str, str], topic: Topic) -> str:
    """The call that confirms a subscription, built from the topic and the token alone. Raises Refused."""
    token = envelope["Token"]
    if _TOKEN.fullmatch(token) is None:
        raise Refused(Reason.MISSING_FIELD, "the field Token does not look like one")
    query = {"Action": "ConfirmSubscription", "TopicArn": topic.arn, "Token": token, "Version": "2010-03-31"}
    return f"https://{topic.host}/?{urlencode(query)}"
