"""`/metrics`: what Prometheus's own parser reads in it, and that no stranger can choose a label's value."""

from __future__ import annotations

import asyncio
import json
import random
import re
import string
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from receiver.classify.mailboxes import mailbox_provider
from receiver.dispatch.worker import Worker
from receiver.errors import Reason
from receiver.event import Event, EventType
from receiver.ingest.mangled import MangledBodies
from receiver.ingest.receive import OUTCOMES
from receiver.plugins.context import Context
from receiver.plugins.handlers import Handler, handler
from receiver.plugins.outcomes import GiveUp, RetryAfter
from tests.service import Played, Running, play, running
from tests.tcp_proxy import proxied
from tests.waiting import until
from tests.workers import VAULT

ALERTS: Final = Path(__file__).parents[1] / "docs" / "alerts"


@handler(tests=True)
async def picky(event: Event, _: Context) -> GiveUp | RetryAfter | None:
    """Fails for some, puts others off."""
    match event.recipient:
        case "never@one.test":
            return GiveUp("no")
        case "later@one.test":
            return RetryAfter(3600)
        case "broken@one.test":
            raise ValueError(event.recipient)
    return None


@asynccontextmanager
async def serving(database: str, *played: Played, **options: Any) -> AsyncIterator[Running]:
    worker = Worker(dsn=database, handlers=[found(picky)], vault=VAULT, poll=(0.02, 0.1))
    async with running(database, *played, dispatcher=worker, watch_every=0.05, **options) as service:
        yield service


def found(one: Any) -> Handler:
    assert isinstance(one, Handler)
    return one


async def scrape(service: Running) -> str:
    answer = await service.client.get(f"{service.admin_url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Label values in the order of their names -> value, of one sample name."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families(text).values()
        for sample in family.samples
        if sample.name == name
    }


async def until_seen(service: Running, name: str, expected: Mapping[tuple[str, ...], float]) -> None:
    async def seen() -> bool:
        return values(await scrape(service), name) == expected

    await until(seen)


async def shown(service: Running, name: str, labels: tuple[str, ...]) -> str:
    """The first scrape that has a sample with these values of its labels."""

    async def seen() -> str | None:
        text = await scrape(service)
        return text if labels in values(text, name) else None

    found = await until(seen)
    assert found is not None
    return found


async def test_what_happened_is_counted(database: str, tmp_path: Path) -> None:
    """requests, events, bounces, duplicates, quarantine and what became of events are counted under their names."""
    sendgrid = play("sendgrid", tmp_path, expect_every="15m")
    people = ("ada@gmail.com", "never@one.test", "later@one.test", "broken@one.test")
    async with serving(database, sendgrid) as service:
        await until_seen(service, "receiver_shards_held", {("picky",): 64})
        (bounced,) = sendgrid.posts(EventType.BOUNCED, *people)
        (delivered,) = sendgrid.posts(EventType.DELIVERED, *people, run="d")
        for post in (bounced, bounced, delivered):
            assert (await service.post("sendgrid", post)).status_code == 200
        for post in sendgrid.post_items([7]):
            await service.post("sendgrid", post)
        await service.client.post("/webhooks/sendgrid", content=b"[]")
        kinds = ("handled", "given_up", "later", "failed")
        outcomes: dict[tuple[str, ...], float] = {("picky", kind): 2 for kind in kinds}
        await until_seen(service, "receiver_handler_events_total", outcomes)
        await until_seen(service, "receiver_handler_dead_letters", {("picky",): 2})
        text = await shown(service, "receiver_alerts_open", ("dead_letters",))
    requests = {outcome: count for (outcome, _), count in values(text, "receiver_requests_total").items() if count}
    assert requests == {"refused": 1, "stored": 4}
    assert values(text, "receiver_refused_total") == {("missing_header", "sendgrid"): 1}
    assert values(text, "receiver_events_total") == {("sendgrid", "bounced"): 4, ("sendgrid", "delivered"): 4}
    bounces = values(text, "receiver_bounces_total")
    assert {mailbox for _, mailbox in bounces} == {"google", "other"}
    assert sum(bounces.values()) == 4
    assert values(text, "receiver_duplicates_total") == {(): 4}
    assert values(text, "receiver_quarantined_total") == {("sendgrid",): 1}
    assert values(text, "receiver_quarantine_open") == {("sendgrid",): 1}
    assert values(text, "receiver_commit_seconds_count") == {(): 4}
    assert values(text, "receiver_batch_events_sum") == {(): 12}
    assert values(text, "receiver_handler_retries") == {("picky",): 4}
    assert values(text, "receiver_source_expect_seconds") == {("sendgrid",): 900}
    assert values(text, "receiver_database_up") == {(): 1}
    assert values(text, "receiver_workers") == {(): 1}
    assert values(text, "receiver_alerts_open")["dead_letters",] == 1
    assert values(text, "receiver_partitions_until_timestamp_seconds")[()] > datetime.now(UTC).timestamp()


