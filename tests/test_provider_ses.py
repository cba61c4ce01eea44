"""Amazon SES: what its events mean. What holds for every provider is in `test_provider_contract.py`."""

from __future__ import annotations

import copy
import json
import stat
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.classify.bounces import classify
from receiver.contract import Delivery, Item, Occurrence, UnreadableItem, World
from receiver.errors import ConfigError, Unavailable, Unreadable
from receiver.event import Actor, BounceCategory, EventType, Reading, RejectReason
from receiver.payload import item_of
from receiver.providers.ses import Ses, SesSettings
from receiver.ses_events import VALIDATED
from receiver.signers import sns as signer
from tests.provider_fixtures import fixtures, items_of_fixture

NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
ONE: Final = "one@customer.example"
TWO: Final = "two@customer.example"
TIME: Final = "2026-11-20T11:59:00.000Z"


async def nothing(url: str, *, max_bytes: int = 65536) -> bytes:
    raise Unavailable(f"{url} {max_bytes}")


PROVIDER: Final = Ses(
    SesSettings.model_validate({"provider": "ses", "topics": [signer.SAMPLE_TOPIC]}), World(fetch=nothing)
)


def item(value: object, *, event_id: str | None = "sns-1") -> Item:
    found = item_of(json.dumps(value).encode(), event_id=event_id)
    assert isinstance(found, Item)
    return found


def read(value: object, *, event_id: str | None = "sns-1") -> list[Reading]:
    return list(PROVIDER.read(item(value, event_id=event_id)))


def event(word: str, key: str, part: object, *to: str, **mail: object) -> dict[str, Any]:
    about = {"messageId": "m-1", "timestamp": "2026-11-20T11:58:00.000Z", "destination": list(to or (ONE,))}
    return {"eventType": word, "mail": about | mail, key: part}


def bounce(kind: str, subtype: str, *recipients: Mapping[str, str], **more: object) -> list[Reading]:
    part = {"bounceType": kind, "bounceSubType": subtype, "timestamp": TIME, "feedbackId": "f-1"}
    return read(event("Bounce", "bounce", part | {"bouncedRecipients": recipients or [{"emailAddress": ONE}]} | more))


# Bounces.


@pytest.mark.parametrize(
    ("subtype", "verdict"),
    [
        ("MailboxFull", BounceCategory.SOFT),
        ("MessageTooLarge", BounceCategory.SOFT),
        ("CustomTimeoutExceeded", BounceCategory.SOFT),
        ("ContentRejected", BounceCategory.BLOCK),
        ("AttachmentRejected", BounceCategory.BLOCK),
        ("SomethingNew", None),
    ],
)
def test_transient_bounces(subtype: str, verdict: BounceCategory | None) -> None:
    """SES has given up on a transient bounce; how bad it is follows from its subtype"""
    (reading,) = bounce("Transient", subtype)
    assert (reading.type, reading.verdict) == (EventType.BOUNCED, verdict)


@pytest.mark.parametrize(
    ("recipient", "more"),
    [
        ({"emailAddress": ONE}, {}),
        ({"emailAddress": ONE, "action": "delivered", "status": "2.0.0"}, {}),
        ({"emailAddress": ONE, "diagnosticCode": "I am out of the office until 2026-12-01"}, {}),
        ({"emailAddress": ONE}, {"reportingMTA": "dsn; mail.customer.example"}),
    ],
)
def test_out_of_office(recipient: dict[str, str], more: dict[str, str]) -> None:
    """a general bounce without a failing code, not reported by SES's own server, is an automatic answer"""
    (reading,) = bounce("Transient", "General", recipient, **more)
    assert reading.type is EventType.AUTORESPONDED


