"""Amazon SES over raw message delivery: Basic credentials that SNS shows only when asked, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from receiver.contract import Delivery, World
from receiver.errors import Reason, Refused, Unavailable
from receiver.event import EventType
from receiver.providers.ses_raw import SesRaw, SesRawSettings
from receiver.signers import sns as signer
from tests.service import play, running

SECRET: Final = "b7c1d9e0f2a34c5d8e9f"
NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
OTHER: Final = "arn:aws:sns:us-east-1:123456789012:another"


async def test_credentials_are_asked_for(database: str, tmp_path: Path) -> None:
    """a client that shows its credentials only after a 401 with a challenge, as SNS does, gets its event stored"""
    played = play("ses_raw", tmp_path)
    (post,) = played.posts(EventType.DELIVERED, "one@customer.example")
    headers = {name: value for name, value in post.headers.items() if name != "authorization"}
    async with running(database, played) as service:
        first = await service.client.post("/webhooks/ses_raw", content=post.body, headers=headers)
        assert first.status_code == 401
        assert first.headers["www-authenticate"].startswith("Basic realm=")
        assert await service.count("events") == 0
        again = await service.post("ses_raw", post)
        assert again.status_code == 200
        assert await service.count("events") == 1


async def test_wrong_credentials_are_to_come_again(database: str, tmp_path: Path) -> None:
    """wrong credentials get a code after which SNS tries again, for a 4xx would end it"""
    played = play("ses_raw", tmp_path)
    (post,) = played.posts(EventType.DELIVERED, "one@customer.example")
    async with running(database, played) as service:
        wrong = httpx.BasicAuth("webhook", "something else")
        headers = {name: value for name, value in post.headers.items() if name != "authorization"}
        answer = await service.client.post("/webhooks/ses_raw", content=post.body, headers=headers, auth=wrong)
        assert (answer.status_code, "www-authenticate" in answer.headers) == (503, False)


async def nothing(url: str, *, max_bytes: int = 65536) -> bytes:
    raise Unavailable(f"{url} {max_bytes}")


async def refusal(headers: dict[str, str], body: bytes = b"{}", **settings: Any) -> Refused:
    made = SesRawSettings.model_validate({"provider": "ses_raw", "url_secret": SECRET, **settings})
    provider = SesRaw(made, World(fetch=nothing, now=lambda: NOW))
    with pytest.raises(Refused) as caught:
        await provider.authenticate(Delivery(source="s", headers=headers, body=body, query=f"token={SECRET}"))
    return caught.value


async def test_nobody_is_asked_without_the_secret_in_the_url() -> None:
    """where both are set, a stranger who does not know the URL is not asked for the password"""
    found = await refusal({}, url_secret="another secret of the URL".replace(" ", "-"), password=SECRET)
    assert (found.reason, found.challenge, found.again) == (Reason.WRONG_CREDENTIALS, None, True)
    found = await refusal({}, password=SECRET)
    assert (found.reason, found.challenge is None) == (Reason.MISSING_CREDENTIALS, False)


async def test_what_is_not_raw() -> None:
    """a notification with an envelope is refused with the advice to take the other provider, and may come again"""
    message = signer.notification("{}", NOW)
    found = await refusal(signer.headers_of(message), signer.body_of(message))
    assert (found.reason, found.again) == (Reason.MISSING_HEADER, True)
    assert "provider ses" in found.detail


async def test_other_topics() -> None:
    """where topics are listed, a message that names another or none is refused, and may come again"""
    raw = {"x-amz-sns-rawdelivery": "true"}
    found = await refusal(raw | {"x-amz-sns-topic-arn": OTHER}, topics=[signer.SAMPLE_TOPIC])
    assert (found.reason, found.again) == (Reason.UNKNOWN_TOPIC, True)
    found = await refusal(raw, topics=[signer.SAMPLE_TOPIC])
    assert (found.reason, found.again) == (Reason.MISSING_HEADER, True)


async def test_subscriptions_of_unlisted_topics() -> None:
    """who knows the URL cannot have a subscription confirmed that no listed topic asks for"""
    private, _ = signer.make_key("somebody", NOW)
    message = signer.sign(signer.confirmation(NOW), private)
    found = await refusal(signer.headers_of(message), signer.body_of(message))
    assert (found.reason, found.again) == (Reason.UNKNOWN_TOPIC, True)
    notification = signer.sign(signer.notification("{}", NOW), private)
    headers = signer.headers_of(notification) | {"x-amz-sns-message-type": "SubscriptionConfirmation"}
    found = await refusal(headers, signer.body_of(notification), topics=[signer.SAMPLE_TOPIC])
    assert found.reason is Reason.MISSING_FIELD


def test_what_sns_cannot_send_is_a_problem() -> None:
    """a bearer token or a header, which SNS has no way to send, is a problem of the configuration"""
    for setting in ({"bearer_token": SECRET}, {"header_name": "X-Key", "header_value": SECRET}):
        made = SesRawSettings.model_validate({"provider": "ses_raw", **setting})
        assert any("cannot send" in problem.wrong for problem in SesRaw.problems(made, "sources.s"))
