"""SocketLabs: events of sent mail, mostly one for each request.

Rests on (all seen 2026-11)
- "Event Webhooks: Events", https://help.socketlabs.com/docs/event-webhooks-events, and the pages "Data Attributes" and
  "Authentication and Access" beside it
- "Account Level Event Webhook", https://help.socketlabs.com/docs/email/v2/account-level-event-webhook
- its own library, https://github.com/socketlabs/SocketLabs.EventWebhooks.Extensions: types, failure types and codes,
  one event or an array of them
- its examples, https://github.com/socketlabs/SocketLabs.WebhookExamples: an event, there under `data`

What the proof covers: nothing of the body. `SecretKey` is a shared secret that lies open in every body, beside
`ServerId`; it is compared in constant time. Whoever has seen one request can say anything, and a body that was changed
on the way is accepted: TLS is all that protects it. Set a secret in the URL as well (`url_secret`), so that a body that
leaks is not enough. The secret is taken out of what is stored.

Status codes: 200 is kept; 401 for a wrong secret, as they ask. How long they repeat is not documented.

Identity: there is no event id. Hashed are type, failure or tracking type, message id, mailing id, address, time (seven
digits), link, client address and user agent as written. Without a time: the whole event but for the secret.

"Validate" posts an event `Validation` and wants the key back in the answer: the validation key where one is set (v1),
else the secret key that came. It is told to those alone who know the secret key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from pydantic import Field, SecretStr

from receiver.contract import (
    Answer,
    Authentic,
    Delivery,
    Item,
    Occurrence,
    Post,
    Provider,
    Reply,
    Secrets,
    Simulation,
    UnreadableItem,
    World,
    secret_problems,
)
from receiver.credentials import Credentials, CredentialSettings, credential_problems
from receiver.errors import Problem, Reason, Refused, Unreadable
from receiver.event import BounceCategory, EventType, Reading, RejectReason
from receiver.forms import fields_of, is_form, last_fields
from receiver.payload import (
    first_text,
    integer,
    iso_time,
    item_from_value,
    item_of,
    mapping,
    objects,
    sequence,
    stable_text,
    strip,
    text,
    texts,
)
from receiver.signatures import same
from receiver.signers import credentials, posts
from receiver.signers import hmacs as signer

_SECRET: Final = "SecretKey"  # noqa: S105 - the name of the field
_MAX_ODD: Final = 64 * 1024  # bytes of a body that is read though it is not JSON by the letter, before it is proven
_MOST: Final = 1000  # events of a body; one is documented
_RIGHT: Final = (
    "SocketLabs control panel: Configuration, Event Webhooks, your endpoint, Secret Key; each endpoint has its own"
)
_PUBLISHED: Final = ("n7BJk25EtAr39Sfa4K8R", "Z123456AbcD1234563Ef", "YOUR-SECRETKEY-HERE")


class SocketLabsSettings(CredentialSettings):
    """`secret_key`: the endpoint's, or several."""

    secret_key: Secrets = Field([], description="the endpoint's Secret Key, or several")
    validation_key: SecretStr | None = Field(
        None, description="what Validate wants to be answered (v1); default: the secret key"
    )
    server_id: list[int] = Field([], description="the servers whose events are taken; default: of every server")


# `Type`, for failures and tracking followed by their own type. A failure is final, also a temporary one: what will be
# tried again is `Deferred`.
_WORDS: Final[Mapping[str, EventType]] = {
    "Queued": EventType.QUEUED,
    "Deferred": EventType.DEFERRED,
    "Delivered": EventType.DELIVERED,
    "Failed": EventType.BOUNCED,
    "Failed:Permanent": EventType.BOUNCED,
    "Failed:Temporary": EventType.BOUNCED,
    "Failed:Suppressed": EventType.REJECTED,
    "Tracking:Click": EventType.CLICKED,
    "Tracking:Open": EventType.OPENED,
    "Tracking:Unsubscribe": EventType.UNSUBSCRIBED,
    "Complaint": EventType.COMPLAINED,
}
# Both come as a name or as its number.
_SUBTYPES: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "Failed": ("FailureType", {"0": "Temporary", "1": "Permanent", "2": "Suppressed"}),
    "Tracking": ("TrackingType", {"0": "Click", "1": "Open", "2": "Unsubscribe"}),
}
_VERDICTS: Final = {"Failed:Permanent": BounceCategory.HARD, "Failed:Temporary": BounceCategory.SOFT}
# The thousands of `FailureCode`: refused for our sake, bad address, mailbox, connection, unknown.
_CODES: Final = {
    1: BounceCategory.BLOCK,
    2: BounceCategory.HARD,
    3: BounceCategory.SOFT,
    4: BounceCategory.SOFT,
    9: BounceCategory.UNDETERMINED,
}
_AUTOMATIC: Final = frozenset({1011, 5001, 5999})  # challenge, out of office, "an informational message"