@pytest.mark.parametrize(
    ("recipient", "more"),
    [
        ({"emailAddress": ONE, "status": "4.4.7"}, {}),
        ({"emailAddress": ONE, "status": "5.0.0"}, {}),
        ({"emailAddress": ONE, "action": "failed"}, {}),
        ({"emailAddress": ONE, "diagnosticCode": "smtp; 550 go away"}, {}),
        ({"emailAddress": ONE, "diagnosticCode": "smtp; go away (5.7.1)"}, {}),
        ({"emailAddress": ONE}, {"reportingMTA": "dsn; a8-50.smtp-out.amazonses.com"}),
        ({"emailAddress": ONE}, {"remoteMtaIp": "198.51.100.25"}),
    ],
)
def test_general_bounces(recipient: dict[str, str], more: dict[str, str]) -> None:
    """a general bounce with any sign that a server refused the message is a bounce of unknown kind"""
    (reading,) = bounce("Transient", "General", recipient, **more)
    assert (reading.type, reading.verdict) == (EventType.BOUNCED, BounceCategory.UNDETERMINED)


def test_each_recipient_by_its_own_action_and_status() -> None:
    """in one permanent bounce one address is dead, one is still tried, and one was given up for a passing cause"""
    dead = {"emailAddress": ONE, "action": "failed", "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 unknown"}
    late = {"emailAddress": TWO, "action": "Delayed", "status": "4.4.1"}
    over = {"emailAddress": "three@customer.example", "action": "failed", "status": "4.4.7"}
    readings = bounce("Permanent", "General", dead, late, over)
    assert [reading.type for reading in readings] == [EventType.BOUNCED, EventType.DEFERRED, EventType.BOUNCED]
    assert [reading.verdict for reading in readings] == [BounceCategory.HARD, None, BounceCategory.SOFT]
    assert {reading.attribution for reading in readings} == {None}


def test_a_permanent_mailbox_full_is_not_hard() -> None:
    """a specific code outweighs SES's `Permanent`"""
    full = {"emailAddress": ONE, "action": "failed", "status": "5.2.2", "diagnosticCode": "smtp; 552 5.2.2 full"}
    (reading,) = bounce("Permanent", "General", full)
    found = classify(
        diagnostic=reading.diagnostic,
        enhanced_code=reading.enhanced_code,
        smtp_code=reading.smtp_code,
        verdict=reading.verdict,
    )
    assert found.category is BounceCategory.SOFT


@pytest.mark.parametrize(
    ("subtype", "reason"),
    [
        ("Suppressed", RejectReason.BOUNCED),
        ("OnAccountSuppressionList", RejectReason.BOUNCED),
        ("UnsubscribedRecipient", RejectReason.UNSUBSCRIBED),
    ],
)
def test_held_back(subtype: str, reason: RejectReason) -> None:
    """what SES never tried to deliver is rejected, not a new bounce"""
    (reading,) = bounce("Permanent", subtype)
    assert (reading.type, reading.reject_reason, reading.verdict) == (EventType.REJECTED, reason, None)


def test_a_bounce_that_names_nobody() -> None:
    """without a list the one destination bounced; of several nobody knows which"""
    part = {"bounceType": "Permanent", "bounceSubType": "General", "timestamp": TIME}
    (reading,) = read(event("Bounce", "bounce", part))
    assert (reading.recipient, reading.attribution) == (ONE, None)
    readings = read(event("Bounce", "bounce", part, ONE, TWO))
    assert [(one.recipient, one.attribution) for one in readings] == [(ONE, "ambiguous"), (TWO, "ambiguous")]


# Complaints.


def complaint(part: dict[str, Any], *to: str) -> list[Reading]:
    return read(event("Complaint", "complaint", {"timestamp": TIME, "feedbackId": "f-1"} | part, *to))


def test_complaints_of_several_are_ambiguous() -> None:
    """everybody whom SES suspects gets an event, and none of them counts for sure"""
    readings = complaint({"complainedRecipients": [{"emailAddress": ONE}, {"emailAddress": TWO}]}, ONE, TWO)
    assert [(one.type, one.recipient, one.attribution) for one in readings] == [
        (EventType.COMPLAINED, ONE, "ambiguous"),
        (EventType.COMPLAINED, TWO, "ambiguous"),
    ]
    (reading,) = complaint({"complainedRecipients": [{"emailAddress": ONE}]}, ONE, TWO)
    assert (reading.recipient, reading.attribution) == (ONE, None)


