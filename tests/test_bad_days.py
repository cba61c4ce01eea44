"""Bounces that say more about somebody else: a mailbox provider's bad day, a bad list, mail refused because of us."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from receiver.alert_settings import AlertSettings
from receiver.contacts.handling import Contacts
from receiver.store.bounce_hours import HOUR, Hour, count_missing, forget, hour_of
from receiver.store.consent import sendable
from receiver.watching.bad_days import LEAST_HARD, jump_in, least_share, threshold, watch
from receiver.watching.troubles import Trouble
from tests.alert_site import alert_site
from tests.cli import Receiver
from tests.log_events import store_rows
from tests.service import play, running
from tests.waiting import until
from tests.workers import VAULT

SETTINGS: Final = AlertSettings()
RELEASE: Final = timedelta(days=3)
START: Final = hour_of(datetime.now(UTC)) - timedelta(hours=20)  # of the bad day
DOMAINS: Final = {"google": "gmail.com", "yahoo": "yahoo.com", "microsoft": "outlook.com"}


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(database)
    try:
        yield made
    finally:
        await made.close()


def mail(provider: str, at: datetime, people: Sequence[str], **columns: Any) -> list[dict[str, Any]]:
    """Delivered to each of them, a minute apart."""
    domain = DOMAINS[provider]
    return [
        {
            "occurred_at": at + timedelta(seconds=20 * number),
            "recipient": f"{name}@{domain}",
            "recipient_domain": domain,
            "mailbox_provider": provider,
            "sender_domain": "news.example",
            **columns,
        }
        for number, name in enumerate(people)
    ]


HARD: Final = {"type": "bounced", "bounce_category": "hard", "bounce_class": "invalid_recipient"}
BLOCK: Final = {"type": "bounced", "bounce_category": "block", "bounce_class": "reputation"}


def names(word: str, count: int) -> list[str]:
    return [f"{word}{number}" for number in range(count)]


async def usual_days(connection: asyncpg.Connection, *providers: str, until: datetime = START) -> None:
    """Ten days of sixty messages to living people, of which one bounces."""
    rows = list[dict[str, Any]]()
    for day in range(1, 11):
        at = until - timedelta(days=day)
        for provider in providers:
            rows += mail(provider, at, names("living", 59)) + mail(provider, at, [f"dead{day}"], **HARD)
    await store_rows(connection, rows)
    while await count_missing(connection, until):
        pass


async def look(connection: asyncpg.Connection, now: datetime) -> list[Trouble]:
    async with connection.transaction():
        return await watch(connection, SETTINGS, now, release_after=RELEASE)


async def may_be_mailed(connection: asyncpg.Connection, address: str) -> tuple[bool, datetime | None]:
    row = (await sendable(connection, [VAULT.address_hash(address)], None, "marketing"))[0]
    return row["sendable"], row["until"]


async def suppress(connection: asyncpg.Connection, address: str, at: datetime) -> None:
    """As handlers do it after a hard bounce."""
    async with connection.transaction():
        await Contacts(connection, VAULT).suppress(address, at=at, reason="hard_bounce", source="test")


async def test_a_bad_day_of_a_mailbox_provider(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """when Gmail denies living mailboxes it is told, suppressions end by themselves, and later bounces are firm"""
    await usual_days(connection, "google", "yahoo")
    await store_rows(connection, mail("google", START, names("living", 40), **HARD))
    await store_rows(connection, mail("google", START, names("other", 60)) + mail("yahoo", START, names("living", 60)))
    await suppress(connection, "living1@gmail.com", START)
    await suppress(connection, "living2@gmail.com", START)
    (trouble,) = await look(connection, START + timedelta(minutes=30))
    assert (trouble.key, trouble.severity, trouble.since) == ("bad_day:google", "critical", START - HOUR)
    assert "google says of 40 of 100 messages that there is no such mailbox (40.0%; 1.7% is usual)" in trouble.text
    assert await may_be_mailed(connection, "living1@gmail.com") == (False, None)

    await store_rows(connection, mail("google", START + HOUR, names("living", 30), **HARD))  # it goes on
    (trouble,) = await look(connection, START + HOUR + timedelta(minutes=30))
    assert "70 of 130" in trouble.text
    assert await look(connection, START + 2 * HOUR) != []  # nothing tells yet that it is over

    await store_rows(connection, mail("google", START + 2 * HOUR, names("living", 60)))
    assert await look(connection, START + 4 * HOUR) == []
    (row,) = (await receiver("suppressions", "incidents", "--json")).rows
    assert (row["hard"], row["attempted"], row["state"], row["suppressed"]) == (70, 190, "provisional", 2)
    assert datetime.fromisoformat(row["ended_at"]) == START + 3 * HOUR
    release_at = START + 3 * HOUR + RELEASE
    assert await may_be_mailed(connection, "living1@gmail.com") == (False, release_at)
    assert await look(connection, START + 5 * HOUR) == []  # what belonged to it opens no other
    assert await connection.fetchval("SELECT count(*) FROM bounce_incidents") == 1

    await suppress(connection, "living2@gmail.com", START + 10 * HOUR)  # the mailbox really is gone
    await connection.execute("UPDATE bounce_incidents SET release_at = now() - interval '1 second'")
    assert await may_be_mailed(connection, "living1@gmail.com") == (True, None)
    assert await may_be_mailed(connection, "living2@gmail.com") == (False, None)


async def test_waves_are_one_bad_day(connection: asyncpg.Connection) -> None:
    """what begins again within a day is the same incident, so an address that bounced in both waves is provisional"""
    await usual_days(connection, "google")
    await store_rows(connection, mail("google", START, names("living", 50), **HARD))
    assert await look(connection, START + timedelta(minutes=30)) != []
    await store_rows(connection, mail("google", START + HOUR, names("living", 59)))
    assert await look(connection, START + 3 * HOUR) == []
    await store_rows(connection, mail("google", START + 8 * HOUR, names("living", 50), **HARD))
    (again,) = await look(connection, START + 8 * HOUR + timedelta(minutes=30))
    assert again.since == START - HOUR
    row = await connection.fetchrow("SELECT count(*), max(ended_at), max(release_at), max(hard) FROM bounce_incidents")
    assert tuple(row or ()) == (1, None, None, 100)


@pytest.mark.parametrize("providers", [["google"], ["google", "yahoo", "microsoft"]])
async def test_a_bad_list_is_no_bad_day(connection: asyncpg.Connection, providers: list[str]) -> None:
    """an import of addresses that never existed, at one mailbox provider or at all, makes one alert and no incident"""
    await usual_days(connection, *providers)
    rows = list[dict[str, Any]]()
    for provider in providers:
        rows += mail(provider, START, names("bought", 80), **HARD) + mail(provider, START, names("living", 60))
    await store_rows(connection, rows)
    (trouble,) = await look(connection, START + timedelta(minutes=30))
    assert trouble.key == "bad_list"
    assert f"{80 * len(providers)} of {140 * len(providers)} messages to {', '.join(sorted(providers))}" in trouble.text
    assert await connection.fetchval("SELECT count(*) FROM bounce_incidents") == 0


async def test_noise_is_no_bad_day(connection: asyncpg.Connection) -> None:
    """three of five raise nothing, nor do tests, echoes, reports that anybody can forge, and soft bounces"""
    await usual_days(connection, "google")
    await store_rows(connection, mail("google", START, names("living", 3), **HARD))
    await store_rows(connection, mail("google", START, names("other", 2)))
    await store_rows(
        connection, mail("google", START - 2 * HOUR, names("living", 59), **{**HARD, "bounce_category": "soft"})
    )
    for more in ({"is_test": True}, {"echo": True}, {"attribution": "unverified"}):
        await store_rows(connection, mail("google", START, names("living", 59), **{**HARD, **more}))
    assert await look(connection, START + timedelta(minutes=30)) == []
    assert await connection.fetchval("SELECT sum(attempted) FROM bounce_hours WHERE hour = $1", START) == 5


async def test_without_a_past_nothing_is_unusual(connection: asyncpg.Connection) -> None:
    """where no days tell what is usual, no share of hard bounces is called unusual"""
    await store_rows(connection, mail("google", START, names("living", 100), **HARD))
    assert await look(connection, START + timedelta(minutes=30)) == []


@pytest.mark.parametrize(
    ("usual", "hard", "attempted", "jump"),
    [
        (0.005, LEAST_HARD - 1, LEAST_HARD - 1, False),
        (0.005, LEAST_HARD, LEAST_HARD, True),
        (0.005, 20, 300, False),  # 6.7 %, but it may as well be 4.5 %
        (0.005, 40, 300, True),
        (0.3, 200, 400, False),  # a list as bad as ever
        (0.3, 300, 400, True),
    ],
)
def test_what_is_a_jump(usual: float, hard: int, attempted: int, *, jump: bool) -> None:
    """a jump is far above the usual share, however chance may have helped"""
    assert (jump_in("google", [Hour(START, attempted, hard)], usual) is not None) is jump
    assert 0 <= least_share(hard, attempted) <= hard / attempted < 1 + threshold(usual)


async def test_senders_are_folded(connection: asyncpg.Connection) -> None:
    """after some days hours are kept without their senders, with the same sums; nothing is counted twice"""
    at = START - timedelta(days=5)
    await store_rows(connection, mail("google", at, names("living", 5)))
    await store_rows(connection, mail("google", at, names("living", 4), sender_domain="shop.example"))
    while await count_missing(connection, START):
        pass
    for _ in range(2):
        await forget(connection, START)
        assert not await count_missing(connection, START)
        rows = await connection.fetch(
            "SELECT sender_domain, attempted FROM bounce_hours WHERE mailbox_provider = 'google'"
        )
        assert [tuple(row) for row in rows] == [("", 9)]


async def test_people_decide(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """release ends the waiting, confirm makes suppressions stay, declare opens what was not noticed; all is audited"""
    since = (START - HOUR).isoformat()
    until = (START + HOUR).isoformat()
    await suppress(connection, "ada@gmail.com", START)
    ended = await receiver(
        "suppressions", "incidents", "declare", "google", "--since", since, "--until", until, "--why", "x"
    )
    assert ended.code == 0
    assert await may_be_mailed(connection, "ada@gmail.com") == (False, START + HOUR + RELEASE)
    ended = await receiver("suppressions", "incidents", "confirm", "1", "--why", "closed", "--dry-run")
    assert "1 suppression: they stay for good" in ended.err
    assert await connection.fetchval("SELECT decision FROM bounce_incidents") is None
    assert (await receiver("suppressions", "incidents", "confirm", "1", "--why", "closed", "--yes")).code == 0
    assert await may_be_mailed(connection, "ada@gmail.com") == (False, None)
    assert (await receiver("suppressions", "incidents", "release", "1", "--why", "Gmail said so", "--yes")).code == 0
    assert await may_be_mailed(connection, "ada@gmail.com") == (True, None)
    assert (await receiver("suppressions", "incidents", "release", "9", "--why", "x", "--yes")).code == 1
    for word, meant in (("gmail", "google"), ("Outlook.com", "microsoft"), ("yaho", "yahoo")):
        ended = await receiver("suppressions", "incidents", "declare", word, "--since", since, "--why", "x")
        assert (ended.code, f"did you mean {meant}?" in ended.err) == (1, True), ended.err
    audit = await connection.fetch("SELECT action FROM audit_log ORDER BY id")
    assert [row["action"] for row in audit] == ["declare", "confirmed", "released"]


async def test_refused_mail_is_told(database: str, connection: asyncpg.Connection, tmp_path: Path) -> None:
    """a running service tells that a mailbox provider refuses a sender's mail, once there is enough of it"""
    now = datetime.now(UTC) - timedelta(hours=1)
    await store_rows(connection, mail("microsoft", now, names("living", 90)))
    await store_rows(connection, mail("microsoft", now, names("living", 9), **BLOCK))
    async with (
        alert_site() as hook,
        running(database, play("postmark", tmp_path), alerts=hook.settings(), watch_every=0.02),
    ):

        async def looked() -> bool:
            return bool(await connection.fetchval("SELECT finished_at FROM tasks WHERE name = 'watch_bounces'"))

        await until(looked)
        assert hook.notices == []  # of 99 messages
        await store_rows(connection, mail("microsoft", now, ["one-more"], sender_domain="news.example"))
        (opened,) = await hook.told(1)
    assert opened.value["data"]["key"] == "blocked:news.example:microsoft"
    assert "microsoft refused 9 of 100 messages (9.0%) from news.example in 6 hours" in opened.text


async def test_rates(connection: asyncpg.Connection, receiver: Receiver) -> None:
    """rates by sender and mailbox provider; none where there was no mail, or complaints are not told of"""
    now = datetime.now(UTC) - timedelta(minutes=30)
    for provider in ("google", "yahoo"):
        await store_rows(
            connection, mail(provider, now, names("living", 16)) + mail(provider, now, names("x", 4), **BLOCK)
        )
        await store_rows(connection, mail(provider, now, ["living1"], type="complained"))
    await store_rows(connection, mail("microsoft", now, ["living1"], type="complained"))
    found = {row["mailbox_provider"]: row for row in (await receiver("policy", "rates", "--json")).rows}
    assert (found["yahoo"]["attempted"], found["yahoo"]["block_rate"], found["yahoo"]["hard_rate"]) == (20, 0.2, 0)
    assert [found[name]["complaint_rate"] for name in ("yahoo", "google", "microsoft")] == [1 / 16, None, None]
    assert found["microsoft"]["block_rate"] is None
    assert "20.00" in (await receiver("policy", "rates", "--mailbox-provider", "yahoo")).out
    assert (await receiver("policy", "rates", "--sender-domain", "other.example")).err == "no mail in that time\n"
