"""Any other sender: what the settings can say, what is wrong with them, and that a captured request becomes a row."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from receiver.contract import Delivery, World, never
from receiver.errors import Reason, Refused, Unreadable
from receiver.mapping import FIELDS
from receiver.providers import providers
from receiver.providers.generic import Generic, GenericSettings
from receiver.recipes import read_recipe, recipe_names
from receiver.settings import load_settings
from receiver.signers import standard_webhooks
from receiver.sources import bind_sources, find_sources
from tests.provider_fixtures import _no_fetch, columns, read_delivery
from tests.service import Played, running

NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
WORLD: Final = World(fetch=_no_fetch, now=lambda: NOW)
SECRET: Final = "correct horse battery staple"
TOKEN: Final = "Zm9yIHRlc3RzIG9ubHkgLSBub3Qgc2VjcmV0"
LEAST: Final[Mapping[str, Any]] = {
    "bearer_token": TOKEN,
    "fields": {"type": "event", "recipient": "email"},
    "words": {"ok": "delivered", "bounce": "bounced:hard"},
}


def generic(**settings: Any) -> Generic:
    return Generic(GenericSettings.model_validate({"provider": "generic", **LEAST, **settings}), WORLD)


async def read(body: bytes | str, *, query: str = "", headers: Mapping[str, str] | None = None, **settings: Any) -> Any:
    """The columns of each event of a body that comes with the bearer token."""
    sent = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json", **(headers or {})}
    raw = body if isinstance(body, bytes) else body.encode()
    delivery = Delivery(source="acme", headers=sent, body=raw, query=query, at=NOW)
    readings, _ = await read_delivery(generic(**settings), delivery)
    return [columns(one) for one in readings]


EVENT: Final = '{"event": "ok", "email": "ada@customer.example"}'


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        (EVENT, {}),
        (f"[{EVENT}]", {}),
        ('{"data": {"events": [' + EVENT + "]}}", {"events": "data.events"}),
        ('{"data": ' + EVENT + "}", {"events": "data"}),
        (f"{EVENT}\r\n\n", {"format": "lines"}),
        ("event=ok&email=ada%40customer.example", {"format": "form"}),
        (f"payload={quote(EVENT)}", {"format": "form", "events": "payload"}),
    ],
)
async def test_where_the_events_are(body: str, settings: Mapping[str, Any]) -> None:
    """a body that is an event, a list, lines or a form, and a list inside of it, all give the same event"""
    form = {"content-type": "application/x-www-form-urlencoded"} if settings.get("format") == "form" else {}
    (event,) = await read(body, headers=form, **settings)
    assert event == {"type": "delivered", "provider_type": "ok", "recipient": "ada@customer.example"}


async def test_paths() -> None:
    """a path goes into objects and lists; the first of several that is there counts; a dotted key is one too"""
    fields = {
        "type": "event",
        "recipient": ["data.email.to", "data.rcpt.0", "email"],
        "tags": "data.labels.name",
        "campaign": "meta.campaign",
        "occurred_at": "at",
        "smtp_code": "data.code",
        "enhanced_code": "data.status",
    }
    value = {
        "event": "ok",
        "at": "2026-11-20 12:58:00 +0100",
        "meta.campaign": "autumn",
        "data": {
            "email": {"to": ""},
            "rcpt": ["ada@customer.example"],
            "labels": [{"name": "a"}, {"nome": "x"}, {"name": "b"}],
            "code": "550",
            "status": "5.1.1 (bad destination)",
        },
    }
    (event,) = await read(json.dumps(value), fields=fields)
    assert event == {
        "type": "delivered",
        "provider_type": "ok",
        "occurred_at": "2026-11-20T11:58:00Z",
        "recipient": "ada@customer.example",
        "campaign": "autumn",
        "tags": ["a", "b"],
        "smtp_code": 550,
        "enhanced_code": "5.1.1",
    }


@pytest.mark.parametrize(
    ("at", "unit"), [(1795175000, "seconds"), ("1795175000", "seconds"), (1795175000000, "milliseconds")]
)
async def test_times_that_are_numbers(at: object, unit: str) -> None:
    """a number is seconds or milliseconds since 1970, as the settings say, also where it is written as text"""
    body = json.dumps({"event": "ok", "email": "ada@customer.example", "at": at})
    fields = {**LEAST["fields"], "occurred_at": "at"}
    (event,) = await read(body, fields=fields, time_unit=unit)
    assert event["occurred_at"] == "2026-11-20T11:43:20Z"


async def test_what_stands_beside_the_events() -> None:
    """values of the body, the URL and a header go along with each event, and are kept with it"""
    add = {"list": "body.meta.list", "event": "query.event", "tenant": "header.X-Tenant"}
    body = '{"meta": {"list": "news"}, "items": [{"email": "ada@customer.example"}, {"email": "bob@customer.example"}]}'
    fields = {**LEAST["fields"], "topic": "list", "campaign": "tenant"}
    found = await read(
        body, query="event=bounce&token=x", headers={"x-tenant": "t1"}, add=add, events="items", fields=fields
    )
    assert [(one["type"], one["topic"], one["campaign"]) for one in found] == [("bounced", "news", "t1")] * 2


async def test_nothing_to_store() -> None:
    """an empty body and an empty list are answered as stored once the sender is proven, and never before"""
    headers = {"authorization": f"Bearer {TOKEN}"}
    found = await generic(events="events").authenticate(Delivery(source="acme", headers=headers, body=b" ", at=NOW))
    assert found.answer is not None
    assert found.answer.status == 200
    assert await read('{"events": []}', events="events") == []
    with pytest.raises(Refused):
        await generic().authenticate(Delivery(source="acme", headers={}, body=b"", at=NOW))
    with pytest.raises(Unreadable, match="no list of events at events"):
        await read('{"event": []}', events="events")


BODY: Final = EVENT.encode()
STAMP: Final = str(int(NOW.timestamp()))


def signed(algorithm: str, *parts: bytes) -> bytes:
    return hmac.new(SECRET.encode(), b"".join(parts), getattr(hashlib, algorithm)).digest()


SCHEMES: Final[list[tuple[dict[str, str], dict[str, str]]]] = [
    ({"header": "X-Sig"}, {"x-sig": signed("sha256", BODY).hex()}),
    ({"header": "X-Sig", "algorithm": "sha1", "prefix": "sha1="}, {"x-sig": "sha1=" + signed("sha1", BODY).hex()}),
    (
        {"header": "X-Sig", "algorithm": "sha512", "encoding": "base64"},
        {"x-sig": b64encode(signed("sha512", BODY)).decode()},
    ),
    (
        {"header": "X-Sig", "signed": "{body}{timestamp}", "timestamp_header": "X-Time"},
        {"x-sig": signed("sha256", BODY, STAMP.encode()).hex(), "x-time": STAMP},
    ),
    (
        {
            "header": "X-Sig",
            "signed": "v0:{timestamp}:{body}",
            "timestamp_header": "X-Time",
            "timestamp_unit": "milliseconds",
        },
        {"x-sig": signed("sha256", b"v0:", STAMP.encode(), b"000:", BODY).hex(), "x-time": STAMP + "000"},
    ),
    (
        {"scheme": "timed", "header": "X-Sig"},
        {"x-sig": f"t={STAMP},v1=" + signed("sha256", STAMP.encode(), b".", BODY).hex()},
    ),
]


@pytest.mark.parametrize(("signature", "headers"), SCHEMES)
async def test_signatures(signature: dict[str, str], headers: dict[str, str]) -> None:
    """each way of signing is accepted as it was computed here; another byte, key or a missing header is refused"""
    secrets = ["an older one, 4711", SECRET]
    proof: dict[str, Any] = {"bearer_token": [], "signing_secret": secrets, "signature": signature}
    provider = generic(**proof)
    right = Delivery(source="acme", headers=headers, body=BODY, at=NOW)
    readings, _ = await read_delivery(provider, right)
    assert [one.recipient for one in readings] == ["ada@customer.example"]
    for body in (BODY + b" ", BODY[:-1], b""):
        await refused(provider, headers, body)
    for name in headers:
        await refused(provider, {key: value for key, value in headers.items() if key != name}, BODY)
    await refused(generic(**proof | {"signing_secret": ["another one altogether"]}), headers, BODY, Reason.WRONG_KEY)
    if "timestamp_header" in signature or signature.get("scheme") == "timed":
        late = GenericSettings.model_validate({"provider": "generic", **LEAST, **proof, "tolerance": 0.5})
        later = World(fetch=_no_fetch, now=lambda: datetime.fromtimestamp(NOW.timestamp() + 60, UTC))
        await refused(Generic(late, later), headers, BODY, Reason.STALE)


@pytest.mark.parametrize("key", ["base64", "hex"])
async def test_keys_that_are_no_text(key: str) -> None:
    """a secret can stand for the bytes of a key, in base64 or hexadecimal"""
    raw = bytes(range(32))
    secret = b64encode(raw).decode() if key == "base64" else raw.hex()
    headers = {"x-sig": hmac.new(raw, BODY, hashlib.sha256).hexdigest()}
    provider = generic(bearer_token=[], signing_secret=secret, signature={"header": "X-Sig", "key": key})
    await read_delivery(provider, Delivery(source="acme", headers=headers, body=BODY, at=NOW))
    await refused(provider, headers, BODY + b" ", Reason.WRONG_KEY)


async def test_standard_webhooks() -> None:
    """the scheme Standard Webhooks takes its three headers, within five minutes"""
    secret = standard_webhooks.new_secret()
    settings = {"bearer_token": [], "signing_secret": secret, "signature": {"scheme": "standard_webhooks"}}
    for age, why in ((0, None), (299, None), (301, Reason.STALE)):
        headers = standard_webhooks.signed_headers((secret,), "msg_1", int(NOW.timestamp()) - age, BODY)
        if why is None:
            await read_delivery(generic(**settings), Delivery(source="acme", headers=headers, body=BODY, at=NOW))
        else:
            await refused(generic(**settings), headers, BODY, why)
        await refused(generic(**settings), headers, BODY + b" ", Reason.WRONG_KEY)


async def refused(provider: Generic, headers: Mapping[str, str], body: bytes, why: Reason | None = None) -> None:
    with pytest.raises(Refused) as caught:
        await provider.authenticate(Delivery(source="acme", headers=headers, body=body, at=NOW))
    assert why is None or caught.value.reason is why


@pytest.mark.parametrize(
    ("lines", "key", "said"),
    [
        ("", "sources.acme", "signing_secret"),
        ("fields = { type = 'a' }", "sources.acme.fields.recipient", "is missing"),
        ("fields = { recipent = 'a' }", "sources.acme.fields", "did you mean recipient?"),
        ("fields = { type = '' }", "sources.acme.fields.type", "is an empty path"),
        ("words = { gone = 'bounced:hrd' }", "sources.acme.words", "did you mean hard?"),
        ("words = { gone = 'bouncd' }", "sources.acme.words", "did you mean bounced?"),
        ("words = { gone = 'delivered:hard' }", "sources.acme.words", "has no detail"),
        ("add = { x = 'query.token' }", "sources.acme.add", "secret"),
        ("add = { x = 'somewhere' }", "sources.acme.add", "body.<path>"),
        ("header_name = 'X-Key'\nadd = { x = 'header.x-key' }", "sources.acme.add", "secret"),
        ("signature = { header = 'X-Sig' }", "sources.acme.signing_secret", "is missing"),
        (f"signing_secret = '{SECRET}'", "sources.acme.signature.header", "is missing"),
        ("signature = { header = 'X-Sig', signed = '{timestamp}' }", "sources.acme.signature.signed", "{body}"),
        ("signature = { header = 'X-Sig', signed = '{bdy}{body}' }", "sources.acme.signature.signed", "none of"),
        (
            f"signing_secret = '{SECRET}'\nsignature = {{ header = 'X', signed = '{{timestamp}}.{{body}}' }}",
            "sources.acme.signature.timestamp_header",
            "need each other",
        ),
        (
            "signing_secret = '01 23                     '\nsignature = { header = 'X', key = 'hex' }",
            "sources.acme.signing_secret",
            "only 2 bytes",
        ),
        (
            "signing_secret = 'whsec_MDEyMzQ1Njc4OQ'\nsignature = { scheme = 'standard_webhooks' }",
            "sources.acme.signing_secret",
            "only 10 bytes",
        ),
        (
            f"signing_secret = '{SECRET}'\nsignature = {{ header = 'X', key = 'base64' }}",
            "sources.acme.signing_secret",
            "not in the form",
        ),
        ("signature = { headr = 'X-Sig' }", "sources.acme.signature.headr", "did you mean header?"),
        ("format = 'xml'", "sources.acme.format", "form"),
    ],
)
def test_problems_name_the_key_and_a_right_value(tmp_path: Path, lines: str, key: str, said: str) -> None:
    """what is wrong in the settings is told with its key and what would be right, and never with the secret"""
    path = tmp_path / "receiver.toml"
    path.write_text(f"[sources.acme]\nprovider = 'generic'\n{lines}\n")
    _, problems = find_sources(load_settings(path, {}), WORLD)
    found = {problem.key: str(problem) for problem in problems}
    assert key in found
    assert said in found[key]
    assert all(problem.right and SECRET not in str(problem) for problem in problems)


PAGE: Final = Path(__file__).parents[1] / "docs" / "providers.md"


def shown() -> tuple[str, dict[str, str], bytes]:
    """(configuration, the captured request's headers, its body) of "Any other sender"."""
    section = PAGE.read_text("utf-8").partition("## Any other sender")[2].partition("\n## ")[0]
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))
    head, _, body = blocks["http"].partition("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines())
    assert headers["X-Acme-Signature"] in blocks["sh"]  # what is to be typed is the same request
    return blocks["toml"], headers, body.removesuffix("\n").encode()


async def test_the_documented_example(tmp_path: Path, database: str) -> None:
    """the captured request of the documentation, posted as it says, becomes the row that its settings mean"""
    config, headers, body = shown()
    path = tmp_path / "receiver.toml"
    path.write_text(config)
    (source,) = bind_sources(load_settings(path, {}), World(fetch=_no_fetch)).values()
    async with running(database, Played(source, {})) as service:
        url = f"/webhooks/{source.name}"
        assert (await service.client.post(url, content=body, headers=headers)).status_code == 200
        assert (await service.client.post(url, content=body + b" ", headers=headers)).status_code == 503
        (row,) = await service.events()
    assert (row["source"], row["provider"], row["type"]) == ("acme", "generic", "bounced")
    assert (row["recipient"], row["bounce_category"], row["smtp_code"]) == ("ada@customer.test", "hard", 550)
    assert (row["message_id"], row["topic"], row["subject"]) == ("m-7", "newsletter", "Autumn news")


def test_the_documented_fields_are_all_there() -> None:
    """the documentation names every field that a mapping can have"""
    section = PAGE.read_text("utf-8").partition("**Fields.**")[2].partition("**Words.**")[0]
    assert set(re.findall(r"\w+", section)) >= FIELDS


def test_recipes_are_providers_like_any_other() -> None:
    """each recipe is a provider under its file's name, marked as what it is, and says where its facts are from"""
    made = {name: kind for name, kind in providers().items() if kind.basis == "recipe"}
    assert set(made) == set(recipe_names()) - {"generic"}
    assert len(made) == 10
    for name in made:
        assert "seen 2026-11" in read_recipe(name).about
        assert "Identity:" in read_recipe(name).about


async def test_a_smaller_batch_is_asked_of_braze() -> None:
    """Braze drops an event after 400 and sends smaller batches after 413: only what is too large gets that"""
    reply = providers()["braze"].reply
    assert (reply.too_large, reply.bad_encoding, reply.slow, reply.refused) == (413, 503, 503, 503)
    assert reply.repeated(413)
    assert not reply.repeated(400)


@pytest.mark.parametrize("name", ["activecampaign", "plunk"])
def test_senders_that_never_repeat(name: str) -> None:
    """a sender that posts once is known as such, and is never answered 410, which would switch it off"""
    reply = providers()[name].reply
    assert reply.repeated is never
    assert 410 not in {reply.refused, reply.again, reply.slow, reply.too_large, reply.bad_encoding}
