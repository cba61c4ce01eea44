"""OAuth 2.0 client credentials: who gets a token, where it is good and for how long, and what is answered else."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.contract import Post
from receiver.errors import ConfigError
from receiver.event import EventType
from receiver.ingest.credit import Credit
from receiver.ingest.receive import Ingest
from receiver.networks import Proxies
from receiver.oauth import LIFETIME, PATH, Client, ClientSettings
from receiver.settings import load_settings
from receiver.sources import bind_sources
from receiver.web.tokens import TokenEndpoint
from tests.cli import command_for
from tests.service import WORLD, Played, Running, play, running
from tests.waiting import until

ID: Final = "the-shop"
SECRET: Final = "a+secret%2Fof-the-tests:9d41f0"  # with what Basic credentials may or may not have encoded
GRANT: Final = {"grant_type": "client_credentials"}
FORM: Final = "application/x-www-form-urlencoded"


def client_of(provider: str, directory: Path, name: str, id_: str = ID, *secrets: str, **extra: Any) -> Played:
    """A source whose only proof is OAuth's, unless `extra` has others."""
    none: dict[str, list[str]] = {"password": [], "public_key": []}
    played = play(provider, directory, name=name)
    known = {key: value for key, value in none.items() if key in type(played.source.settings).model_fields} | extra
    values = played.source.settings.model_copy(update=known).model_dump()
    values |= {"client_id": id_, "client_secret": list(secrets or [SECRET])}
    kind = type(played.source.provider)
    bound = kind.Settings.model_validate(values)
    return Played(replace(played.source, settings=bound, provider=kind(bound, WORLD)), {})


async def token(service: Running, id_: str = ID, secret: str = SECRET) -> str:
    answer = await service.client.post(PATH, auth=(id_, secret), data=GRANT)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["access_token"]
    return found


def bearing(token_: str, post: Post) -> Post:
    return replace(post, headers={**post.headers, "authorization": f"Bearer {token_}"})


async def test_a_token_opens_its_own_source_alone(database: str, tmp_path: Path) -> None:
    """a token is good at its client's source for an hour, and at no other; who is refused is told to get another one"""
    shop = client_of("sparkpost", tmp_path, "shop")
    other = client_of("sparkpost", tmp_path, "other", "the-other")
    (post,) = shop.posts(EventType.BOUNCED, "ann@one.test")
    async with running(database, shop, other) as service:
        answer = await service.client.post(PATH, auth=(ID, SECRET), data=GRANT)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"
        told = answer.json()
        assert {**told, "access_token": ""} == {"access_token": "", "token_type": "Bearer", "expires_in": LIFETIME}
        mine = told["access_token"]
        assert mine != await token(service)
        assert (await service.post("shop", bearing(mine, post))).status_code == 200
        assert await service.count("events") == 1
        for source, wrong in (
            ("other", mine), ("shop", await token(service, "the-other")), ("shop", f"{mine[:-1]}~"), ("shop", SECRET),
            ("shop", mine.replace("v1.1", "v1.2", 1)), ("shop", "x"), ("shop", mine + mine),
        ):  # fmt: skip
            refused = await service.post(source, bearing(wrong, post))
            assert refused.status_code == 401, wrong
            assert 'error="invalid_token"' in refused.headers["www-authenticate"]
        assert (await service.post("shop", post)).status_code == 401
        assert await service.count("events") == 1
        metrics = (await service.client.get(f"{service.admin_url}/metrics")).text
    assert 'receiver_requests_total{outcome="refused",source="shop"} 6.0' in metrics
    assert 'receiver_requests_total{outcome="challenged",source="shop"} 1.0' in metrics


