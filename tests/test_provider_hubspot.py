"""What is HubSpot's own: three signatures, one of them accepted by default, and a URL that is signed half decoded."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from receiver.cli.provider_page import markdown
from receiver.contract import Delivery, Provider, World
from receiver.errors import Reason, Refused
from receiver.providers import providers
from tests.provider_fixtures import _no_fetch

NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
# From "Validating the v1 request signature" and "Validating the v2 request signature", seen 2026-11.
SECRET: Final = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy"
URL: Final = "https://www.example.com/webhook_uri"
V1_BODY: Final = (
    b'[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":'
    b'"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]'
)
V1: Final = "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de"
V2_BODY: Final = b'{"example_field":"example_value"}'
V2: Final = "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900"


def _provider(url: str | None = URL, versions: list[str] | None = None) -> Provider:
    kind = providers()["hubspot"]
    given: dict[str, Any] = {"provider": "hubspot", "client_secret": [SECRET], "public_url": url}
    settings = kind.Settings.model_validate(given | ({} if versions is None else {"signature_versions": versions}))
    return kind(settings, World(fetch=_no_fetch, now=lambda: NOW))


def _old(version: str, signature: str, body: bytes) -> Delivery:
    headers = {"x-hubspot-signature-version": version, "x-hubspot-signature": signature}
    return Delivery(source="hubspot", headers=headers, body=body, at=NOW)


def _v3(signed_url: str, stamp: str, query: str = "") -> Delivery:
    signed = b"POST" + signed_url.encode() + V1_BODY + stamp.encode()
    signature = b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    headers = {"x-hubspot-request-timestamp": stamp, "x-hubspot-signature-v3": signature}
    return Delivery(source="hubspot", headers=headers, body=V1_BODY, query=query, at=NOW)


def _stamp(age: timedelta = timedelta()) -> str:
    return str(int((NOW - age).timestamp() * 1000))


async def test_bytes_added_behind_an_old_signature() -> None:
    """who has one body with its v1 or v2 signature can sign it with more behind it, but the padding shows"""
    padding = b"\x80" + bytes(40) + (8 * 999).to_bytes(8, "big")
    for version, start in (("v1", b""), ("v2", b"POST" + URL.encode())):
        for added in (padding, padding + V1_BODY):
            body = V1_BODY + added
            signature = hashlib.sha256(SECRET.encode() + start + body).hexdigest()
            reason = await _reason(_provider(versions=[version]), _old(version, signature, body))
            assert reason is Reason.BODY_CHANGED


async def _reason(provider: Provider, delivery: Delivery) -> Reason:
    with pytest.raises(Refused) as caught:
        await provider.authenticate(delivery)
    return caught.value.reason


@pytest.mark.parametrize(("version", "signature", "body"), [("v1", V1, V1_BODY), ("v2", V2, V2_BODY)])
async def test_published_signatures(version: str, signature: str, body: bytes) -> None:
    """HubSpot's own samples of v1 and v2 hold, where that version is accepted, and for that body and version alone"""
    provider = _provider(versions=[version, "v3"])
    await provider.authenticate(_old(version, signature, body))
    assert await _reason(provider, _old(version, signature, body + b" ")) is Reason.WRONG_KEY
    other = {"v1": "v2", "v2": "v1"}[version]
    assert await _reason(_provider(versions=["v1", "v2"]), _old(other, signature, body)) is Reason.WRONG_KEY


@pytest.mark.parametrize(("version", "signature", "body"), [("v1", V1, V1_BODY), ("v2", V2, V2_BODY)])
async def test_only_v3_unless_said(version: str, signature: str, body: bytes) -> None:
    """a right v1 or v2 signature alone is refused by default, and v1 where only v2 is accepted too"""
    assert await _reason(_provider(), _old(version, signature, body)) is Reason.MISSING_HEADER
    other = {"v1": "v2", "v2": "v1"}[version]
    assert await _reason(_provider(versions=[other]), _old(version, signature, body)) is Reason.WRONG_KEY


async def test_an_old_signature_does_not_stand_in_for_a_wrong_v3() -> None:
    """where both came along the best one counts, so that nobody can fall back to a weaker one"""
    delivery = _v3("https://elsewhere.example.com/", _stamp())
    both = Delivery(source="hubspot", headers={**delivery.headers, **_old("v1", V1, V1_BODY).headers}, body=V1_BODY)
    assert await _reason(_provider(versions=["v1", "v3"]), both) is Reason.WRONG_KEY


async def test_milliseconds() -> None:
    """the time is in milliseconds: five minutes are accepted, more are stale, and seconds are long ago"""
    provider = _provider()
    await provider.authenticate(_v3(URL, _stamp(timedelta(minutes=5))))
    assert await _reason(provider, _v3(URL, _stamp(timedelta(minutes=5, milliseconds=1)))) is Reason.STALE
    assert await _reason(provider, _v3(URL, str(int(NOW.timestamp())))) is Reason.STALE


@pytest.mark.parametrize("letter", list(":/?@!$'()*,;"))
async def test_the_uri_is_decoded_as_documented(letter: str) -> None:
    """each character of HubSpot's table is decoded in the signed URI, in either case; no other is"""
    code = f"%{ord(letter):02X}"
    for written in (code, code.lower()):
        query, provider = f"a={written}&b=%26%20", _provider(f"{URL}/{written}")
        await provider.authenticate(_v3(f"{URL}/{letter}?a={letter}&b=%26%20", _stamp(), query))
        assert await _reason(provider, _v3(f"{URL}/{letter}?a={letter}&b=& ", _stamp(), query)) is Reason.WRONG_KEY


@pytest.mark.parametrize("url", [URL, f"{URL}?x=1"])
async def test_the_query_of_the_request_counts(url: str) -> None:
    """the query that HubSpot calls with is signed, whether or not `public_url` has it; another is refused"""
    await _provider(url).authenticate(_v3(f"{URL}?x=1", _stamp(), query="x=1"))
    for query in ("", "x=2"):
        assert await _reason(_provider(url), _v3(f"{URL}?x=1", _stamp(), query=query)) is Reason.WRONG_KEY


@pytest.mark.parametrize(("versions", "found"), [(None, ["public_url"]), (["v2"], ["public_url"]), (["v1"], [])])
def test_a_signed_url_must_be_known(versions: list[str] | None, found: list[str]) -> None:
    """without `public_url` a source does not start, unless it accepts v1 alone"""
    kind = providers()["hubspot"]
    given: dict[str, Any] = {"provider": "hubspot", "client_secret": ["3f2504e0-4f89-41d3-9a0c-0305e82c3301"]}
    settings = kind.Settings.model_validate(given | ({} if versions is None else {"signature_versions": versions}))
    assert [problem.key.rpartition(".")[2] for problem in kind.problems(settings, "sources.hubspot")] == found


def test_the_page_shows_what_is_accepted_by_default() -> None:
    """what can be copied from the provider's page accepts v3 alone"""
    assert 'signature_versions = ["v3"]' in markdown(providers()["hubspot"])