async def test_what_has_not_happened_is_shown_as_0(database: str, tmp_path: Path) -> None:
    """a source's outcomes and quarantine are shown from the start, since Prometheus sees no rise from nothing."""
    async with serving(database, play("sendgrid", tmp_path)) as service:
        await until_seen(service, "receiver_quarantine_open", {("sendgrid",): 0})
        text = await scrape(service)
    assert values(text, "receiver_requests_total") == dict.fromkeys([(one, "sendgrid") for one in OUTCOMES], 0)
    assert values(text, "receiver_quarantined_total") == {("sendgrid",): 0}


async def test_requests_that_no_source_takes_are_counted(database: str, tmp_path: Path) -> None:
    """a POST below /webhooks/ to a URL that no source has, such as a mistyped one, is counted, without the URL."""
    async with serving(database, play("sendgrid", tmp_path)) as service:
        for path in ("/webhooks/sengrid", "/webhooks/sendgrid/more", "/webhooks/", "/elsewhere"):
            assert (await service.client.post(path, content=b"[]")).status_code == 404
        assert (await service.client.get("/webhooks/sengrid")).status_code == 404
        text = await scrape(service)
    assert values(text, "receiver_unknown_source_total") == {(): 3}
    assert sum(values(text, "receiver_requests_total").values()) == 0


