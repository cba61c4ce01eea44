"""`receiver doctor` and `receiver refused release`: requests are refused over HTTP, the cause is found and mended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from receiver.event import EventType
from tests.cli import Ended, Receiver
from tests.service import Played, Running, play, running
from tests.waiting import until

OTHER_KEY: Final = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the command line have these sources: name -> a played one, or a table."""

    def write(**sources: Mapping[str, Any]) -> None:
        monkeypatch.setenv("RECEIVER_SOURCES", json.dumps(sources))

    return write


def table(played: Played, **changed: object) -> dict[str, Any]:
    """`[sources.<name>]` that fits the keys of a played source."""
    return {"provider": played.source.provider.name, **played.keys, **changed}


@asynccontextmanager
async def refusing(database: str, *played: Played) -> AsyncIterator[Running]:
    async with running(database, *played) as service:
        yield service


async def refused(service: Running, count: int = 1) -> None:
    async def there() -> bool:
        return await service.count("refused") >= count

    await until(there)


async def diagnosis(receiver: Receiver, name: str = "mg") -> Mapping[str, Any]:
    done: Ended = await receiver("doctor", name, "--json")
    assert done.code == 1, done.err
    [found] = done.rows
    return found


async def test_a_wrong_key_is_mended_and_nothing_is_lost(
    receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """a wrong key is named; once it is mended, the dry run says what would be stored, and the release stores it once"""
    mailgun = play("mailgun", tmp_path, name="mg")
    wrong = play("mailgun", tmp_path, name="mg")
    async with refusing(database, wrong) as service:
        for number in range(3):
            [post] = mailgun.posts(EventType.BOUNCED, f"u{number}@one.test", run=f"r{number}")
            assert (await service.post("mg", post)).status_code == 401
        await refused(service, 3)
        configure(mg=table(wrong))
        found = await diagnosis(receiver)
        assert found["requests"] == 3
        assert found["reason"] == "wrong_key"
        assert "another account's" in found["cause"] + found["advice"]
        still = await receiver("refused", "release", "mg", "--yes")
        assert "0 of 3" in still.err

        configure(mg=table(mailgun))
        assert (await diagnosis(receiver))["mended"] is True
        dry = await receiver("refused", "release", "mg", "--dry-run", "--json")
        assert [row["outcome"] for row in dry.rows] == ["authentic now"] * 3
        assert await service.events() == []
        unsaid = await receiver("refused", "release", "mg")
        assert unsaid.code == 1
        assert "--yes" in unsaid.err
        done = await receiver("refused", "release", "mg", "--yes")
        assert done.code == 0, done.err
        assert "stored 3 of 3; new events: 3, known before: 0" in done.out
        assert {row["recipient"] for row in await service.events()} == {f"u{number}@one.test" for number in range(3)}
        assert await service.count("refused") == 0
        assert await service.count("audit_log WHERE action = 'release'") == 1
        well = await receiver("doctor", "mg")
        assert well.code == 0
        assert "No refused request" in well.out


async def test_another_sources_key(
    receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """a request that another source's key fits names that source: the URLs are mixed up"""
    ours, other = play("mailgun", tmp_path, name="mg"), play("mailgun", tmp_path, name="other")
    async with refusing(database, ours) as service:
        [post] = other.posts(EventType.BOUNCED, "u@one.test")
        await service.post("mg", post)
        await refused(service)
        configure(mg=table(ours), other=table(other))
        found = await diagnosis(receiver)
    assert "'other'" in found["cause"]
    assert "/webhooks/other" in found["advice"]


async def test_a_body_that_a_proxy_encoded_again(
    receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """a body that was decoded and encoded again on the way is told from a wrong key"""
    resend = play("resend", tmp_path, name="mg")
    async with refusing(database, resend) as service:
        [post] = resend.posts(EventType.BOUNCED, "u@one.test")
        body = json.dumps(json.loads(post.body), indent=1).encode()
        await service.client.post("/webhooks/mg", content=body, headers=dict(post.headers))
        await refused(service)
        configure(mg=table(resend))
        found = await diagnosis(receiver)
    assert "the key is right" in found["cause"]
    assert "byte by byte" in found["advice"]


async def test_unsigned_and_of_another_provider(
    receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """without the provider's headers its signature is not switched on; with another's, it is the wrong URL"""
    sendgrid, resend = play("sendgrid", tmp_path, name="sg"), play("resend", tmp_path, name="re")
    async with refusing(database, sendgrid, resend) as service:
        [post] = sendgrid.posts(EventType.BOUNCED, "u@one.test")
        await service.client.post("/webhooks/sg", content=post.body, headers={"content-type": "application/json"})
        await service.post("re", post)
        await refused(service, 2)
        key = sendgrid.source.settings.model_dump()["public_key"]
        configure(sg={"provider": "sendgrid", "public_key": key}, re=table(resend))
        unsigned, foreign = await diagnosis(receiver, "sg"), await diagnosis(receiver, "re")
    assert "none of the headers" in unsigned["cause"]
    assert "Switch its signature on" in unsigned["advice"]
    assert "authentic for the source 'sg'" in foreign["cause"]


async def test_a_provider_that_no_source_is_of(
    receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """headers of a provider that is not configured name it"""
    resend, sendgrid = play("resend", tmp_path, name="re"), play("sendgrid", tmp_path)
    async with refusing(database, resend) as service:
        [post] = sendgrid.posts(EventType.BOUNCED, "u@one.test")
        await service.post("re", post)
        await refused(service)
        configure(re=table(resend))
        found = await diagnosis(receiver, "re")
    assert "Twilio SendGrid" in found["cause"]


async def test_the_clock(receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]) -> None:
    """a signature that is right but old, or of tomorrow, is a matter of clocks and not of keys"""
    resend = play("resend", tmp_path, name="re")
    async with refusing(database, resend) as service:
        items = [
            resend.source.provider.simulation.sample(one) for one in resend.occurrences(EventType.BOUNCED, "u@o.test")
        ]
        await service.post("re", _old(resend, items))
        await refused(service)
        configure(re=table(resend))
        found = await diagnosis(receiver, "re")
        assert "only its time" in found["cause"]
        assert "timedatectl" in found["advice"]
        configure(re=table(resend, tolerance=10**6))
        done = await receiver("refused", "release", "re", "--yes", "--json")
        assert [row["outcome"] for row in done.rows] == ["authentic now"]  # JSON Lines and nothing else
        assert "stored 1 of 1" in done.err
        assert len(await service.events()) == 1


def _old(played: Played, items: list[Any]) -> Any:
    from datetime import UTC, datetime, timedelta

    [post] = played.source.provider.simulation.post(items, played.keys, datetime.now(UTC) - timedelta(hours=2))
    return post


async def test_wrong_and_missing_credentials(
    receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """credentials that are missing are told from those that are wrong, and none is shown"""
    postmark, wrong = play("postmark", tmp_path, name="pm"), play("postmark", tmp_path, name="pm")
    async with refusing(database, postmark) as service:
        [post] = wrong.posts(EventType.BOUNCED, "u@one.test")
        await service.post("pm", post)
        bare = {
            name: value for name, value in post.headers.items() if name not in ("authorization", "X-Webhook-Secret")
        }
        await service.client.post("/webhooks/pm", content=post.body, headers=bare)
        await refused(service, 2)
        configure(pm=table(postmark))
        done = await receiver("doctor", "pm")
    assert done.code == 1
    assert "refused (missing_" in done.out
    assert "Set the credentials at the provider" in done.out
    assert "wrong_credentials" in done.out
    assert not any(
        secret in done.out for keys in (postmark.keys, wrong.keys) for secret in keys.values() if len(secret) > 20
    )


async def test_one_obstacle_behind_another(
    receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """once what a request was refused for is mended, both commands say what would refuse it now"""
    postmark = play("postmark", tmp_path, name="pm", allow_from=["192.0.2.0/24"])
    wrong = play("postmark", tmp_path, name="pm")
    async with refusing(database, postmark) as service:
        await service.post("pm", wrong.posts(EventType.BOUNCED, "u@one.test")[0])
        await refused(service)
        configure(pm=table(postmark))
        released = await receiver("refused", "release", "pm", "--dry-run")
        found = await diagnosis(receiver, "pm")
    assert found["reason"] == "address_not_allowed"
    assert "allow_from" not in found["cause"] + found["advice"]
    assert f"still refused: {found['cause']}" in released.out


async def test_another_public_url(
    receiver: Receiver, database: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """a signature over the URL under which the provider knows us gives that URL away"""
    right = "https://hooks.example.net/webhooks/md"
    mandrill = play("mandrill", tmp_path, name="md", public_url="https://localhost/other")
    keys = {**mandrill.keys, "public_url": right}
    async with refusing(database, mandrill) as service:
        [post] = Played(mandrill.source, keys).posts(EventType.BOUNCED, "u@one.test")
        headers = {**post.headers, "host": "hooks.example.net"}
        await service.client.post("/webhooks/md", content=post.body, headers=headers)
        await refused(service)
        configure(
            md=mandrill.source.settings.model_dump(mode="json") | table(mandrill, public_url="https://localhost/other")
        )
        found = await diagnosis(receiver, "md")
    assert right in found["advice"]


async def test_an_unknown_source(receiver: Receiver, configure: Callable[..., None]) -> None:
    """a name that is no source is said, with a guess"""
    configure(shop={"provider": "mailgun", "signing_key": OTHER_KEY})
    done = await receiver("doctor", "shap")
    assert done.code == 1
    assert "did you mean shop?" in done.err
