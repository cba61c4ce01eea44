"""`receiver simulate` against the real service: what it posts is accepted, stored once and what it claims to be."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from receiver.cli import packs
from receiver.cli.simulate import PACKS
from receiver.demo import make_demo, with_demo
from receiver.embedded import lock_data_dir
from receiver.event import EventType
from receiver.providers import providers
from receiver.runfile import kept, this_run
from receiver.settings import Settings
from receiver.sources import bind_sources
from tests.cli import Receiver, command
from tests.service import WORLD, Played, Running, running

PASSWORD = "Zz9-postmark-password-of-the-test"


@pytest.fixture
def receiver(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    for name in [name for name in os.environ if name.startswith("RECEIVER_") or name == "DATABASE_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return command(capsys)


@pytest.fixture
async def demo(database: str, tmp_path: Path) -> AsyncIterator[Running]:
    """A demo service, which commands in this directory find by its run file."""
    with lock_data_dir(tmp_path / ".receiver") as lock:
        made = make_demo(lock.data_dir)
        sources = bind_sources(with_demo(Settings(), made), WORLD)
        played = [Played(source, made.keys[name]) for name, source in sources.items()]
        async with running(database, *played) as service:
            run = this_run(url=service.url, admin_url=service.admin_url, database=database, demo=True)
            with kept(lock.data_dir, run):
                yield service


# A service for each provider would take long.
PARTS = [[*providers()][start::4] for start in range(4)]
in_parts = pytest.mark.parametrize("part", PARTS, ids=["first", "second", "third", "fourth"])


async def _every_type(receiver: Receiver, demo: Running, provider: str) -> None:
    simulation = providers()[provider].simulation
    first, recipient = simulation.types[0], "ada@customer-domain.test"
    done = await receiver("simulate", provider, first, "--to", recipient, "--pack", "disorder", "--json")
    assert done.code == 0, f"{provider}: {done.out}{done.err}"
    rows = await demo.events("provider = $1", provider)
    assert sorted(row["type"] for row in rows) == sorted(map(str, simulation.types)), provider
    assert not any(row["is_test"] for row in rows), provider
    named = recipient if simulation.names_recipients else None
    assert {row["recipient"] for row in rows if row["type"] != EventType.INBOUND} == {named}, provider


@in_parts
async def test_every_type(receiver: Receiver, demo: Running, part: Sequence[str]) -> None:
    """every type a provider can report arrives as that type, for that recipient, and is no test event"""
    for provider in part:
        await _every_type(receiver, demo, provider)
    assert await demo.count("quarantine") == 0


@pytest.mark.parametrize(("provider", "count"), [("sendgrid", 250), ("resend", 30), ("ses", 10)])
async def test_many(receiver: Receiver, demo: Running, provider: str, count: int) -> None:
    """many distinct events, each sent three times and in random order, end as one row each"""
    arguments = ("--count", str(count), "--duplicate", "2", "--shuffle", "--to", "user@one.test")
    done = await receiver("simulate", provider, "delivered", *arguments)
    assert done.code == 0, done.out + done.err
    assert f"{3 * count} events" in done.out
    rows = await demo.events()
    assert sorted(row["recipient"] for row in rows) == sorted(
        f"user{number}@one.test" for number in range(1, count + 1)
    )


@in_parts
async def test_bad_signature(receiver: Receiver, demo: Running, part: Sequence[str]) -> None:
    """a bad signature is refused by every provider's rules, which is what was expected; nothing is stored"""
    for provider in part:
        kind = providers()[provider]
        done = await receiver("simulate", provider, kind.simulation.types[0], "--bad-signature", "--json")
        assert done.code == 0, provider + done.out + done.err
        (row,) = done.rows
        assert row["status"] in (kind.reply.refused, kind.reply.again), provider
        assert row["expected"] is True, provider
    assert await demo.events() == []


@in_parts
async def test_nasty_input(receiver: Receiver, demo: Running, part: Sequence[str]) -> None:
    """nasty input is answered as it should be, by every provider, and no fault of ours shows"""
    packs_ = [option for pack in PACKS if pack not in {"batch", "disorder"} for option in ("--pack", pack)]
    for provider in part:
        done = await receiver("simulate", provider, providers()[provider].simulation.types[0], *packs_, "--json")
        assert done.code == 0, (provider, [row for row in done.rows if not row["expected"]], done.err)
    assert await demo.count("quarantine WHERE why LIKE 'a fault of ours%'") == 0


async def test_a_thousand_at_once(receiver: Receiver, demo: Running) -> None:
    """a thousand events in one request, where the provider puts that many together"""
    done = await receiver("simulate", "sendgrid", "clicked", "--pack", "batch", "--json")
    assert done.code == 0
    assert len(done.rows) < 5
    assert len(await demo.events()) == 1000