@pytest.mark.parametrize("provider", ["sparkpost", "sendgrid", "ses_eventbridge"])
async def test_a_token_that_has_run_out(database: str, tmp_path: Path, provider: str) -> None:
    """an old token gets 401, after which each of these providers gets another one and comes again"""
    shop = client_of(provider, tmp_path, "shop")
    own = shop.source.settings
    assert isinstance(own, ClientSettings)
    issued = datetime.now(UTC) - timedelta(seconds=LIFETIME + 1)
    old = Client(own).issue(SECRET.encode(), "shop", issued)
    (post,) = shop.posts(EventType.DELIVERED, "ann@one.test")
    async with running(database, shop) as service:
        assert (await service.post("shop", bearing(str(old), post))).status_code == 401
        assert (await service.post("shop", bearing(await token(service), post))).status_code == 200
        await until(lambda: service.connection.fetchval("SELECT count(*) = 1 FROM refused"))
        assert await service.connection.fetchval("SELECT reason FROM refused") == "expired_token"


async def test_rotation(database: str, tmp_path: Path) -> None:
    """tokens of both secrets will do while both are configured; those of a secret end with it, in every process"""
    new = "the new secret of the tests"
    both = client_of("sparkpost", tmp_path, "shop", ID, SECRET, new)
    (post,) = both.posts(EventType.BOUNCED, "ann@one.test")
    async with running(database, both) as service:
        old_token, new_token = await token(service), await token(service, secret=new)
        for one in (old_token, new_token):
            assert (await service.post("shop", bearing(one, post))).status_code == 200
    async with running(database, client_of("sparkpost", tmp_path, "shop", ID, new)) as service:
        assert (await service.post("shop", bearing(old_token, post))).status_code == 401
        assert (await service.post("shop", bearing(new_token, post))).status_code == 200
        assert (await service.client.post(PATH, auth=(ID, SECRET), data=GRANT)).status_code == 401


BASIC: Final = "Basic " + b64encode(f"{ID}:{SECRET}".encode()).decode()
ENCODED: Final = "Basic " + b64encode(b"the-shop:a%2Bsecret%252Fof-the-tests%3A9d41f0").decode()
BY_BODY: Final = {"client_id": ID, "client_secret": SECRET}


ASKING: Final[list[tuple[dict[str, Any], int, str | None]]] = [
    ({"data": GRANT, "headers": {"authorization": BASIC}}, 200, None),
    ({"data": GRANT, "headers": {"authorization": ENCODED}}, 200, None),
    ({"data": {**GRANT, **BY_BODY}}, 200, None),
    ({"json": {**GRANT, **BY_BODY}}, 200, None),
    ({"json": BY_BODY}, 200, None),  # SparkPost's own sample
    ({"headers": {"authorization": BASIC}}, 200, None),
    ({"data": {**GRANT, **BY_BODY, "scope": "events"}}, 200, None),
    ({"data": {**GRANT, "client_id": ID}, "headers": {"authorization": BASIC}}, 200, None),
    ({"data": GRANT}, 401, "invalid_client"),
    ({"data": {**GRANT, **BY_BODY, "client_secret": "wrong"}}, 401, "invalid_client"),
    ({"data": {**GRANT, **BY_BODY, "client_secret": ""}}, 401, "invalid_client"),
    ({"data": {**GRANT, **BY_BODY, "client_id": "nobody"}}, 401, "invalid_client"),
    ({"data": GRANT, "headers": {"authorization": "Bearer x"}}, 401, "invalid_client"),
    ({"data": GRANT, "headers": {"authorization": b"Basic \xff"}}, 401, "invalid_client"),
    ({"data": {**BY_BODY, "grant_type": "password"}}, 400, "unsupported_grant_type"),
    ({"data": {**GRANT, **BY_BODY}, "headers": {"authorization": BASIC}}, 400, "invalid_request"),
    ({"content": b"client_id=a&client_id=b", "headers": {"content-type": FORM}}, 400, "invalid_request"),
    ({"content": b"[1]", "headers": {"content-type": "application/json"}}, 400, "invalid_request"),
    ({"content": b"[" * 5000}, 400, "invalid_request"),
    ({"content": b"\xff\x00"}, 400, "invalid_request"),
    ({"content": b"x" * 9000}, 413, None),
]