@pytest.mark.parametrize("listed", [None, [], [None], [{}], "x", 7, {"emailAddress": None}])
def test_complaints_without_recipients(listed: object) -> None:
    """a complaint that names nobody concerns the one destination, or one of several"""
    (reading,) = complaint({"complainedRecipients": listed})
    assert (reading.type, reading.recipient, reading.attribution) == (EventType.COMPLAINED, ONE, None)
    assert [one.attribution for one in complaint({"complainedRecipients": listed}, ONE, TWO)] == ["ambiguous"] * 2


@pytest.mark.parametrize(
    ("feedback", "type_"),
    [
        ("abuse", EventType.COMPLAINED),
        ("fraud", EventType.COMPLAINED),
        ("other", EventType.COMPLAINED),
        (None, EventType.COMPLAINED),
        ("not-spam", EventType.UNKNOWN),
        ("virus", EventType.UNKNOWN),
        ("auth-failure", EventType.UNKNOWN),
    ],
)
def test_feedback_types(feedback: str | None, type_: EventType) -> None:
    """a report that says "not spam", or that no person made, is no complaint"""
    (reading,) = complaint({"complaintFeedbackType": feedback})
    assert reading.type is type_


def test_a_complaint_from_the_suppression_list() -> None:
    """a message that SES held back because of an earlier complaint is rejected, not a new complaint"""
    (reading,) = complaint({"complaintSubType": "OnAccountSuppressionList"})
    assert (reading.type, reading.reject_reason) == (EventType.REJECTED, RejectReason.COMPLAINED)


# Opens, clicks, preferences.


@pytest.mark.parametrize(("word", "key"), [("Open", "open"), ("Click", "click")])
def test_who_opened(word: str, key: str) -> None:
    """of several destinations nobody knows who opened or clicked"""
    part = {"timestamp": TIME, "ipAddress": "203.0.113.80", "userAgent": "x", "link": "https://www.example.net/"}
    (reading,) = read(event(word, key, part))
    assert (reading.recipient, reading.attribution) == (ONE, None)
    (reading,) = read(event(word, key, part, ONE, TWO))
    assert (reading.recipient, reading.attribution) == (None, "ambiguous")
    (reading,) = read(event(word, key, part) | {"mail": {}})
    assert (reading.recipient, reading.attribution) == (None, None)


@pytest.mark.parametrize("name", ["isAutomated", "automated", "bot", "isBot", "machineOpen", "automatedInteraction"])
def test_automated_interactions(name: str) -> None:
    """SES's mark of an automated open counts under any likely name, and only where it says yes"""
    for value, actor in ((True, Actor.MACHINE), ("true", Actor.MACHINE), (False, None), (None, None), ({}, None)):
        (reading,) = read(event("Open", "open", {"timestamp": TIME, name: value}))
        assert reading.actor is actor


def preferences(everything: object, **topics: str) -> dict[str, Any]:
    listed = [{"topicName": name, "subscriptionStatus": status} for name, status in topics.items()]
    return {"unsubscribeAll": everything, "topicSubscriptionStatus": listed}


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (preferences(False, a="OptIn"), preferences(False, a="OptOut"), [("a", "unsubscribed")]),
        (preferences(False, a="OptOut"), preferences(False, a="OptIn"), [("a", "subscribed")]),
        (
            preferences(False, a="OptIn", b="OptOut", c="OptIn"),
            preferences(False, a="OptOut", b="OptIn", c="OptIn"),
            [("a", "unsubscribed"), ("b", "subscribed")],
        ),
        (preferences(False, a="OptIn"), preferences(True, a="OptIn"), [(None, "unsubscribed")]),
        (preferences(True), preferences(False), [(None, "subscribed")]),
        (preferences(True), preferences(True), [(None, "unsubscribed")]),
        (preferences(False, a="OptOut"), preferences(True, a="OptOut"), [(None, "unsubscribed")]),
        (preferences(False, a="OptIn"), preferences(False, a="OptIn"), [(None, "unknown")]),
        (preferences(False), preferences(False, new="OptOut"), [("new", "unsubscribed")]),
        (None, preferences("true"), [(None, "unsubscribed")]),
        (None, None, [(None, "unknown")]),
    ],
)
def test_preferences(before: object, after: object, changes: list[tuple[str | None, str]]) -> None:
    """a change of preferences is an event for each topic that changed, or one for all mail"""
    part = {"timestamp": TIME, "oldTopicPreferences": before, "newTopicPreferences": after}
    readings = read(event("Subscription", "subscription", part))
    assert [(one.topic, one.type) for one in readings] == changes
    assert len({tuple(one.identity or ()) for one in readings}) == len(changes)


