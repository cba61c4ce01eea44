"""Credentials that a provider sends along: what is set is required, and each kind is compared in whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from receiver.contract import Delivery
from receiver.credentials import Credentials, CredentialSettings, credential_problems
from receiver.errors import Reason, Refused
from receiver.event import EventType
from receiver.signers import credentials as signer
from tests.service import play, running

SECRET: Final = "b7c1d9e0f2a34c5d8e9f"
OTHER: Final = "00000000000000000000"
KINDS: Final[Mapping[str, dict[str, Any]]] = {
    "password": {"username": "hooks", "password": SECRET},
    "bearer_token": {"bearer_token": SECRET},
    "header_value": {"header_name": "X-Secret", "header_value": SECRET},
    "url_secret": {"url_secret": SECRET},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def settings(**values: object) -> CredentialSettings:
    return CredentialSettings.model_validate({"provider": "x", **values})


def delivery(keys: Mapping[str, str], *, path: str = "") -> Delivery:
    headers = {name.lower(): value for name, value in signer.headers(keys).items()}
    return Delivery(source="x", headers=headers, body=b"{}", query=signer.query(keys), path=path)


def refusal(one: CredentialSettings, request: Delivery) -> Refused:
    with pytest.raises(Refused) as caught:
        Credentials(one).require(request)
    assert caught.value.again
    assert SECRET not in caught.value.detail
    return caught.value


@every_kind
def test_the_right_one_is_accepted(kind: str) -> None:
    """each kind is accepted as the provider would send it, also the second of two values"""
    Credentials(settings(**KINDS[kind])).require(delivery(KINDS[kind]))
    Credentials(settings(**KINDS[kind] | {kind: [OTHER, SECRET]})).require(delivery(KINDS[kind]))


@every_kind
@pytest.mark.parametrize("value", [OTHER, SECRET[:-1], SECRET + "x", SECRET.upper()])
def test_a_wrong_one_is_refused(kind: str, value: str) -> None:
    """another value, a part of it, more than it or other letters are refused"""
    request = delivery(KINDS[kind] | {kind: value})
    assert refusal(settings(**KINDS[kind]), request).reason is Reason.WRONG_CREDENTIALS


@every_kind
def test_none_is_refused(kind: str) -> None:
    """a request without the credential is refused, and so is every request to a source that has none"""
    reasons = {Reason.MISSING_CREDENTIALS, Reason.MISSING_HEADER}
    assert refusal(settings(**KINDS[kind]), delivery({})).reason in reasons
    assert refusal(settings(), delivery(KINDS[kind])).reason is Reason.MISSING_CREDENTIALS


def test_what_is_set_is_required() -> None:
    """two kinds that are set are both required"""
    both = settings(**KINDS["password"], **KINDS["header_value"])
    Credentials(both).require(delivery(KINDS["password"] | KINDS["header_value"]))
    refusal(both, delivery(KINDS["password"]))
    refusal(both, delivery(KINDS["header_value"]))


def test_nothing_is_checked_where_nothing_is_set() -> None:
    """as an addition to a signature, credentials may be left out"""
    Credentials(settings()).check(delivery({}))


def test_the_secret_at_the_end_of_the_path() -> None:
    """the URL's secret may be the last part of the path as well; then the query does not count"""
    one = settings(url_secret=SECRET)
    Credentials(one).require(delivery({}, path=SECRET))
    refusal(one, delivery({"url_secret": SECRET}, path=OTHER))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({}, "x"),
        ({"password": "short"}, "x.password"),
        ({"password": "x" * 20}, "x.password"),
        ({"header_name": "X-Secret", "header_value": "\u200b" * 20}, "x.header_value"),
        ({"password": SECRET, "username": ""}, "x.username"),
        ({"password": SECRET, "username": "a:b"}, "x.username"),
        ({"password": SECRET, "bearer_token": SECRET}, "x.bearer_token"),
        ({"header_value": SECRET}, "x.header_name"),
        ({"password": SECRET, "header_name": "X-Secret"}, "x.header_name"),
        ({"url_secret": "a secret with blanks in it"}, "x.url_secret"),
    ],
)
def test_problems(values: Mapping[str, object], key: str) -> None:
    """what could not work, or would prove nothing, is named"""
    assert key in {problem.key for problem in credential_problems(settings(**values), "x")}


@every_kind
def test_no_problems(kind: str) -> None:
    """each kind alone is enough, and none is asked for where a signature proves the sender"""
    assert not credential_problems(settings(**KINDS[kind]), "x")
    assert not credential_problems(settings(), "x", required=False)


@pytest.mark.database
async def test_over_http(database: str, tmp_path: Path) -> None:
    """the secret may stand in the URL's path or query; a source that takes none has no such path"""
    played = play("postmark", tmp_path)
    bare: dict[str, Any] = {"password": [], "header_name": None, "header_value": []}
    secret = play("postmark", tmp_path, name="secret", **bare, url_secret=[SECRET])
    [post] = played.posts(EventType.DELIVERED, "ada@customer.test")
    async with running(database, played, secret) as service:
        for url, status in (
            (f"/webhooks/secret/{SECRET}", 200),
            (f"/webhooks/secret?token={SECRET}", 200),
            (f"/webhooks/secret/{OTHER}", 503),
            ("/webhooks/secret/", 503),
            ("/webhooks/secret", 503),
            (f"/webhooks/postmark/{SECRET}", 404),
            ("/webhooks/postmark", 200),
        ):
            answer = await service.client.post(url, content=post.body, headers=dict(post.headers))
            assert answer.status_code == status, url
        assert len(await service.events()) == 2