class SocketLabs(Provider):
    """One endpoint of SocketLabs: of a server (v1), or of a subaccount or the account (v2)."""

    name = "socketlabs"
    title = "SocketLabs"
    basis = "verified"
    covers = "nothing"
    words = _WORDS
    reply = Reply(retries="Whether and how long it repeats is not documented; anything but 200 is taken for a failure.")
    Settings = SocketLabsSettings

    def __init__(self, settings: SocketLabsSettings, world: World) -> None:  # noqa: ARG002 - the contract's
        self._keys = [key.get_secret_value() for key in settings.secret_key]
        self._answer = settings.validation_key
        self._servers = set(settings.server_id)
        self._credentials = Credentials(settings)

    @staticmethod
    def problems(settings: SocketLabsSettings, key: str) -> Sequence[Problem]:
        secret = secret_problems(settings.secret_key, f"{key}.secret_key", _RIGHT, published=_PUBLISHED)
        return secret + credential_problems(settings, key, required=False)

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.check(delivery)
        item = self._item(delivery)
        events = [_bare(event) for event in objects(item.value)]
        keys = [self._prove(event) for event in events]
        if events[0].get("Type") == "Validation":
            answer = self._answer.get_secret_value() if self._answer else keys[0]
            return Authentic(answer=Answer(status=200, body=answer.encode()))
        return Authentic(payload=[_without_secret(event, item) for event in events])

    def _prove(self, event: Mapping[str, Any]) -> str:
        """The configured key that the event carries. Raises Refused."""
        key = self._key(text(event.get(_SECRET)))
        if self._servers and integer(first_text(event, "ServerId", "ServerID")) not in self._servers:
            raise Refused(Reason.WRONG_CREDENTIALS, "the ServerId is none of the configured ones")
        return key

    def _key(self, given: str | None) -> str:
        """The configured key that was given. Raises Refused."""
        if not given:
            raise Refused(Reason.MISSING_FIELD, f"the body has no {_SECRET}")
        found = [key for key in self._keys if same(given.encode(), key.encode())]
        if not found:
            raise Refused(Reason.WRONG_CREDENTIALS, f"the {_SECRET} is none of the configured ones")
        return found[0]

    def _item(self, delivery: Delivery) -> Item:
        """The body as one value: an event, or a list of them. Raises Refused: nothing is proven yet."""
        content_type = delivery.headers.get("content-type", "")
        try:
            if is_form(content_type):  # endpoints made before June 2021
                self._key(last_fields(content_type, delivery.body, (_SECRET,)).get(_SECRET))  # before all is decoded
                return item_from_value(dict(fields_of(content_type, delivery.body)))
            return _json_item(delivery.body)
        except ValueError as error:
            raise Refused(Reason.MISSING_FIELD, f"the body is no form that carries a {_SECRET}: {error}") from error

    def parse(self, payload: Sequence[Item] | None) -> Iterable[Item | UnreadableItem]:
        return payload or []

    def read(self, item: Item) -> Sequence[Reading]:
        event = mapping(item.value)
        kind = text(event.get("Type"))
        if kind is None:
            raise Unreadable("a SocketLabs event must be a JSON object with the member `Type`")
        return [_reading(kind, event)]


