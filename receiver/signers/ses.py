"""What Amazon SES says about a message, for the simulator: every documented field, in realistic values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from receiver.contract import Occurrence
from receiver.event import EventType
from receiver.signers.sns import stamp

_PHONE: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
)
_MTA: Final = "a8-50.smtp-out.amazonses.com"


def sample(occurrence: Occurrence) -> dict[str, Any]:
    """The JSON object that SES publishes for the occurrence."""
    word, key, part = _PARTS[occurrence.type](occurrence)
    kind = "notificationType" if word == "Received" else "eventType"
    return {kind: word, "mail": _mail(occurrence), key: part}


def _id(occurrence: Occurrence, what: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"{what} {occurrence.run} {occurrence.number} {occurrence.type}")


def _feedback(occurrence: Occurrence) -> str:
    return f"0100018f2a6b7c3d-{_id(occurrence, 'feedback')}-000000"


def _mail(occurrence: Occurrence) -> dict[str, Any]:
    sent_at: datetime = occurrence.at - timedelta(seconds=12)
    domain = occurrence.sender.partition("@")[2]
    message_id = f"0100018f2a6b7c3d-{_id(occurrence, 'message')}-000000"
    internet_id = f"<{message_id}@email.amazonses.com>"
    subject = "Your weekly letter"
    return {
        "timestamp": stamp(sent_at),
        "source": occurrence.sender,
        "sourceArn": f"arn:aws:ses:us-east-1:123456789012:identity/{domain}",
        "sourceIp": "192.0.2.25",
        "sendingAccountId": "123456789012",
        "callerIdentity": "mailer",
        "messageId": message_id,
        "destination": [occurrence.recipient],
        "headersTruncated": False,
        "headers": [
            {"name": "From", "value": f"News <{occurrence.sender}>"},
            {"name": "To", "value": occurrence.recipient},
            {"name": "Subject", "value": subject},
            {"name": "Message-ID", "value": internet_id},
            {"name": "X-Tag", "value": "weekly"},
            {"name": "MIME-Version", "value": "1.0"},
        ],
        "commonHeaders": {
            "from": [f"News <{occurrence.sender}>"],
            "to": [occurrence.recipient],
            "messageId": internet_id,
            "subject": subject,
        },
        "tags": {
            "ses:configuration-set": ["letters"],
            "ses:source-ip": ["192.0.2.25"],
            "ses:from-domain": [domain],
            "ses:caller-identity": ["mailer"],
            "ses:outgoing-ip": ["192.0.2.10"],
            "campaign": [f"letter-{occurrence.run}"],
        },
    }


_Part = tuple[str, str, dict[str, Any]]


def _bounce(occurrence: Occurrence, kind: str, subtype: str, **recipient: str) -> _Part:
    part = {
        "feedbackId": _feedback(occurrence),
        "bounceType": kind,
        "bounceSubType": subtype,
        "bouncedRecipients": [{"emailAddress": occurrence.recipient, **recipient}],
        "timestamp": stamp(occurrence.at),
    }
    if recipient:
        part |= {"reportingMTA": f"dsn; {_MTA}", "remoteMtaIp": "198.51.100.25"}
    return "Bounce", "bounce", part


def _hard(occurrence: Occurrence) -> _Part:
    code = "smtp; 550 5.1.1 <recipient>: Recipient address rejected: User unknown"
    return _bounce(occurrence, "Permanent", "NoEmail", action="failed", status="5.1.1", diagnosticCode=code)


def _suppressed(occurrence: Occurrence) -> _Part:
    code = "Amazon SES did not send the message because the address is on the suppression list for your account."
    subtype = "OnAccountSuppressionList"
    return _bounce(occurrence, "Permanent", subtype, action="failed", status="5.1.1", diagnosticCode=code)


def _away(occurrence: Occurrence) -> _Part:
    return _bounce(occurrence, "Transient", "General")


def _complaint(occurrence: Occurrence) -> _Part:
    part = {
        "feedbackId": _feedback(occurrence),
        "complaintSubType": None,
        "complainedRecipients": [{"emailAddress": occurrence.recipient}],
        "timestamp": stamp(occurrence.at),
        "userAgent": "ExampleFeedbackLoop/1.0",
        "complaintFeedbackType": "abuse",
        "arrivalDate": stamp(occurrence.at - timedelta(seconds=2)),
    }
    return "Complaint", "complaint", part


def _delivery(occurrence: Occurrence) -> _Part:
    part = {
        "timestamp": stamp(occurrence.at),
        "processingTimeMillis": 11893,
        "recipients": [occurrence.recipient],
        "smtpResponse": "250 2.6.0 Message received",
        "reportingMTA": _MTA,
        "remoteMtaIp": "198.51.100.25",
    }
    return "Delivery", "delivery", part


def _delay(occurrence: Occurrence) -> _Part:
    code = "smtp; 421 4.4.1 Unable to connect to remote host"
    part = {
        "timestamp": stamp(occurrence.at),
        "delayType": "TransientCommunicationFailure",
        "expirationTime": stamp(occurrence.at + timedelta(hours=14)),
        "reportingMTA": _MTA,
        "delayedRecipients": [{"emailAddress": occurrence.recipient, "status": "4.4.1", "diagnosticCode": code}],
    }
    return "DeliveryDelay", "deliveryDelay", part


def _failure(_: Occurrence) -> _Part:
    error = "Attribute 'firstName' is not present in the rendering data."
    return "Rendering Failure", "failure", {"errorMessage": error, "templateName": "weekly-letter"}


def _open(occurrence: Occurrence) -> _Part:
    part = {"ipAddress": "203.0.113.80", "timestamp": stamp(occurrence.at), "userAgent": _PHONE}
    return "Open", "open", part


def _click(occurrence: Occurrence) -> _Part:
    link = {"link": "https://www.example.net/letter?utm_source=mail", "linkTags": {"place": ["top"]}}
    return "Click", "click", {**_open(occurrence)[2], **link}


def _subscription(occurrence: Occurrence, before: str, after: str) -> _Part:
    part = {
        "contactList": "readers",
        "timestamp": stamp(occurrence.at),
        "source": "UnsubscribeHeader",
        "newTopicPreferences": _preferences(after),
        "oldTopicPreferences": _preferences(before),
    }
    return "Subscription", "subscription", part


def _preferences(status: str) -> dict[str, Any]:
    return {
        "unsubscribeAll": False,
        "topicSubscriptionStatus": [{"topicName": "weekly-letter", "subscriptionStatus": status}],
    }


def _received(occurrence: Occurrence) -> _Part:
    passed = {"status": "PASS"}
    part = {
        "timestamp": stamp(occurrence.at),
        "processingTimeMillis": 222,
        "recipients": [occurrence.recipient],
        "spamVerdict": passed,
        "virusVerdict": passed,
        "spfVerdict": passed,
        "dkimVerdict": passed,
        "dmarcVerdict": passed,
        "action": {"type": "S3", "topicArn": "arn:aws:sns:us-east-1:123456789012:ses-events", "bucketName": "mail"},
    }
    return "Received", "receipt", part


_PARTS: Final[Mapping[EventType, Callable[[Occurrence], _Part]]] = {
    EventType.SENT: lambda _: ("Send", "send", {}),
    EventType.DELIVERED: _delivery,
    EventType.BOUNCED: _hard,
    EventType.DEFERRED: _delay,
    EventType.REJECTED: _suppressed,
    EventType.FAILED: _failure,
    EventType.AUTORESPONDED: _away,
    EventType.OPENED: _open,
    EventType.CLICKED: _click,
    EventType.COMPLAINED: _complaint,
    EventType.UNSUBSCRIBED: lambda occurrence: _subscription(occurrence, "OptIn", "OptOut"),
    EventType.SUBSCRIBED: lambda occurrence: _subscription(occurrence, "OptOut", "OptIn"),
    EventType.INBOUND: _received,
}
TYPES: Final = tuple(_PARTS)