# The message.


def test_simulated_recipients_are_tests() -> None:
    """SES's mailbox simulator makes test events, and nothing else does"""
    for address in ("bounce@simulator.amazonses.com", "Success+1@Simulator.AmazonSES.com"):
        (reading,) = read(event("Send", "send", {}, address))
        assert reading.is_test
        (reading,) = read(event("Open", "open", {"timestamp": TIME}, address))
        assert reading.is_test
    for address in ("a@example.com", "simulator.amazonses.com@customer.example"):
        (reading,) = read(event("Send", "send", {}, address))
        assert not reading.is_test
    assert [one.is_test for one in read(event("Send", "send", {}, ONE, "a@simulator.amazonses.com"))] == [False, True]


def test_labels() -> None:
    """tags come from `X-Tag`, metadata from message tags (not SES's own) and `X-Metadata`, whatever their shape"""
    headers = [
        {"name": "X-Tag", "value": "first"},
        {"name": "x-TAG", "value": "second"},
        {"name": "X-Metadata", "value": '{"user": 7}'},
        {"name": "X-Metadata", "value": "rubbish"},
        {"name": None, "value": "x"},
        {"name": "X-Tag"},
        None,
    ]
    tags = {"ses:configuration-set": ["set"], "one": ["1"], "two": ["1", "2"], "none": [], "text": "plain"}
    (reading,) = read(event("Send", "send", {}, headers=headers, tags=tags))
    assert list(reading.tags) == ["first", "second"]
    assert reading.metadata == {"one": "1", "two": ["1", "2"], "none": [], "text": "plain", "user": 7}


def test_message_ids() -> None:
    """the id of the send call, and the Message-ID without brackets where the event carries a real one"""
    common = {"messageId": "<abc@mail.example.net>"}
    (reading,) = read(event("Send", "send", {}, commonHeaders=common))
    assert (reading.message_id, reading.internet_message_id) == ("m-1", "abc@mail.example.net")
    (reading,) = read(event("Send", "send", {}, messageId=None, commonHeaders={"messageId": "m-1"}))
    assert (reading.message_id, reading.internet_message_id) == (None, None)


# Identity.


def test_both_ways_of_publishing_give_one_event() -> None:
    """the same bounce, told by feedback notification and by event publishing, has one identity"""
    recipients = [{"emailAddress": ONE}]
    part = {"bounceType": "Permanent", "timestamp": TIME, "feedbackId": "f-1", "bouncedRecipients": recipients}
    published = event("Bounce", "bounce", part, tags={"ses:configuration-set": ["set"]})
    mail = {key: value for key, value in published["mail"].items() if key != "tags"}
    notified = {"notificationType": "Bounce", "bounce": part, "mail": mail}
    (one,), (other,) = read(published, event_id="sns-1"), read(notified, event_id="sns-2")
    assert one.identity == other.identity
    assert one.occurred_at == other.occurred_at
    assert (one.provider_event_id, other.provider_event_id) == ("sns-1", "sns-2")


def test_identities_differ_where_events_do() -> None:
    """two recipients, two times, two links, two feedback ids are two events each"""
    seen = set()
    part = {"timestamp": TIME, "ipAddress": "203.0.113.80", "userAgent": "x", "link": "https://www.example.net/"}
    for change in (
        {},
        {"timestamp": "2026-11-20T11:59:00.001Z"},
        {"link": "y"},
        {"ipAddress": "z"},
        {"userAgent": "y"},
    ):
        (reading,) = read(event("Click", "click", part | change))
        seen.add(tuple(reading.identity or ()))
    assert len(seen) == 5
    first, second = read(event("Delivery", "delivery", {"timestamp": TIME, "recipients": [ONE, TWO]}, ONE, TWO))
    assert first.identity != second.identity


