"""Bounce messages and feedback reports: who believes them, what is kept of them, and mails made to do harm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver import Event, RetryAfter, Skip
from receiver.contract import Item, Occurrence, UnreadableItem, World
from receiver.event import EventType
from receiver.mail_reports import PARTS, RECIPIENTS
from receiver.plugins.loading import load_handlers
from receiver.providers.arf_dsn import ArfDsn, ArfDsnSettings
from receiver.signers import mail_reports as samples
from receiver.store.rows import select_list, to_event
from receiver.testing import Result, Trial
from tests.provider_fixtures import _no_fetch, fixtures
from tests.service import Played, Running, play, running

HANDLERS: Final = {one.name: one for one in load_handlers(Path(__file__).parents[1] / "handlers")}
ALICE: Final = "alice@customer.example"
RETURN_PATH: Final = "bounce+{id}@bounces.example.net"
PROVIDER: Final = ArfDsn(
    ArfDsnSettings.model_validate({"provider": "arf_dsn", "return_path": RETURN_PATH}), World(fetch=_no_fetch)
)


def report(type_: EventType, about: str | None, *, number: int = 0, to: str = "bounces@example.net") -> dict[str, Any]:
    """A report on Alice's message with that Message-ID."""
    moment = datetime.fromisoformat("2026-11-20T11:59:00+00:00")
    item = samples.sample(Occurrence(type=type_, recipient=ALICE, at=moment, run="t", number=number))
    returned = {} if about is None else item["returned"] | {"message-id": f"<{about}>"}
    return item | {"headers": item["headers"] | {"to": to}, "returned": returned}


async def posted(service: Running, played: Played, item: Mapping[str, Any]) -> None:
    for post in played.post_items([item]):
        assert (await service.post("arf_dsn", post)).status_code == 200


async def sent(service: Running, provider: Played) -> str:
    """The id of a message to Alice, of which another source tells."""
    for post in provider.posts(EventType.DELIVERED, ALICE):
        assert (await service.post("postmark", post)).status_code == 200
    (row,) = await service.events("provider = 'postmark'")
    return str(row["message_id"])


async def reported(service: Running) -> list[Event]:
    query = f"SELECT {select_list('e')} FROM events e WHERE provider = 'arf_dsn' ORDER BY position"
    return [to_event(row) for row in await service.connection.fetch(query)]


async def handled(dsn: str, name: str, *events: Event, late: timedelta = timedelta()) -> Result:
    async with Trial(dsn) as trial:
        return await trial.run(HANDLERS[name], *events, now=max(one.received_at for one in events) + late)


@pytest.mark.parametrize(("type_", "reason"), [(EventType.BOUNCED, "hard_bounce"), (EventType.COMPLAINED, "complaint")])
@pytest.mark.parametrize("by", ["message id", "return path"])
async def test_a_report_on_a_known_send_suppresses(
    type_: EventType, reason: str, by: str, database: str, tmp_path: Path
) -> None:
    """where another source told of the same message to the same recipient, whichever came first, a report counts"""
    played, provider = play("arf_dsn", tmp_path, return_path=RETURN_PATH), play("postmark", tmp_path)
    async with running(database, played, provider) as service:
        known = await sent(service, provider)
        by_id = report(type_, known), report(type_, None, to=f"<bounce+{known}@bounces.example.net>")
        await posted(service, played, by_id[by == "return path"])
        (event,) = await reported(service)
        assert (event.type, event.recipient, event.attribution) == (type_, ALICE, "unverified")
        alone = await handled(database, "suppression", event)
        assert (alone.suppressions, len(alone.events)) == ([], 1)
        found = await handled(database, "reports", event)
        assert [one.reason for one in found.suppressions] == [reason]
        assert found.contacts[ALICE].last_event_at == event.occurred_at