async def test_asking_for_a_token(database: str, tmp_path: Path) -> None:
    """the client may prove itself in the header or the body; errors are those of RFC 6749, and never stored"""
    async with running(database, client_of("sparkpost", tmp_path, "shop")) as service:
        for sent, status, error in ASKING:
            answer = await service.client.post(PATH, **sent)
            assert answer.status_code == status, (sent, answer.text)
            if status != 413:
                assert answer.headers["cache-control"] == "no-store"
                assert answer.json().get("error") == error, sent
            assert ("www-authenticate" in answer.headers) == (status == 401)
        assert (await service.client.get(PATH)).status_code == 405


TEXTS: Final = st.text(max_size=20) | st.sampled_from([ID, SECRET, "client_credentials", BASIC, ENCODED, "%", "\ud800"])
BODIES: Final = (
    st.dictionaries(st.sampled_from(["client_id", "client_secret", "grant_type", "x"]), TEXTS).map(
        lambda fields: json.dumps(fields).encode()
    )
    | st.binary(max_size=60)
    | st.lists(st.tuples(TEXTS, TEXTS), max_size=4).map(lambda pairs: urlencode(pairs, errors="replace").encode())
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=BODIES,
    kind=st.sampled_from([None, "application/json", FORM, "multipart/form-data; boundary=x"]) | st.text(max_size=9),
    authorization=st.none() | TEXTS | st.binary(max_size=30).map(lambda raw: "Basic " + b64encode(raw).decode()),
)
def test_whatever_is_asked_is_answered(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, kind: str | None, authorization: str | None
) -> None:
    """no request for a token raises, and none that does not know the secret gets one"""
    source = client_of("sparkpost", tmp_path_factory.getbasetemp(), "shop").source
    endpoint = TokenEndpoint({"shop": source}, cast("Ingest", SimpleNamespace(refused=lambda *_: None)), Proxies())
    headers = {"content-type": kind, "authorization": authorization}
    answer = endpoint.answer({name: one for name, one in headers.items() if one}, body, "192.0.2.7", datetime.now(UTC))
    knows = SECRET.encode() in body or quote_plus(SECRET).encode() in body or authorization in (BASIC, ENCODED)
    assert answer.status in ({200, 400, 401} if knows else {400, 401})


async def test_without_clients_there_is_no_token_url(database: str, tmp_path: Path) -> None:
    """where no source has a client, the URL is as unknown as any other"""
    async with running(database, play("sparkpost", tmp_path)) as service:
        assert (await service.client.post(PATH, data=GRANT)).status_code == 404


async def test_guessing_is_limited(database: str, tmp_path: Path) -> None:
    """wrong secrets are sampled for the operator and soon get 429; whoever knows the secret has its token still"""
    async with running(database, client_of("sparkpost", tmp_path, "shop")) as service:
        wrong = {**GRANT, **BY_BODY, "client_secret": "a wrong secret"}
        answers = [await service.client.post(PATH, data=wrong) for _ in range(30)]
        codes = [one.status_code for one in answers]
        assert codes[:5] == [401] * 5
        assert (codes[-1], "retry-after" in answers[-1].headers) == (429, True)
        (post,) = client_of("sparkpost", tmp_path, "shop").posts(EventType.BOUNCED, "ann@one.test")
        assert (await service.post("shop", bearing(await token(service), post))).status_code == 200
        await until(lambda: service.connection.fetchval("SELECT count(*) > 0 FROM refused"))
        row = await service.connection.fetchrow("SELECT source, reason FROM refused LIMIT 1")
        assert row is not None
        assert tuple(row) == ("shop", "wrong_credentials")
        fast = [(await service.client.post(PATH, auth=(ID, SECRET), data=GRANT)).status_code for _ in range(100)]
        assert (fast[0], 429 in fast) == (200, True)


