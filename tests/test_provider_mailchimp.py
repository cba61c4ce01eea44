"""Mailchimp's traps: a form that is signed as raw bytes, webhooks that sign nothing, names with brackets."""

from __future__ import annotations

import hmac
from datetime import timedelta
from typing import Any, Final

import pytest

from receiver.contract import Authentic, Delivery
from receiver.errors import Reason, Refused
from receiver.forms import nested
from receiver.providers import providers
from tests.provider_fixtures import folder

SECRET: Final = "b7c2d5e1f3a94c0f8d6e2a1b3c4d5e6f"
AT: Final = int(folder("mailchimp").now.timestamp())
BODY: Final = b"type=subscribe&fired_at=2026-11-20+11%3A59%3A30&data%5Bemail%5D=ada%40customer.example"
URL_SECRET: Final = "a-secret-in-the-url-4711"
UNSIGNED: Final[dict[str, Any]] = {"signing_secret": [], "url_secret": URL_SECRET}


def digest(body: bytes = BODY, at: int = AT, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, "sha256").hexdigest()


def delivery(signature: str | None, body: bytes = BODY, *, path: str = "", query: str = "") -> Delivery:
    headers = {} if signature is None else {"x-mailchimp-signature": signature}
    return Delivery(source="mailchimp", headers=headers, body=body, path=path, query=query)


async def authenticate(given: Delivery, later: timedelta = timedelta(), **settings: Any) -> Authentic:
    return await folder("mailchimp").provider(later=later, **settings).authenticate(given)


async def refusal(given: Delivery, later: timedelta = timedelta(), **settings: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await authenticate(given, later, **settings)
    return caught.value


async def test_the_raw_form_is_signed() -> None:
    """`v1` is over `t`, a dot and the bytes as they came: the same form in another writing does not fit"""
    signature = f"t={AT},v1={digest()}"
    await authenticate(delivery(signature))
    for other in (BODY.replace(b"+", b"%20"), BODY.replace(b"%5B", b"["), BODY.replace(b"%40", b"@"), BODY + b"&"):
        assert (await refusal(delivery(signature, other))).reason is Reason.WRONG_KEY
    assert (await refusal(delivery(f"t={AT + 1},v1={digest()}"))).reason is Reason.WRONG_KEY
    bare = hmac.new(SECRET.encode(), BODY, "sha256").hexdigest()
    assert (await refusal(delivery(f"t={AT},v1={bare}"))).reason is Reason.WRONG_KEY


async def test_one_of_several_signatures_is_enough() -> None:
    """while a secret is replaced there may be several `v1`, in any order; other schemes do not count"""
    await authenticate(delivery(f"t={AT},v1={digest(secret='another')},v1={digest()}"))
    await authenticate(delivery(f"v1={digest()}, t={AT}"))
    assert (await refusal(delivery(f"t={AT},v0={digest()}"))).reason is Reason.MALFORMED_HEADER
    assert (await refusal(delivery(f"t={AT},t={AT},v1={digest()}"))).reason is Reason.MALFORMED_HEADER


async def test_the_last_repetition_is_in_time() -> None:
    """what was signed 75 minutes ago is taken, as Mailchimp may repeat the first attempt's signature"""
    given = delivery(f"t={AT},v1={digest()}")
    await authenticate(given, timedelta(minutes=75))
    assert (await refusal(given, timedelta(hours=3))).authentic


async def test_a_webhook_without_a_signing_secret() -> None:
    """an older webhook is proven by the secret in its URL, as a path or a parameter; a signature is no proof there"""
    await authenticate(delivery(None, path=URL_SECRET), **UNSIGNED)
    await authenticate(delivery(None, query=f"token={URL_SECRET}"), **UNSIGNED)
    for given in (delivery(f"t={AT},v1={digest()}"), delivery(None, path="another"), delivery(None)):
        assert (await refusal(given, **UNSIGNED)).again


async def test_both_proofs_are_required_where_both_are_set() -> None:
    """with a signing secret and a secret in the URL, neither alone is enough"""
    signature = f"t={AT},v1={digest()}"
    await authenticate(delivery(signature, path=URL_SECRET), url_secret=URL_SECRET)
    assert (await refusal(delivery(signature), url_secret=URL_SECRET)).reason is Reason.MISSING_CREDENTIALS
    assert (await refusal(delivery(None, path=URL_SECRET), url_secret=URL_SECRET)).reason is Reason.MISSING_HEADER


def test_one_of_the_proofs_must_be_configured() -> None:
    """either secret is enough for a start, and each is looked at where it is set"""
    kind = providers()["mailchimp"]

    def keys(**settings: Any) -> list[str]:
        values = kind.Settings.model_validate({"provider": "mailchimp", **settings})
        return [problem.key for problem in kind.problems(values, "m")]

    assert keys(signing_secret=SECRET) == keys(url_secret=URL_SECRET) == []
    assert keys() == keys(signing_secret="short") == ["m.signing_secret"]
    assert keys(url_secret="short") == keys(url_secret="short", signing_secret=SECRET) == ["m.url_secret"]


def test_what_is_covered_depends_on_the_settings() -> None:
    """a source that only has a secret in its URL is not said to be protected by a signature"""
    kind: Any = providers()["mailchimp"]
    assert kind.covers_with({"signing_secret": SECRET}) == kind.covers_with({"signing_secret_file": "x"}) == "body"
    assert kind.covers_with({"url_secret": URL_SECRET}) == "nothing"


def test_names_with_brackets() -> None:
    """brackets say the place; a name that is no such path stays a key, and a later name wins over an earlier one"""
    deep = "a" + "[b]" * 20
    flat = {"data[": "1", "a]b[c]": "2", "[x]": "3", "d[e]f": "4", deep: "5", "": "6"}
    paths = {"data[merges][FNAME]": "Ada", "data[merges][ADDRESS][zip]": "1", "tags[]": ["x", "y"]}
    assert nested(flat) == flat
    assert nested(paths) == {"data": {"merges": {"FNAME": "Ada", "ADDRESS": {"zip": "1"}}}, "tags": ["x", "y"]}
    assert nested({"n": "flat", "n[m]": "7"}) == {"n": {"m": "7"}}
    assert nested({"k[l]": "8", "k": "flat"}) == {"k": "flat"}