async def test_a_forged_report_does_not_suppress(database: str, tmp_path: Path) -> None:
    """a report on a message nobody knows, or one that went to somebody else, suppresses nobody, nor do several"""
    played, provider = play("arf_dsn", tmp_path, return_path=RETURN_PATH), play("postmark", tmp_path)
    async with running(database, played, provider) as service:
        known = await sent(service, provider)
        other = report(EventType.BOUNCED, known, number=3)
        other["recipient"] |= dict.fromkeys(("original-recipient", "final-recipient"), "rfc822; bob@customer.example")
        forged = (
            report(EventType.BOUNCED, "made-up@example.net"),
            report(EventType.COMPLAINED, "made-up@example.net", number=1),
            report(EventType.DELIVERED, "made-up@example.net", number=2),
            other,
            report(EventType.BOUNCED, None, number=4, to="<bounce+made-up@bounces.example.net>"),
            report(EventType.BOUNCED, None, number=5),
        )
        for item in forged:
            await posted(service, played, item)
        events = await reported(service)
        assert len(events) == len(forged)
        for event in events:
            assert event.attribution == "unverified"
            for name in ("suppression", "reports", "engagement"):
                found = await handled(database, name, event, late=timedelta(days=2))
                assert found.suppressions == []
                assert all(one.last_event_at is None for one in found.contacts.values())


async def test_a_report_waits_for_its_send(database: str, tmp_path: Path) -> None:
    """a report that comes before the other source's event is looked at again for a day, and counts as soon as it can"""
    played, provider = play("arf_dsn", tmp_path), play("postmark", tmp_path)
    async with running(database, played, provider) as service:
        sample = provider.source.provider.simulation.sample(provider.occurrences(EventType.DELIVERED, ALICE)[0])
        await posted(service, played, report(EventType.BOUNCED, sample["MessageID"]))
        (event,) = await reported(service)
        early = await handled(database, "reports", event)
        assert early.outcome == RetryAfter(timedelta(minutes=1), "no send is known yet")
        assert isinstance((await handled(database, "reports", event, late=timedelta(days=1))).outcome, Skip)
        (post,) = provider.post_items([sample])
        await service.post("postmark", post)
        assert [one.reason for one in (await handled(database, "reports", event)).suppressions] == ["hard_bounce"]


async def test_a_report_is_stored_once_and_without_what_people_wrote(database: str, tmp_path: Path) -> None:
    """the same report posted again is one row; `raw` has its fields, and neither bodies nor the other recipients"""
    played = play("arf_dsn", tmp_path)
    (multi,) = (one for one in fixtures("arf_dsn") if one.name == "failed__rfc3464_e2")
    async with running(database, played) as service:
        headers = {"authorization": played.posts(EventType.BOUNCED, ALICE)[0].headers["authorization"]}
        for number in (1, 2):
            mail = b"Received: by hop%d.example.net\r\nMessage-ID: <r1@cs.utk.edu>\r\n%s" % (number, multi.body)
            answer = await service.client.post("/webhooks/arf_dsn", content=mail, headers=headers)
            assert answer.status_code == 200
        rows = sorted(await service.events(), key=lambda row: str(row["recipient"]))
    assert [(row["recipient"], row["type"], row["bounce_category"]) for row in rows] == [
        ("arathib@vnet.ibm.com", "bounced", "hard"),
        ("johnh@hpnjld.njd.hp.com", "deferred", None),
        ("wsnell@sdcc13.ucsd.edu", "bounced", "hard"),
    ]
    assert "wsnell" not in rows[0]["raw"]
    assert "original message goes here" not in rows[0]["raw"]
    assert json.loads(rows[0]["raw"])["recipient"]["remote-mta"] == "dns; vnet.ibm.com"


@pytest.mark.parametrize("path", ["bounces@example.net", "{id}", "a@{id}.example.net", "{id}+{id}@example.net"])
def test_return_paths_that_cannot_be(path: str) -> None:
    """a return path without one place for the id before the @ is a problem of the configuration"""
    made = ArfDsnSettings.model_validate(
        {"provider": "arf_dsn", "password": "of the script, 4711", "return_path": path}
    )
    assert [problem.key for problem in ArfDsn.problems(made, "sources.s")] == ["sources.s.return_path"]


# Mails made to do harm.


def read(mail: bytes) -> tuple[int, int]:
    """(events, unreadable items) of a mail; raises nothing."""
    items = list(PROVIDER.parse(mail))
    good = [one for one in items if isinstance(one, Item)]
    for one in items:
        assert isinstance(one, Item) or (one.why and one.body == mail)
    return sum(len(PROVIDER.read(one)) for one in good), len(items) - len(good)


