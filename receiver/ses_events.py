"""What Amazon SES says in its events, in our words.

The documents it rests on, and what identity hashes and why, stand in `receiver/providers/ses.py`: the other ways
from SES to us carry the same objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from receiver.contract import Item, UnreadableItem
from receiver.errors import Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.payload import boolean, first_text, iso_time, item_of, mapping, sequence, strip, text, texts

WORDS: Final[Mapping[str, EventType]] = {
    "Send": EventType.SENT,
    "Delivery": EventType.DELIVERED,
    "Bounce": EventType.BOUNCED,
    "DeliveryDelay": EventType.DEFERRED,
    "Complaint": EventType.COMPLAINED,
    "Reject": EventType.REJECTED,
    "Rendering Failure": EventType.FAILED,
    "Open": EventType.OPENED,
    "Click": EventType.CLICKED,
    "Subscription": EventType.UNSUBSCRIBED,
    "Received": EventType.INBOUND,
}
SIMULATOR: Final = "@simulator.amazonses.com"
VALIDATED: Final = "Successfully validated SNS topic for Amazon SES event publishing."
SUBSCRIBED: Final = "AmazonSnsSubscriptionSucceeded"


def items_of_message(message: bytes, event_id: str | None) -> Sequence[Item | UnreadableItem]:
    """The one item of what SES published to SNS; none for the notices that it sends when it is set up."""
    message = strip(message)
    if message == VALIDATED.encode():
        return ()
    item = item_of(message, event_id=event_id)
    if isinstance(item, Item) and mapping(item.value).get("notificationType") == SUBSCRIBED:
        return ()
    return (item,)


def readings(item: Item, words: Mapping[str, EventType]) -> Sequence[Reading]:
    """The events of one SES object, one for each recipient it concerns. Raises Unreadable where it is no object."""
    value = item.value
    if not isinstance(value, dict):
        raise Unreadable("the message is no JSON object")
    word = first_text(value, "eventType", "notificationType") or "(none)"
    mail = mapping(value.get("mail"))
    if word in _READERS:
        key, reader = _READERS[word]
        part = mapping(value.get(key))
    else:
        reader, part = _each_destination, _unknown_part(value)
    stamp = first_text(mail if word in _WITHOUT_TIME else part, "timestamp")
    base = _base(words.get(word, EventType.UNKNOWN), word, iso_time(stamp), mail, item.event_id)
    return [_finish(reading, part, stamp, item) for reading in reader(base, part, mail)]


def _unknown_part(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object that an event of a kind we do not know most likely names after itself."""
    return next((part for key, part in value.items() if key != "mail" and isinstance(part, dict)), {})


def _base(
    type_: EventType, word: str, occurred_at: datetime | None, mail: Mapping[str, Any], event_id: str | None
) -> Reading:
    """What all events of one SES object share."""
    common = mapping(mail.get("commonHeaders"))
    tags = mapping(mail.get("tags"))
    labels, metadata = _labels(mail)
    internet_id = text(common.get("messageId")) or ""
    return Reading(
        type=type_,
        word=word,
        identity=None,
        occurred_at=occurred_at,
        provider_event_id=event_id,
        message_id=text(mail.get("messageId")),
        # The documents' samples repeat SES's bare id here, which is no Message-ID.
        internet_message_id=internet_id.strip().strip("<>") if "@" in internet_id else None,
        sender=text(mail.get("source")) or next(iter(texts(common.get("from"))), None),
        sending_ip=next(iter(texts(tags.get("ses:outgoing-ip"))), None),
        subject=text(common.get("subject")),
        tags=labels,
        metadata=metadata,
    )