def _bare(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event itself, which the documents show as the body and the published examples as its member `data`."""
    inner = mapping(event.get("data"))
    return inner if _SECRET in inner and _SECRET not in event else event


def _json_item(body: bytes) -> Item:
    item = item_of(strip(body), repair=_MAX_ODD)
    if isinstance(item, UnreadableItem):
        raise Refused(Reason.MISSING_FIELD, f"the body is no JSON that carries a {_SECRET}")
    if len(sequence(item.value)) > _MOST:
        raise Refused(Reason.MISSING_FIELD, f"the body has more than {_MOST} events, each with a {_SECRET} of its own")
    return item


def _without_secret(event: Mapping[str, Any], whole: Item) -> Item:
    bare = item_from_value({name: value for name, value in event.items() if name != _SECRET})
    return msgspec.structs.replace(bare, altered=whole.altered)


def _reading(kind: str, event: Mapping[str, Any]) -> Reading:
    data = mapping(event.get("Data"))
    word = _word(kind, event)
    code = integer(event.get("FailureCode"))
    type_ = EventType.AUTORESPONDED if code in _AUTOMATIC else _WORDS.get(word) or _WORDS.get(kind, EventType.UNKNOWN)
    tracked = kind == "Tracking"
    time, address = text(event.get("DateTime")), first_text(event, "ClientIp", "ClientIP")
    agent, url = text(event.get("UserAgent")), first_text(event, "Url", "URL")
    message_id = first_text(event, "MessageId", "MessageID")
    mailing, recipient = first_text(event, "MailingId", "MailingID"), text(event.get("Address"))
    identity = (word, message_id, mailing, recipient, time, url, address, agent)
    return Reading(
        type=type_,
        word=word,
        identity=identity if time else ("raw", stable_text(event)),
        occurred_at=iso_time(time),
        recipient=recipient,
        message_id=message_id,
        sender=first_text(event, "FromAddress", "From"),
        verdict=(_CODES.get((code or 0) // 1000) or _VERDICTS.get(word)) if type_ is EventType.BOUNCED else None,
        enhanced_code=text(event.get("BounceStatus")),
        diagnostic=first_text(event, "DiagnosticCode", "Reason", "Response"),
        reject_reason=RejectReason.OTHER if type_ is EventType.REJECTED else None,  # their list tells no reason
        sending_ip=first_text(event, "LocalIp", "LocalIP"),
        ip_pool=first_text(event, "IPPoolID", "IpPoolId", "IPPoolId"),
        remote_mta=first_text(event, "RemoteMta", "RemoteMTA"),
        campaign=mailing,
        tags=texts(data.get("Tags")),
        metadata=_pairs(data.get("Meta")) or None,
        subject=text(event.get("Subject")),
        url=url if tracked else None,
        user_agent=agent if tracked else None,
        client_ip=address if tracked else None,
    )


def _word(kind: str, event: Mapping[str, Any]) -> str:
    name, names = _SUBTYPES.get(kind, ("", {}))
    subtype = text(event.get(name)) if name else None
    return f"{kind}:{names.get(subtype, subtype)}" if subtype else kind


def _pairs(value: object) -> dict[str, Any]:
    """`[{"Key": ..., "Value": ...}]` as an object."""
    return {key: pair.get("Value") for pair in map(mapping, sequence(value)) if (key := text(pair.get("Key")))}


# Simulation

_AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0"
_OPEN: Final = {"TrackingType": 1, "ClientIp": "203.0.113.80", "UserAgent": _AGENT}
_FAILED: Final = {"FromAddress": "news@example.net", "RemoteMta": "mx.customer.example"}
_OF_TYPE: Final[Mapping[EventType, tuple[str, Mapping[str, Any]]]] = {
    EventType.QUEUED: ("Queued", {"Subject": "Autumn news", "MessageSize": 22775}),
    EventType.DELIVERED: (
        "Delivered",
        {"Response": "250 2.0.0 OK", "LocalIp": "198.51.100.9", "RemoteMta": "mx.customer.example"},
    ),
    EventType.DEFERRED: ("Deferred", {"DeferralCode": 3003, "Reason": "451 4.7.1 Please try again later"}),
    EventType.BOUNCED: (
        "Failed",
        {
            **_FAILED,
            "FailureType": "Permanent",
            "FailureCode": 2001,
            "BounceStatus": "5.1.1",
            "DiagnosticCode": "smtp;550 5.1.1 The email account does not exist",
        },
    ),
    EventType.REJECTED: (
        "Failed",
        {**_FAILED, "FailureType": "Suppressed", "Reason": "The address is on the suppression list"},
    ),
    EventType.AUTORESPONDED: (
        "Failed",
        {**_FAILED, "FailureType": "Temporary", "FailureCode": 5001, "Reason": "Out of office"},
    ),
    EventType.OPENED: ("Tracking", _OPEN),
    EventType.CLICKED: ("Tracking", {**_OPEN, "TrackingType": 0, "Url": "https://shop.example.com/autumn"}),
    EventType.UNSUBSCRIBED: ("Tracking", {**_OPEN, "TrackingType": 2}),
    EventType.COMPLAINED: ("Complaint", {"FblType": "abuse", "UserAgent": "Feedback/1.0", "Length": 2048}),
}


def _sample(what: Occurrence) -> dict[str, Any]:
    kind, details = _OF_TYPE[what.type]
    return {
        "Type": kind,
        "DateTime": what.at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{what.at.microsecond:06d}0Z",
        "ServerId": 12345,
        "SubaccountId": 12345,
        "Address": what.recipient,
        "MailingId": "autumn",
        "MessageId": f"{what.run}-{what.number}",
        **details,
        "Data": {"Meta": [{"Key": "customer", "Value": "4711"}], "Tags": ["newsletter"]},
    }


def _post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:  # noqa: ARG001 - no time
    bodies = [{**mapping(item), _SECRET: keys["secret_key"]} for item in items]
    return posts.one_by_one(bodies, lambda _: credentials.headers(keys), query=credentials.query(keys))


SocketLabs.simulation = Simulation(
    types=tuple(_OF_TYPE),
    demo=signer.demo("secret_key"),
    keys=credentials.keys_with("secret_key"),
    sample=_sample,
    post=_post,
    setup=(
        "1. SocketLabs control panel: Configuration > Event Webhooks. Endpoint URL: {url}.\n"
        "2. Copy the Secret Key into `secret_key` (and, where one is shown, the Validation Key into\n"
        "   validation_key), and restart the receiver.\n"
        "3. Press Validate, and choose all events.\n"
        "\n"
        "Events come from 142.0.176.0/20, the validation from 52.152.150.178: both can stand in `allow_from`."
    ),
)

PROVIDER: Final[type[Provider]] = SocketLabs