async def test_a_fault_of_ours_is_counted(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a delivery that a fault of the service kept from being received is counted as one that is to come again."""

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MangledBodies, "why_wrong", broken)
    sendgrid, other = play("sendgrid", tmp_path), play("sendgrid", tmp_path, name="other")
    async with serving(database, sendgrid) as service:
        for post in other.posts(EventType.DELIVERED, "ada@one.test"):
            assert (await service.post("sendgrid", post)).status_code == 503
        text = await scrape(service)
    counted = {key: count for key, count in values(text, "receiver_requests_total").items() if count}
    assert counted == {("again", "sendgrid"): 1}


async def test_the_backlog_is_measured_from_when_events_were_due(database: str, tmp_path: Path) -> None:
    """an event counts from when it is due, not from when it came: one that was put off for hours is not late."""
    sendgrid = play("sendgrid", tmp_path)
    async with serving(database, sendgrid) as service:
        await until_seen(service, "receiver_shards_held", {("picky",): 64})
        for post in sendgrid.posts(EventType.DELIVERED, "later@one.test"):
            await service.post("sendgrid", post)
        await until_seen(service, "receiver_handler_retries", {("picky",): 1})
        await service.connection.execute("UPDATE events SET received_at = received_at - interval '2 h'")
        await service.connection.execute("UPDATE retries SET event_received_at = event_received_at - interval '2 h'")
        await until_seen(service, "receiver_handler_backlog_seconds", {("picky",): 0})
        await service.connection.execute("UPDATE retries SET next_at = now() - interval '1 h', handler = 'other'")
        await service.connection.execute("UPDATE cursors SET handler = 'other', owner = NULL WHERE shard = 0")
        text = await shown(service, "receiver_handler_backlog_seconds", ("other",))
    assert values(text, "receiver_handler_backlog_seconds")["other",] >= 3600
    assert values(text, "receiver_handler_backlog_events")["other",] == 1


async def test_dead_letters_outlive_their_handler(database: str, tmp_path: Path) -> None:
    """open dead letters of a handler that was removed, cursors and all, are still counted under its name."""
    async with serving(database, play("sendgrid", tmp_path)) as service:
        await service.connection.execute(
            "INSERT INTO dead_letters (handler, event_id, event, event_type, source, attempts, error_type, error)"
            " VALUES ('gone', gen_random_uuid(), '{}', 'delivered', 'shop', 8, 'ValueError', 'no')"
        )
        await until_seen(service, "receiver_handler_dead_letters", {("gone",): 1, ("picky",): 0})


async def test_when_retention_was_last_done_is_shown(database: str, tmp_path: Path) -> None:
    """the time at which retention last did all it should is shown, and 0 where it never did."""
    async with serving(database, play("sendgrid", tmp_path)) as service:
        await service.connection.execute(
            "INSERT INTO tasks (name, owner, lease_until) VALUES ('retention', 'another process', 'infinity')"
        )
        await until_seen(service, "receiver_retention_done_timestamp_seconds", {(): 0})
        await service.connection.execute("UPDATE tasks SET finished_at = to_timestamp(1800000000)")
        await until_seen(service, "receiver_retention_done_timestamp_seconds", {(): 1800000000})


async def test_names_types_and_help(database: str, tmp_path: Path) -> None:
    """every metric has a type and a help text, counters end in _total, and the units are Prometheus's base units."""
    async with serving(database, play("sendgrid", tmp_path)) as service:
        text = await scrape(service)
    for name, family in families(text).items():
        assert family.documentation, name
        assert family.type in ("counter", "gauge", "histogram"), name
        assert not name.endswith(("_ms", "_milliseconds", "_minutes", "_kb")), name
        if family.type == "counter":
            assert {sample.name for sample in family.samples} <= {f"{name}_total"}
        if family.type == "gauge":
            assert not name.endswith(("_total", "_count", "_sum", "_bucket")), name


def hostile(random_: random.Random) -> str:
    alphabet = string.ascii_letters + string.digits + '"\\\n{}=,. é漢\u202e'
    return "zz" + "".join(random_.choice(alphabet) for _ in range(random_.randrange(1, 30)))


async def test_no_label_is_a_strangers_to_choose(database: str, tmp_path: Path) -> None:
    """whatever words, domains, headers and paths strangers send, label values stay within closed tables."""
    random_ = random.Random(7)
    sendgrid = play("sendgrid", tmp_path)
    async with serving(database, sendgrid) as service:
        now = int(datetime.now(UTC).timestamp())
        items = [
            {
                "email": f"a@{hostile(random_)}",
                "timestamp": now,
                "event": random_.choice(["bounce", "deferred", hostile(random_)]),
                "type": hostile(random_),
                "reason": hostile(random_),
                "bounce_classification": hostile(random_),
                "status": hostile(random_),
                "sg_message_id": hostile(random_),
                "category": [hostile(random_)],
            }
            for _ in range(200)
        ]
        for post in sendgrid.post_items(items):
            assert (await service.post("sendgrid", post)).status_code == 200
        for _ in range(30):
            path = "/webhooks/" + random_.choice(["sendgrid", "zz" + str(random_.random())])
            headers = {"x-twilio-email-event-webhook-signature": f"zz{random_.random()}", "content-encoding": "zzip"}
            await service.client.post(path, content=json.dumps(hostile(random_)), headers=headers)
        text = await scrape(service)
    assert sum(values(text, "receiver_events_total").values()) == 200
    allowed = {*map(str, EventType), *map(str, Reason), *mailboxes(items), *OTHERS, "sendgrid", "picky"}
    for family in families(text).values():
        for sample in family.samples:
            for name, value in sample.labels.items():
                if name not in ("le", "version", "python"):
                    assert value in allowed, sample
    assert "zz" not in text


OTHERS: Final = {
    *OUTCOMES,
    *("unknown", "other"),
    *("hard", "soft", "block", "admin", "undetermined"),
    *("handled", "failed", "later", "given_up", "busy", "idle", "most"),
    *(
        "silence",
        "backlog",
        "breaker",
        "dead_letters",
        "quarantine",
        "partitions",
        "retention",
        "replay",
        "retention_failed",
    ),
}


def mailboxes(items: Iterable[Mapping[str, Any]]) -> set[str]:
    """A closed table: its words for these domains hold nothing of the domains."""
    return {str(mailbox_provider(str(item["email"]).rpartition("@")[2].lower())) for item in items}


async def test_a_scrape_does_not_wait_for_the_database(database: str, tmp_path: Path) -> None:
    """while the database does not answer a scrape does, without what only the database knows, and says so."""
    async with (
        proxied(database) as (proxy, dsn),
        running(dsn, play("sendgrid", tmp_path), connection_dsn=database) as service,
    ):
        await until_seen(service, "receiver_database_up", {(): 1})
        proxy.passing.clear()

        async def down() -> bool:
            return values(await asyncio.wait_for(scrape(service), 10), "receiver_database_up") == {(): 0}

        await until(down, within=60)
        proxy.passing.set()
        await until_seen(service, "receiver_database_up", {(): 1})


# Prometheus's own tool --------------------------------------------------------------------------------------------


def promtool(*arguments: str, stdin: str | None = None) -> str:
    ended = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.peers
async def test_promtool_finds_nothing_wrong_with_the_metrics(database: str, tmp_path: Path) -> None:
    """`promtool check metrics` has nothing to say about what the service shows."""
    sendgrid = play("sendgrid", tmp_path, expect_every="15m")
    async with serving(database, sendgrid) as service:
        await until_seen(service, "receiver_shards_held", {("picky",): 64})  # a new handler begins with what comes then
        for post in sendgrid.posts(EventType.BOUNCED, "never@one.test"):
            await service.post("sendgrid", post)
        await until_seen(service, "receiver_handler_dead_letters", {("picky",): 1})
        text = await scrape(service)
    ours = "".join(line for line in text.splitlines(keepends=True) if "process_" not in line and "python_" not in line)
    assert await asyncio.to_thread(promtool, "check", "metrics", stdin=ours) == ""


@pytest.mark.peers
def test_the_alert_rules_do_what_they_say() -> None:
    """every rule fires on what it is about, and not before; the rules' file is valid."""
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS / "receiver.rules.yml"))
    assert "SUCCESS" in promtool("test", "rules", str(Path(__file__).parent / "alert_rules.test.yml"))


async def test_the_rules_use_metrics_that_exist(database: str, tmp_path: Path) -> None:
    """every metric that a rule names is one that the service shows."""
    sendgrid = play("sendgrid", tmp_path, expect_every="15m")
    async with serving(database, sendgrid) as service:
        await until_seen(service, "receiver_shards_held", {("picky",): 64})
        for post in sendgrid.post_items([7]):
            await service.post("sendgrid", post)
        await until_seen(service, "receiver_quarantine_open", {("sendgrid",): 1})
        text = await scrape(service)
    shown = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    shown |= {f"{name}_bucket" for name in shown}
    named = set(re.findall(r"\breceiver_[a-z_]+", (ALERTS / "receiver.rules.yml").read_text()))
    assert named
    assert named <= shown