def _labels(mail: Mapping[str, Any]) -> tuple[list[str], dict[str, Any] | None]:
    """(tags, metadata): `X-Tag` headers; message tags that are not SES's own, and `X-Metadata` headers."""
    labels: list[str] = []
    metadata: dict[str, Any] = {}
    for tag, value in mapping(mail.get("tags")).items():
        if not tag.startswith("ses:"):
            values = texts(value)
            metadata[tag] = values[0] if len(values) == 1 else values
    for header in sequence(mail.get("headers")):
        name = (text(mapping(header).get("name")) or "").lower()
        content = text(mapping(header).get("value"))
        if content is not None and name == "x-tag":
            labels.append(content)
        elif content is not None and name == "x-metadata":
            metadata.update(_object(content))
    return labels, metadata or None


def _object(content: str) -> Mapping[str, Any]:
    item = item_of(content.encode(errors="replace"))
    return mapping(item.value) if isinstance(item, Item) else {}


def _finish(reading: Reading, part: Mapping[str, Any], stamp: str | None, item: Item) -> Reading:
    """The reading with its identity (see above) and whether it concerns SES's mailbox simulator."""
    identity: tuple[str | None, ...] = (
        reading.word,
        reading.message_id,
        reading.recipient,
        stamp,
        *(text(part.get(key)) for key in ("feedbackId", "link", "ipAddress", "userAgent")),
        reading.topic,
    )
    if reading.occurred_at is None or reading.word not in _READERS:
        identity = ("raw", reading.word, reading.recipient, reading.topic, item.event_id, item.text)
    is_test = reading.is_test or _simulated(reading.recipient)
    return replace(reading, identity=identity, is_test=is_test)


def _simulated(address: str | None) -> bool:
    return address is not None and address.rstrip("> ").lower().endswith(SIMULATOR)


# One reader for each word. `part` is the object named after the event, `mail` the one about the message.


def _destinations(mail: Mapping[str, Any]) -> Sequence[str | None]:
    return texts(mail.get("destination")) or (None,)