def test_what_is_remembered_is_bounded() -> None:
    """of many addresses, those that came last are remembered"""
    credit = Credit(1, 1e9, most=3)
    assert [credit.take(number) for number in (1, 2, 3, 4)] == [True] * 4
    assert [credit.has(number) for number in (1, 2, 3, 4)] == [True, False, False, False]


# Beside other proofs ----------------------------------------------------------------------------------------------


async def test_sendgrid_requires_what_is_set(database: str, tmp_path: Path) -> None:
    """the signature, the token, or both: what is set is required, and nothing else will do"""
    signing = play("sendgrid", tmp_path, name="signed")
    keys = signing.source.settings.model_dump()["public_key"]
    both = replace(client_of("sendgrid", tmp_path, "both", "both", public_key=keys), keys=signing.keys)
    alone = client_of("sendgrid", tmp_path, "alone", "alone")
    (signed,) = signing.posts(EventType.CLICKED, "ann@one.test")
    (bare,) = alone.posts(EventType.CLICKED, "ann@one.test")
    async with running(database, signing, both, alone) as service:
        of_both, of_alone = await token(service, "both"), await token(service, "alone")
        for source, post, status in (
            ("signed", signed, 200), ("signed", bearing(of_both, bare), 401),
            ("both", signed, 401), ("both", bearing(of_both, bare), 401), ("both", bearing(of_both, signed), 200),
            ("alone", signed, 401), ("alone", bearing(of_alone, bare), 200),
        ):  # fmt: skip
            assert (await service.post(source, post)).status_code == status, source
        assert await service.count("events") == 3


@pytest.mark.parametrize(
    ("written", "key", "wrong"),
    [
        ("client_id = 'x'", "sources.shop.client_id", "together"),
        (f"client_secret = '{SECRET}'", "sources.shop.client_id", "together"),
        ("client_id = 'x'\nclient_secret = 'short'", "sources.shop.client_secret", "5 characters"),
        (f"client_id = 'a:b'\nclient_secret = '{SECRET}'", "sources.shop.client_id", "colons"),
        (f"client_id = 'x'\nclient_secret = '{SECRET}'\npassword = '{SECRET}'", "sources.shop.client_secret", "togeth"),
        (f"client_id = 'y'\nclient_secret = '{SECRET}'", "sources.shop.client_id", "also that of sources.first"),
    ],
)
def test_refused_clients(tmp_path: Path, written: str, key: str, wrong: str) -> None:
    """half a client, a weak one, one beside other credentials, and one that two sources share are refused"""
    first = f"[sources.first]\nprovider = 'sendgrid'\nclient_id = 'y'\nclient_secret = '{SECRET}'\n"
    (tmp_path / "receiver.toml").write_text(f"{first}[sources.shop]\nprovider = 'sparkpost'\n{written}")
    with pytest.raises(ConfigError) as caught:
        bind_sources(load_settings(tmp_path / "receiver.toml", {}), WORLD)
    assert [(one.key, wrong in one.wrong) for one in caught.value.problems] == [(key, True)]
    assert SECRET not in str(caught.value)


async def test_the_simulator_gets_a_token(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`receiver simulate` plays a provider with OAuth: it gets a token as the provider does, or goes without one"""
    receiver = command_for(database, tmp_path, capsys, monkeypatch)
    client = f"client_id = '{ID}'\nclient_secret = '{SECRET}'"
    (tmp_path / "receiver.toml").write_text(f"[sources.shop]\nprovider = 'sparkpost'\n{client}")
    async with running(database, client_of("sparkpost", tmp_path, "shop")) as service:
        assert (await receiver("simulate", "shop", "bounced", "--url", service.url)).code == 0
        assert await service.count("events") == 1
        assert (await receiver("simulate", "shop", "bounced", "--url", service.url, "--bad-signature")).code == 0
        assert await service.count("events") == 1