def words(mail: bytes) -> list[str]:
    good = [one for one in PROVIDER.parse(mail) if isinstance(one, Item)]
    return [reading.word for one in good for reading in PROVIDER.read(one)]


STATUS: Final = b"Final-Recipient: rfc822; alice@customer.example\nAction: failed\nStatus: 5.1.1\n"


def nested(levels: int) -> bytes:
    """A report within so many multiparts."""
    mail = b"Content-Type: message/delivery-status\n\n" + STATUS
    for level in range(levels):
        line = b"--b%d" % level
        mail = b"Content-Type: multipart/mixed; boundary=b%d\n\n%s\n%s\n%s--\n" % (level, line, mail, line)
    return mail


EMPTY: Final = b"--b\nContent-Type: multipart/mixed; boundary=c\n\n"


def parted(parts: int) -> bytes:
    """A report that stands behind so many other parts."""
    other = b"--b\nContent-Type: text/plain\n\nx\n"
    status = b"--b\nContent-Type: message/delivery-status\n\n" + STATUS
    head = b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n"
    return head + other * parts + status + b"\n--b--\n"


def test_what_is_too_much() -> None:
    """a report too deep within others, behind too many parts or about too many is set aside or is no report"""
    assert words(nested(3)) == ["failed"]
    assert words(nested(2000)) == ["(no report)"]
    assert read(parted(PARTS - 1)) == (1, 0)
    assert read(parted(PARTS)) == (0, 1)
    assert read(parted(0).replace(b"--b\n", EMPTY * 2 * PARTS + b"--b\n", 1)) == (0, 1)
    head = b"Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example.net\n\n"
    assert read(head + (STATUS + b"\n") * RECIPIENTS) == (RECIPIENTS, 0)
    assert read(head + (STATUS + b"\n") * (RECIPIENTS + 1)) == (0, 1)


@pytest.mark.parametrize(
    "mail",
    [
        b"",
        b"\r\n\r\n",
        b"no header at all",
        b"\xff\xfe\x00",
        b"Content-Type: multipart/report; report-type=delivery-status\n\nno boundary",
        b"Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\nA",
        b"Content-Type: message/feedback-report\n\n\n",
    ],
)
def test_what_is_broken(mail: bytes) -> None:
    """what is no mail, or a report without its machine-readable part, is set aside"""
    assert read(mail) == (0, 1)


whole_mails = st.sampled_from([one.body for one in fixtures("arf_dsn")])
pieces = st.sampled_from(
    [
        b"\r\n",
        b"\n\n",
        b"--b1_47",
        b"--",
        b":",
        b";",
        b"\x00",
        b"\xff",
        b"=?utf-8?b?=?=",
        b"<",
        b">",
        b"utf-8; \\x{D800}",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    whole_mails, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 30), pieces | st.binary(max_size=8)), max_size=6)
)
def test_spoilt_mails(mail: bytes, spots: list[tuple[float, int, bytes]]) -> None:
    """a report with pieces cut out and others put in is read or set aside, and raises nothing"""
    for place, length, new in spots:
        at = int(place * len(mail))
        mail = mail[:at] + new + mail[at + length :]
    read(mail)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(mail: bytes) -> None:
    """any bytes are read or set aside, and raise nothing"""
    read(mail)
    read(b"Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nOriginal-Rcpt-To: " + mail)


def test_a_report_on_many_is_no_flood() -> None:
    """what all recipients of a report share is cut down where they are many, so that a small mail stays small"""
    head = b"Message-ID: <r1@x.example>\nX-Long: " + b"y" * 3000 + b"\nContent-Type: message/delivery-status\n\n"
    (one,) = PROVIDER.parse(head + STATUS)
    assert isinstance(one, Item)
    assert "yyy" in one.text
    items = [one for one in PROVIDER.parse(head + (STATUS + b"\n") * RECIPIENTS) if isinstance(one, Item)]
    assert sum(len(one.text) for one in items) < RECIPIENTS * 500
    assert len({tuple(reading.identity or ()) for one in items for reading in PROVIDER.read(one)}) == RECIPIENTS


def test_unreadable_mails_are_kept_whole() -> None:
    """a broken report is set aside with all its bytes"""
    (item,) = PROVIDER.parse(b"nothing")
    assert isinstance(item, UnreadableItem)
    assert item.body == b"nothing"