def test_events_that_say_too_little() -> None:
    """without a time, and for unknown words, the whole text and SNS's id tell events apart"""
    for word, key, part in (("Open", "open", {}), ("New", "new", {"timestamp": TIME})):
        (one,), (again,) = read(event(word, key, part)), read(event(word, key, part))
        (other,) = read(event(word, key, part), event_id="sns-2")
        (different,) = read(event(word, key, {**part, "x": 1}))
        assert one.identity == again.identity
        assert len({tuple(reading.identity or ()) for reading in (one, other, different)}) == 3


def test_the_messages_time_is_not_the_openings() -> None:
    """an open without its own time gets none: the time of sending would be wrong"""
    (reading,) = read(event("Open", "open", {}))
    assert reading.occurred_at is None
    (reading,) = read(event("Send", "send", {}))
    assert reading.occurred_at == NOW - timedelta(minutes=2)


# Strange values.


@pytest.mark.parametrize("value", [None, 7, "text", [], [{}], True])
def test_what_is_no_object(value: object) -> None:
    """a message that is no JSON object is unreadable, and nothing worse"""
    with pytest.raises(Unreadable):
        PROVIDER.read(item(value))


@pytest.mark.parametrize("value", [{}, {"eventType": None}, {"eventType": ["Send"]}, {"mail": 7}, {"eventType": "x"}])
def test_events_without_a_known_word(value: object) -> None:
    """an object that says nothing we know is stored as unknown"""
    (reading,) = read(value)
    assert reading.type is EventType.UNKNOWN


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, member in inner for deeper in places(member, (*path, key)))]


def put(value: Any, path: Sequence[Any], new: object) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = put(value[path[0]], path[1:], new)
    return changed


async def test_any_value_in_any_place() -> None:
    """any JSON value in place of any part of any recorded event is read, or is unreadable, but raises nothing else"""
    samples = [one.value for fixture in fixtures("ses") for one in await items_of_fixture(fixture)]
    spots = [(sample, path) for sample in samples for path in places(sample)]

    @given(st.sampled_from(spots), anything)
    def check(spot: tuple[Any, tuple[Any, ...]], new: object) -> None:
        found = item_of(json.dumps(put(*spot, new)).encode())
        assert isinstance(found, Item)
        try:
            readings = PROVIDER.read(found)
        except Unreadable:
            assert not isinstance(found.value, dict)
            return
        for reading in readings:
            assert all(part is None or isinstance(part, str) for part in reading.identity or ())

    check()