async def test_many_answers_of_a_pack(receiver: Receiver, demo: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """of a pack that is many requests the first are shown, and the others counted"""
    monkeypatch.setattr(packs, "THOUSAND", 23)
    done = await receiver("simulate", "postmark", "bounced", "--pack", "batch")
    assert done.code == 0
    assert done.out.count("postmark bounced: 200") == 20
    assert "... and 3 more\n" in done.out
    assert len(await demo.events()) == 23


async def test_duplicates_with_new_ids(receiver: Receiver, demo: Running) -> None:
    """repetitions under new ids are stored once; an event of a new word, and one of nobody, are kept"""
    assert tuple(packs.PACKS) == PACKS
    assert (await receiver("simulate", "sendgrid", "bounced", "--pack", "duplicates")).code == 0
    assert len(await demo.events()) == 1
    assert (await receiver("simulate", "sendgrid", "bounced", "--pack", "unknown", "--pack", "nobody")).code == 0
    rows = await demo.events()
    assert [(row["type"], row["recipient"] is None) for row in rows[1:]] == [("unknown", False), ("bounced", True)]
    wrong = await receiver("simulate", "sendgrid", "bounced", "--pack", "duplicate")
    assert wrong.code == 1
    assert "did you mean duplicates?" in wrong.err


async def test_same_run_is_the_same(receiver: Receiver, demo: Running) -> None:
    """the same run at the same time posts the same events again, another one does not"""
    for run in ("one", "one", "two"):
        arguments = ("--run", run, "--at", "2026-01-31T12:00Z", "--count", "2")
        assert (await receiver("simulate", "sendgrid", "clicked", *arguments)).code == 0
    assert len(await demo.events()) == 4


async def test_rate(receiver: Receiver, demo: Running) -> None:
    """--rate spreads the events over time"""
    began = time.monotonic()
    done = await receiver("simulate", "postmark", "opened", "--count", "6", "--rate", "600/min")
    assert done.code == 0
    assert time.monotonic() - began >= 0.5
    assert len(await demo.events()) == 6


async def test_json(receiver: Receiver, demo: Running) -> None:
    """--json gives one line for each request"""
    done = await receiver("simulate", "postmark", "bounced", "--count", "3", "--run", "r1", "--json")
    assert [(row["status"], row["run"], row["events"]) for row in done.rows] == [(200, "r1", 1)] * 3
    assert "3 answered as expected" in done.err
    assert len(await demo.events()) == 3


async def test_unexpected_answer(receiver: Receiver, demo: Running, tmp_path: Path) -> None:
    """an answer that is not as expected is shown and ends with exit code 1"""
    (tmp_path / "keys.json").write_text(json.dumps({"signing_key": "0" * 32}))
    done = await receiver("simulate", "mailgun", "opened", "--keys", "keys.json")
    assert done.code == 1
    assert "NOT AS EXPECTED" in done.out
    assert await demo.events() == []


async def test_configured_source(
    receiver: Receiver, demo: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """a source's own secrets sign where they can; else it says how to add a key that can"""
    sources = {
        "postmark": {"provider": "postmark", "password": PASSWORD},
        "sendgrid": {"provider": "sendgrid", "public_key": _public_key()},
    }
    monkeypatch.setenv("RECEIVER_SOURCES", json.dumps(sources))
    monkeypatch.setenv("RECEIVER_DATA_DIR", str(tmp_path / "elsewhere"))
    wrong = await receiver("simulate", "postmark", "bounced", "--url", demo.url)
    assert wrong.code == 1  # the service has the demo's password, not this one
    assert PASSWORD not in wrong.out + wrong.err
    unsignable = await receiver("simulate", "sendgrid", "bounced", "--url", demo.url)
    assert unsignable.code == 1
    assert "public_key" in unsignable.err
    keys = make_demo(tmp_path / ".receiver").keys["sendgrid"]
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    assert (await receiver("simulate", "sendgrid", "bounced", "--url", demo.url, "--keys", "keys.json")).code == 0
    assert len(await demo.events()) == 1


def _public_key() -> str:
    settings, _ = providers()["sendgrid"].simulation.demo(Path())
    return str(settings["public_key"][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("postmrk", "bounced"), "did you mean postmark?"),
        (("postmark", "queued"), "does not report queued"),
        (("postmark", "bounced", "--url", "http://192.0.2.1"), "--remote"),
        (("postmark", "bounced", "--url", "http://[::"), "cannot be understood"),
        (("postmark", "bounced", "--url", "ftp://127.0.0.1"), "http://127.0.0.1:8080"),
        (("postmark", "bounced", "--url", "http://127.0.0.1:1"), "nobody answers"),
        (("postmark", "bounced", "--keys", "gone.json"), "gone.json"),
    ],
)
async def test_refusals(receiver: Receiver, demo: Running, arguments: tuple[str, ...], message: str) -> None:
    """what cannot or must not be simulated is said in one line, and nothing is posted"""
    done = await receiver("simulate", *arguments)
    assert done.code == 1
    assert message in done.err
    assert await demo.events() == []


async def test_without_anything(receiver: Receiver) -> None:
    """without sources it says how to get some"""
    done = await receiver("simulate", "postmark", "bounced")
    assert done.code == 1
    assert "--demo" in done.err