def _each_destination(base: Reading, _: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    for recipient in _destinations(mail):
        yield replace(base, recipient=recipient)


def _delivered(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    response = text(part.get("smtpResponse"))
    for recipient in texts(part.get("recipients")) or _destinations(mail):
        yield replace(
            base,
            recipient=recipient,
            diagnostic=response,
            smtp_code=_smtp_code(response),
            remote_mta=text(part.get("remoteMtaIp")),
        )


_SMTP: Final = re.compile(r"(?:smtp;\s{0,3})?([245][0-9]{2})(?![0-9.])", re.IGNORECASE)
_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_FAILING: Final = re.compile(r"(?<![0-9.])(?:[45][0-5][0-9](?![0-9.])|[45]\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9.]))")


def _smtp_code(diagnostic: str | None) -> int | None:
    found = _SMTP.match(diagnostic.strip()) if diagnostic else None
    return int(found[1]) if found else None


def _one_by_one(listed: object, mail: Mapping[str, Any]) -> Iterator[tuple[str | None, Mapping[str, Any], str | None]]:
    """(address, what is said of it, attribution) of a list of recipients, or of the destinations where it is missing.

    Where the list is missing and the message went to several, nobody knows whom the event concerns.
    """
    members = [listed] if isinstance(listed, dict) else sequence(listed)
    named = [one for one in map(mapping, members) if text(one.get("emailAddress"))]
    if named:
        yield from ((text(one.get("emailAddress")), one, None) for one in named)
        return
    destinations = _destinations(mail)
    attribution = "ambiguous" if len(destinations) > 1 else None
    rest = mapping(members[0]) if members else {}
    yield from ((address, rest, attribution) for address in destinations)


_VERDICTS: Final[Mapping[str | None, BounceCategory]] = {
    "Permanent": BounceCategory.HARD,
    "Undetermined": BounceCategory.UNDETERMINED,
    "General": BounceCategory.UNDETERMINED,
    "MailboxFull": BounceCategory.SOFT,
    "MessageTooLarge": BounceCategory.SOFT,
    "CustomTimeoutExceeded": BounceCategory.SOFT,
    "ContentRejected": BounceCategory.BLOCK,
    "AttachmentRejected": BounceCategory.BLOCK,
}
_HELD_BACK: Final[Mapping[str | None, RejectReason]] = {
    "Suppressed": RejectReason.BOUNCED,
    "OnAccountSuppressionList": RejectReason.BOUNCED,
    "OnTenantSuppressionList": RejectReason.BOUNCED,
    "UnsubscribedRecipient": RejectReason.UNSUBSCRIBED,
}


def _bounced(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    kind, subtype = text(part.get("bounceType")), text(part.get("bounceSubType"))
    for recipient, one, attribution in _one_by_one(part.get("bouncedRecipients"), mail):
        status, diagnostic = text(one.get("status")), text(one.get("diagnosticCode"))
        reading = replace(
            base,
            recipient=recipient,
            attribution=attribution,
            diagnostic=diagnostic,
            smtp_code=_smtp_code(diagnostic),
            enhanced_code=status if status and _STATUS.fullmatch(status) else None,
            remote_mta=_remote_mta(part),
        )
        if (text(one.get("action")) or "").lower() == "delayed":  # also in bounces of the type Permanent
            yield replace(reading, type=EventType.DEFERRED)
        elif subtype in _HELD_BACK:
            yield replace(reading, type=EventType.REJECTED, reject_reason=_HELD_BACK[subtype])
        elif (kind, subtype) == ("Transient", "General") and _is_reply(part, one):
            yield replace(reading, type=EventType.AUTORESPONDED)
        else:
            yield replace(reading, verdict=_verdict(kind, subtype, status))


def _verdict(kind: str | None, subtype: str | None, status: str | None) -> BounceCategory | None:
    if kind == "Permanent" and status is not None and status.startswith("4."):
        return BounceCategory.SOFT
    return _VERDICTS.get(subtype if kind == "Transient" else kind)


def _is_reply(part: Mapping[str, Any], one: Mapping[str, Any]) -> bool:
    """Whether a `Transient`/`General` bounce is an out-of-office answer or the like.

    Such a mail comes in after the delivery: no server refused anything, so there is no failing code, and it was
    not SES's own server that reported it.
    """
    if (text(one.get("action")) or "").lower() == "failed" or text(part.get("remoteMtaIp")):
        return False
    reporter = text(part.get("reportingMTA")) or ""
    said = f"{text(one.get('status')) or ''} {text(one.get('diagnosticCode')) or ''}"
    return "amazonses.com" not in reporter.lower() and _FAILING.search(said) is None


def _remote_mta(part: Mapping[str, Any]) -> str | None:
    """The recipient's server: its address, or its name where it wrote the report itself."""
    reporter = (text(part.get("reportingMTA")) or "").partition(";")[2].strip()
    return text(part.get("remoteMtaIp")) or (None if "amazonses.com" in reporter else reporter or None)


def _delayed(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    for recipient, one, attribution in _one_by_one(part.get("delayedRecipients"), mail):
        status = text(one.get("status"))
        diagnostic = text(one.get("diagnosticCode"))
        yield replace(
            base,
            recipient=recipient,
            attribution=attribution,
            diagnostic=diagnostic or text(part.get("delayType")),
            smtp_code=_smtp_code(diagnostic),
            enhanced_code=status if status and _STATUS.fullmatch(status) else None,
        )


# Feedback types that are no person's complaint (RFC 5965, RFC 6430): a filter's or a server's report.
_NO_COMPLAINT: Final = frozenset({"not-spam", "auth-failure", "virus"})


def _complained(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    feedback = text(part.get("complaintFeedbackType"))
    type_, reason = EventType.COMPLAINED, None
    if "SuppressionList" in (text(part.get("complaintSubType")) or ""):
        type_, reason = EventType.REJECTED, RejectReason.COMPLAINED
    elif feedback in _NO_COMPLAINT:
        type_ = EventType.UNKNOWN
    # SES lists everybody at the complaining domain, because feedback loops hide who complained.
    found = list(_one_by_one(part.get("complainedRecipients"), mail))
    attribution = "ambiguous" if len(found) > 1 else None
    for recipient, _, _ in found:
        yield replace(
            base, type=type_, recipient=recipient, reject_reason=reason, attribution=attribution, diagnostic=feedback
        )


def _rejected(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    reason = text(part.get("reason"))
    return _each_destination(replace(base, reject_reason=RejectReason.CONTENT, diagnostic=reason), part, mail)


def _failed(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    error, template = text(part.get("errorMessage")), text(part.get("templateName"))
    return _each_destination(replace(base, diagnostic=error, template_id=template), part, mail)


def _engaged(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    """An open or a click: SES names all destinations, not who of them it was."""
    destinations = _destinations(mail)
    yield replace(
        base,
        recipient=destinations[0] if len(destinations) == 1 else None,
        attribution="ambiguous" if len(destinations) > 1 else None,
        url=text(part.get("link")),
        user_agent=text(part.get("userAgent")),
        client_ip=text(part.get("ipAddress")),
        actor=_flag(part),
        is_test=all(_simulated(one) for one in destinations),
    )


_AUTOMATED: Final = re.compile(r"automat|bot|machine", re.IGNORECASE)


def _flag(part: Mapping[str, Any]) -> Actor | None:
    """SES's mark of an automated interaction.

    Announced on 2026-08-07 ("automated email interactions"); its name was in none of the documents at hand, so any
    field named like it counts, and only where it says yes: a "no" leaves the judgement to us.
    """
    for name, value in part.items():
        if _AUTOMATED.search(name) and boolean(value) is True:
            return Actor.MACHINE
    return None


def _changed(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    """A change of preferences: one event for each topic that changed, or one for all mail."""
    changes = _changes(mapping(part.get("oldTopicPreferences")), mapping(part.get("newTopicPreferences")))
    for reading in _each_destination(base, part, mail):
        for topic, type_ in changes:
            yield replace(reading, topic=topic, type=type_)


_OPTED: Final[Mapping[str | None, EventType]] = {
    "OptIn": EventType.SUBSCRIBED,
    "OptOut": EventType.UNSUBSCRIBED,
}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str | None, EventType]]:
    everything, was = boolean(after.get("unsubscribeAll")), boolean(before.get("unsubscribeAll"))
    old, new = _topics(before), _topics(after)
    found = [(topic, _OPTED[to]) for topic, to in new.items() if to in _OPTED and old.get(topic) != to]
    if everything and not was:
        return [(None, EventType.UNSUBSCRIBED)]
    if was and everything is False and not found:
        return [(None, EventType.SUBSCRIBED)]
    if not found and everything:
        return [(None, EventType.UNSUBSCRIBED)]
    return [*found] or [(None, EventType.UNKNOWN)]


def _topics(preferences: Mapping[str, Any]) -> dict[str, str | None]:
    listed = map(mapping, sequence(preferences.get("topicSubscriptionStatus")))
    return {name: text(one.get("subscriptionStatus")) for one in listed if (name := text(one.get("topicName")))}


def _received(base: Reading, part: Mapping[str, Any], mail: Mapping[str, Any]) -> Iterator[Reading]:
    for recipient in texts(part.get("recipients")) or _destinations(mail):
        yield replace(base, recipient=recipient)


# These have no time but that of the message, and each befalls a message and recipient once.
_WITHOUT_TIME: Final = frozenset({"Send", "Reject", "Rendering Failure"})

_Reader = Callable[[Reading, Mapping[str, Any], Mapping[str, Any]], Iterator[Reading]]
_READERS: Final[Mapping[str, tuple[str, _Reader]]] = {
    "Send": ("send", _each_destination),
    "Delivery": ("delivery", _delivered),
    "Bounce": ("bounce", _bounced),
    "DeliveryDelay": ("deliveryDelay", _delayed),
    "Complaint": ("complaint", _complained),
    "Reject": ("reject", _rejected),
    "Rendering Failure": ("failure", _failed),
    "Open": ("open", _engaged),
    "Click": ("click", _engaged),
    "Subscription": ("subscription", _changed),
    "Received": ("receipt", _received),
}