def test_set_up_notices_are_no_events() -> None:
    """SES's texts at set-up give no events and no unreadable items"""
    subscribed = {"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "You have ..."}
    for message in (VALIDATED, f" {VALIDATED}\n", json.dumps(subscribed) + "\n"):
        assert list(PROVIDER.parse({"Message": message, "MessageId": "1"})) == []


def test_a_message_that_is_no_json_is_set_aside() -> None:
    """whatever somebody publishes to the topic by hand is kept as unreadable, with its text"""
    (found,) = PROVIDER.parse({"Message": "Hello", "MessageId": "1"})
    assert isinstance(found, UnreadableItem)
    assert found.body == b"Hello"


def test_what_postgres_cannot_hold_is_replaced() -> None:
    """a NUL character in SES's JSON is replaced, the rest of the event is read"""
    message = json.dumps(event("Send", "send", {}, commonHeaders={"subject": "a\x00b"}))
    (found,) = PROVIDER.parse({"Message": message, "MessageId": "sns-1"})
    assert isinstance(found, Item)
    assert (found.altered, found.event_id) == (True, "sns-1")
    assert PROVIDER.read(found)[0].subject == "a\N{REPLACEMENT CHARACTER}b"


def test_raw_is_the_providers_own_text() -> None:
    """`raw` is the text that SES wrote, not SNS's envelope nor a re-encoding"""
    message = '{ "eventType":"Send",  "mail":{"messageId":"\\u006d-1"} }'
    (found,) = PROVIDER.parse({"Message": message, "MessageId": "1"})
    assert isinstance(found, Item)
    assert found.text == message


# Settings and the simulator.


def settings(**given: object) -> SesSettings:
    return SesSettings.model_validate({"provider": "ses", **given})


@pytest.mark.parametrize("topics", [[], ["*"], ["arn:aws:sns:us-east-1:123456789012:a", "events"], [""]])
def test_problems_with_topics(topics: list[str]) -> None:
    """no topic, or one that is none, is a problem that shows what a right one looks like"""
    (problem,) = Ses.problems(settings(topics=topics), "sources.mail")
    assert problem.key == "sources.mail.topics"
    assert "arn:aws:sns:us-east-1:123456789012:ses-events" in problem.right


def test_problems_with_certificates(tmp_path: Path) -> None:
    """a certificate that is missing or unusable is a problem at start, never a fall-back to another check"""
    (tmp_path / "empty.pem").write_text("")
    for one in (str(tmp_path / "missing.pem"), str(tmp_path / "empty.pem"), str(tmp_path), "-----BEGIN rubbish"):
        made = settings(topics=signer.SAMPLE_TOPIC, certificates=one)
        assert [problem.key for problem in Ses.problems(made, "sources.mail")] == ["sources.mail.certificates"]
        with pytest.raises(ConfigError):
            Ses(made, World(fetch=nothing))


def test_pinned_certificates_are_said_loudly(tmp_path: Path) -> None:
    """a pinned certificate is allowed but warned of, an ordinary source is not"""
    made, _ = Ses.simulation.demo(tmp_path)
    (warning,) = Ses.warnings(settings(**made))
    assert "PINNED" in warning
    assert Ses.warnings(settings(topics=made["topics"])) == []


def test_the_demo_keeps_its_private_key_out_of_files(tmp_path: Path) -> None:
    """the demo's folder holds a certificate only, and two demos have different keys"""
    _, keys = Ses.simulation.demo(tmp_path)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "CERTIFICATE" in written
    assert "PRIVATE" not in written
    assert Ses.simulation.demo(tmp_path)[1] != keys
    assert all(stat.S_ISREG(path.stat().st_mode) for path in tmp_path.iterdir())


async def test_a_trial_source_as_the_instructions_say(tmp_path: Path) -> None:
    """a file with key and certificate, as the instructions make it, gives a source the simulator can sign for"""
    assert Ses.simulation.keys(settings(topics=signer.SAMPLE_TOPIC)) is None
    assert "-keyout trial.pem -out trial.pem" in Ses.simulation.unsignable
    (tmp_path / "trial.pem").write_text("".join(signer.make_key("trial", NOW)))
    made = settings(topics="arn:aws:sns:us-east-1:123456789012:trial", certificates=str(tmp_path / "trial.pem"))
    keys = Ses.simulation.keys(made)
    assert keys is not None
    assert "PRIVATE" not in repr(settings(certificates="".join(signer.make_key("trial", NOW))))
    occurrence = Occurrence(type=EventType.OPENED, recipient=ONE, at=NOW, run="r")
    provider = Ses(made, World(fetch=nothing))
    for version in ("1", "2"):
        (post,) = Ses.simulation.post([Ses.simulation.sample(occurrence)], {**keys, "version": version}, NOW)
        delivery = Delivery(source="ses", headers=post.headers, body=post.body)
        found = await provider.authenticate(delivery)
        (one,) = provider.parse(found.payload)
        assert isinstance(one, Item)
        assert provider.read(one)[0].recipient == ONE


def test_a_repeated_post_keeps_snss_id() -> None:
    """the simulator's repetition of an item looks like SNS's own retry"""
    occurrence = Occurrence(type=EventType.SENT, recipient=ONE, at=NOW, run="r")
    keys = {"private_key": signer.make_key("x", NOW)[0], **signer.arn_parts(signer.SAMPLE_TOPIC)}
    sample = Ses.simulation.sample(occurrence)
    first, second = Ses.simulation.post([sample, sample], keys, NOW)
    assert first.headers["x-amz-sns-message-id"] == second.headers["x-amz-sns-message-id"]
