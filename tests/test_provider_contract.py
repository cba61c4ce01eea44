"""What holds for every provider, derived from its recorded requests. See `tests/provider_fixtures.py`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import pytest

from receiver.contract import Occurrence, Provider, World, never
from receiver.errors import Reason, Refused
from receiver.event import EventType
from receiver.providers import provider_names, providers
from tests.provider_fixtures import (
    Fixture,
    Folder,
    _no_fetch,
    changed,
    columns,
    expected_columns,
    fixtures,
    folder,
    folder_names,
    items_of_fixture,
    read_delivery,
    removed,
    same_columns,
)

TEN_YEARS: Final = timedelta(days=3653)
FLIPS: Final = 48  # bytes of a body that are changed, one at a time
AUTHENTIC_ON_TIME: Final = {Reason.STALE, Reason.FUTURE}


every_folder = pytest.mark.parametrize("name", folder_names())
every_provider = pytest.mark.parametrize("name", sorted(providers()))
FixtureTest = Callable[[Fixture], Awaitable[None] | None]


def _each(which: Callable[[Fixture], bool]) -> Callable[[FixtureTest], object]:
    """The test over each of a provider's recorded requests, as one test for each provider: there are very many."""

    def decorate(test: FixtureTest) -> object:
        async def over_all(name: str) -> None:
            for fixture in fixtures(name):
                if which(fixture):
                    try:
                        found = test(fixture)
                        if found is not None:
                            await found
                    except BaseException as error:
                        error.add_note(f"with the recorded request {fixture.name!r}")
                        raise

        over_all.__name__, over_all.__doc__ = test.__name__, test.__doc__
        return every_folder(over_all)

    return decorate


every_fixture = _each(lambda _: True)
every_covered_fixture = _each(lambda one: one.folder.kind.covers == "body")
every_ageing_fixture = _each(lambda one: one.folder.window > 0)


def test_every_provider_has_recorded_requests_and_every_folder_a_provider() -> None:
    """a provider without fixtures, or fixtures without a provider, are noticed"""
    assert folder_names() == sorted(providers())


@every_folder
async def test_every_word_is_recorded(name: str) -> None:
    """each word of a provider's table occurs in a recorded request, and means what the table says unless refined"""
    seen: set[str] = set()
    for fixture in fixtures(name):
        readings, _ = await read_delivery(fixture.folder.provider(), fixture.delivery())
        seen |= {reading.word for reading in readings}
    assert set(providers()[name].words) <= seen


@every_folder
def test_folder_settings_are_without_problems(name: str) -> None:
    """the settings that the recorded requests fit would be accepted at start"""
    here = folder(name)
    settings = here.kind.Settings.model_validate({"provider": name, **here.settings})
    assert [str(problem) for problem in here.kind.problems(settings, f"sources.{name}")] == []


@every_folder
def test_no_proof_is_a_problem(name: str) -> None:
    """a source that names nothing to prove its sender is a problem of the configuration"""
    kind = providers()[name]
    assert kind.problems(kind.Settings.model_validate({"provider": name}), f"sources.{name}")


@every_folder
async def test_no_proof_refuses(name: str) -> None:
    """a source without secrets refuses every request, should it ever get that far"""
    kind = providers()[name]
    here = folder(name)
    provider = kind(kind.Settings.model_validate({"provider": name}), World(fetch=_no_fetch, now=lambda: here.now))
    for fixture in fixtures(name):
        await _refused(provider, fixture)


@every_fixture
async def test_accepted_as_recorded(fixture: Fixture) -> None:
    """a recorded request is authentic and reads exactly as expected, column by column, nothing besides"""
    readings, unreadable = await read_delivery(fixture.folder.provider(), fixture.delivery())
    expected = [expected_columns(event) for event in fixture.expected["events"]]
    found = [columns(reading) for reading in readings]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert same_columns(one, other), f"\n{one}\n{other}"
    assert unreadable == fixture.expected.get("unreadable", 0)


@every_fixture
async def test_what_is_signed_is_handed_on(fixture: Fixture) -> None:
    """where the signature covers a token or fields, the signed text comes along, also with what is authentic but old"""
    covers = fixture.folder.kind.covers
    found = await fixture.folder.provider().authenticate(fixture.delivery())
    if found.answer is not None or covers == "nothing":
        assert found.proof is None
    elif covers != "body":  # where the body is covered, its bytes need not be what is signed: a form's fields
        assert found.proof is not None
    if fixture.folder.window:
        late = timedelta(seconds=fixture.folder.window + 1)
        error = await _refused(fixture.folder.provider(later=late), fixture, later=late)
        assert error.proof == found.proof


@every_fixture
async def test_details_belong_to_their_type(fixture: Fixture) -> None:
    """a rejection always says why; a verdict is of a bounce alone, a reason and an actor of their types alone"""
    readings, _ = await read_delivery(fixture.folder.provider(), fixture.delivery())
    for reading in readings:
        assert (reading.type is not EventType.REJECTED) or reading.reject_reason
        assert (reading.reject_reason is None) or reading.type in {EventType.REJECTED, EventType.FAILED}
        assert (reading.verdict is None) or reading.type is EventType.BOUNCED
        assert (reading.actor is None) or reading.type in {EventType.OPENED, EventType.CLICKED}


@every_fixture
async def test_times_are_aware(fixture: Fixture) -> None:
    """an event's time has a zone"""
    readings, _ = await read_delivery(fixture.folder.provider(), fixture.delivery())
    times = [time for reading in readings for time in (reading.occurred_at, reading.identity_time) if time]
    assert all(time.utcoffset() == timedelta() for time in times)


@every_fixture
async def test_damaged_signature_headers_are_refused(fixture: Fixture) -> None:
    """each header of the proof is needed: without it, empty, cut, lengthened or garbled the request is refused"""
    provider = fixture.folder.provider()
    for name in fixture.folder.signature_headers:
        if name not in fixture.headers:  # such as the older spelling of a header
            continue
        rest = {key: value for key, value in fixture.headers.items() if key != name}
        await _refused(provider, fixture, headers=rest)
        for how, damage in DAMAGES.items():
            damaged = damage(fixture.headers[name])
            assert damaged != fixture.headers[name], how
            await _refused(provider, fixture, headers=rest | {name: damaged})


@every_fixture
async def test_damaged_signature_fields_are_refused(fixture: Fixture) -> None:
    """each field of a proof inside the body is needed, unharmed, and so is each field it covers"""
    provider = fixture.folder.provider()
    for path in fixture.folder.signature_in_body:
        await _refused(provider, fixture, body=_edit(fixture, path, None))
        for damage in DAMAGES.values():
            await _refused(provider, fixture, body=_edit(fixture, path, damage))
    for path in fixture.folder.covered_in_body:
        body = _edit(fixture, path, lambda value: value + "x")
        if body != fixture.body:  # a field that only some messages have
            await _refused(provider, fixture, body=body)


@every_fixture
async def test_damaged_secret_of_the_url_is_refused(fixture: Fixture) -> None:
    """where the proof lies in the URL it is needed, unharmed"""
    if fixture.folder.query:
        provider = fixture.folder.provider()
        for query in (
            "",
            "token=",
            fixture.folder.query[:-1],
            fixture.folder.query + "x",
            _other(fixture.folder.query),
        ):
            await _refused(provider, fixture, query=query)


@every_folder
def test_every_proof_is_tried(name: str) -> None:
    """a folder says where the proof lies, and each of its requests carries it there"""
    here = folder(name)
    assert here.signature_headers or here.signature_in_body or here.query
    for fixture in fixtures(name):
        assert set(here.signature_headers) & set(fixture.headers) or here.signature_in_body or here.query, fixture.name
        for path in here.signature_in_body:
            assert _edit(fixture, path, None) != fixture.body, (fixture.name, path)


@every_covered_fixture
async def test_another_body(fixture: Fixture) -> None:
    """a changed byte is refused where the body is covered, and each byte counts"""
    provider = fixture.folder.provider()
    step = max(1, len(fixture.body) // FLIPS)
    for position in {*range(0, len(fixture.body), step), len(fixture.body) - 1}:
        flipped = bytearray(fixture.body)
        flipped[position] ^= 1
        await _refused(provider, fixture, body=bytes(flipped))
    await _refused(provider, fixture, body=fixture.body + b" ")
    await _refused(provider, fixture, body=b"")


@every_provider
async def test_what_is_not_covered_is_said(name: str) -> None:
    """where the body is not covered a changed body is accepted, and the file's docstring says what that means"""
    kind = providers()[name]
    assert re.search(r"cover", _about(kind))
    if kind.covers in {"body", "fields"}:
        return
    for fixture in fixtures(name):
        if fixture.body.count(b"alice") + fixture.body.count(b"margareth"):
            body = fixture.body.replace(b"alice", b"malice").replace(b"margareth", b"mallory")
            await fixture.folder.provider().authenticate(fixture.delivery(body=body))


@every_folder
async def test_another_key_is_refused(name: str, tmp_path: Path) -> None:
    """the same items, signed as the provider does but with another account's key, are refused"""
    here = folder(name)
    _, other = here.kind.simulation.demo(tmp_path)
    for fixture in fixtures(name):
        items = [item.value for item in await items_of_fixture(fixture)]
        for post in here.kind.simulation.post(items, other, here.now):
            headers = {key.lower(): value for key, value in post.headers.items()}
            await _refused(here.provider(), fixture, headers=headers, body=post.body, query=post.query)


@every_folder
async def test_every_key_is_tried(name: str, tmp_path: Path) -> None:
    """while a key is replaced by another both are accepted, whichever comes first"""
    here = folder(name)
    made, other = here.kind.simulation.demo(tmp_path)
    for order in (-1, 1):
        both = {key: _joined(here.settings.get(key), value, order) for key, value in made.items()}
        if both == dict(made):
            pytest.fail("no setting of this provider takes two keys")
        if here.keys:
            await _accepted_with(here, both, here.keys)
        await _accepted_with(here, both, dict(here.keys) | other)


async def _accepted_with(here: Folder, settings: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    simulation = here.kind.simulation
    sample = simulation.sample(_occurrence(here, simulation.types[0]))
    for post in simulation.post([sample], keys, here.now):
        headers = {key.lower(): value for key, value in post.headers.items()}
        delivery = fixtures(here.name)[0].delivery(headers=headers, body=post.body, query=post.query)
        readings, _ = await read_delivery(here.provider(**settings), delivery)
        assert len(readings) == 1


def _joined(ours: object, theirs: object, order: int) -> object:
    """Both values in one list where the setting holds secrets; names such as a user's stay ours."""
    if ours == theirs:  # such as the URL that is signed
        return ours
    if isinstance(theirs, list) and isinstance(ours, str):
        ours = [ours]
    if isinstance(ours, list):
        return ours + _list(theirs) if order > 0 else _list(theirs) + ours
    if isinstance(ours, str) and isinstance(theirs, str) and len(theirs) >= 20:  # secrets, keys, paths
        return [ours, theirs][::order]
    return theirs if ours is None else ours


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


@every_fixture
async def test_age(fixture: Fixture) -> None:
    """a request beyond its window is refused as authentic but stale; where nothing ages it is accepted for ever"""
    window = fixture.folder.window
    if not window:
        await fixture.folder.provider(later=TEN_YEARS).authenticate(fixture.delivery(later=TEN_YEARS))
        return
    just = timedelta(seconds=window * 0.9 - 60)
    late = timedelta(seconds=window + 1)
    early = timedelta(days=-1)
    await fixture.folder.provider(later=just).authenticate(fixture.delivery(later=just))
    for shift, reason in ((late, Reason.STALE), (TEN_YEARS, Reason.STALE), (early, Reason.FUTURE)):
        error = await _refused(fixture.folder.provider(later=shift), fixture, later=shift)
        assert (error.reason, error.authentic) == (reason, True)


@every_ageing_fixture
async def test_tolerance_overrides_the_window(fixture: Fixture) -> None:
    """a configured tolerance counts instead of the provider's own window"""
    shift = timedelta(hours=1)
    wide = fixture.folder.provider(later=shift, tolerance=7200.0)
    await wide.authenticate(fixture.delivery(later=shift))
    narrow = fixture.folder.provider(later=shift, tolerance=600.0)
    assert (await _refused(narrow, fixture, later=shift)).reason is Reason.STALE


@every_fixture
async def test_read_twice(fixture: Fixture) -> None:
    """the same request read twice gives the same events with the same identities"""
    first, _ = await read_delivery(fixture.folder.provider(), fixture.delivery())
    second, _ = await read_delivery(fixture.folder.provider(), fixture.delivery())
    assert [columns(one) for one in first] == [columns(one) for one in second]
    assert [_identity(one) for one in first] == [_identity(one) for one in second]


@every_fixture
async def test_identities_are_text(fixture: Fixture) -> None:
    """identities are of text alone, and no two events of one request share one"""
    readings, _ = await read_delivery(fixture.folder.provider(), fixture.delivery())
    known = [reading.identity for reading in readings if reading.identity is not None]
    assert all(isinstance(part, str | None) for identity in known for part in identity)
    assert len({tuple(identity) for identity in known}) == len(known)


@every_folder
async def test_recorded_events_are_distinct(name: str) -> None:
    """two different recorded requests of a provider are never one event"""
    seen: dict[object, str] = {}
    for fixture in fixtures(name):
        readings, _ = await read_delivery(fixture.folder.provider(), fixture.delivery())
        for reading in readings:
            if reading.identity is not None:
                assert seen.setdefault(_identity(reading), fixture.name) == fixture.name


@every_fixture
async def test_volatile_fields_leave_the_identity(fixture: Fixture) -> None:
    """a repetition in which only volatile fields differ is the same event"""
    provider = fixture.folder.provider()
    for item in await items_of_fixture(fixture):
        before = [_identity(reading) for reading in provider.read(item)]
        for path in fixture.folder.volatile:
            other = type(item)(
                value=changed(item.value, path, "changed"),
                text=json.dumps(changed(item.value, path, "changed")),
                event_id=item.event_id,
            )
            assert [_identity(reading) for reading in provider.read(other)] == before, path


@every_fixture
async def test_unknown_fields_are_harmless(fixture: Fixture) -> None:
    """a field that no document names changes nothing but, at most, the metadata"""
    provider = fixture.folder.provider()
    for item in await items_of_fixture(fixture):
        if not isinstance(item.value, dict):
            continue
        value = item.value | {"brand-new-field": {"deep": [1, None, "x"]}}
        other = type(item)(value=value, text=json.dumps(value), event_id=item.event_id)
        for one, two in zip(provider.read(item), provider.read(other), strict=True):
            left, right = columns(one), columns(two)
            left.pop("metadata", None)
            right.pop("metadata", None)
            assert left == right
            whole = one.identity is None or one.identity[0] == "raw"  # the item itself, where it says too little
            assert whole or _identity(one) == _identity(two)


@every_provider
async def test_simulated_posts_are_read_back(name: str, tmp_path: Path) -> None:
    """the simulator's posts with demo credentials are accepted and read as what they were meant to be"""
    kind = providers()[name]
    made, keys = kind.simulation.demo(tmp_path)
    settings = kind.Settings.model_validate({"provider": name, **made})
    here = folder(name)
    provider = kind(settings, World(fetch=_no_fetch, now=lambda: here.now))
    assert not kind.problems(settings, f"sources.{name}")
    for type_ in kind.simulation.types:
        await _simulate(here, provider, keys, [_occurrence(here, type_)])
    await _simulate(
        here, provider, keys, [_occurrence(here, type_, n) for n, type_ in enumerate(kind.simulation.types)]
    )
    await _simulate(here, provider, keys, [_occurrence(here, kind.simulation.types[0], n) for n in range(25)])


async def _simulate(here: Folder, provider: Provider, keys: Mapping[str, str], occurrences: list[Occurrence]) -> None:
    simulation = here.kind.simulation
    found = []
    for post in simulation.post([simulation.sample(one) for one in occurrences], keys, here.now):
        headers = {key.lower(): value for key, value in post.headers.items()}
        delivery = fixtures(here.name)[0].delivery(headers=headers, body=post.body, query=post.query)
        readings, unreadable = await read_delivery(provider, delivery)
        assert not unreadable
        found += readings
    meant = [(one.type, one.recipient if simulation.names_recipients else "") for one in occurrences]
    assert [(reading.type, (reading.recipient or "").lower()) for reading in found] == meant
    assert not any(reading.is_test for reading in found)
    assert len({_identity(reading) for reading in found}) == len(occurrences)


@every_provider
def test_keys_of_a_configured_source(name: str, tmp_path: Path) -> None:
    """the simulator signs for a configured source, or says how to give it a key of its own"""
    kind = providers()[name]
    made, _ = kind.simulation.demo(tmp_path)
    keys = kind.simulation.keys(kind.Settings.model_validate({"provider": name, **made}))
    assert keys or kind.simulation.unsignable
    assert "{url}" in kind.simulation.setup


@every_provider
def test_secrets_stay_hidden(name: str) -> None:
    """neither settings nor problems nor refusals show a secret"""
    here = folder(name)
    settings = here.kind.Settings.model_validate({"provider": name, **here.settings})
    shown = repr(settings) + str(settings) + repr(here.provider())
    for key, secret in here.keys.items():
        hidden = len(secret) >= 16 and "public" not in key and "name" not in key
        assert not hidden or secret not in shown, key


@every_provider
def test_reply_codes(name: str) -> None:
    """success is 200, and whatever may succeed later is answered with a code after which the provider tries again"""
    kind = providers()[name]
    reply = kind.reply
    assert reply.stored == 200
    assert not reply.repeated(200)
    assert reply.again in {429, 503}
    assert reply.refused in {401, 403, 429, 503}
    if reply.repeated is not never:
        for code in (reply.again, reply.slow, reply.too_large, reply.bad_encoding):
            assert reply.repeated(code), code
        assert reply.repeated(reply.refused) is not reply.final_refusal
    assert reply.retries.endswith(".")
    assert 0 < reply.timeout <= 60
    assert "Status codes:" in _about(kind)


def _about(kind: type[Provider]) -> str:
    """What a provider's file says of itself: its docstring, or a recipe's text."""
    return getattr(kind, "about", None) or sys.modules[kind.__module__].__doc__ or ""


def _occurrence(here: Folder, type_: EventType, number: int = 0) -> Occurrence:
    recipient = f"person{number}@customer.example"
    return Occurrence(type=type_, recipient=recipient, at=here.now - timedelta(seconds=9), run="r1", number=number)


def _identity(reading: Any) -> tuple[object, ...]:
    """What the id is made of; the raw item's text stands in where the reading has no identity."""
    whole = tuple(sorted(map(str, columns(reading).items())))
    identity = whole if reading.identity is None else tuple(reading.identity)
    return (*identity, reading.identity_time or reading.occurred_at)


async def _refused(provider: Provider, fixture: Fixture, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await provider.authenticate(fixture.delivery(**changes))
    assert caught.value.authentic is (caught.value.reason in AUTHENTIC_ON_TIME)
    for secret in fixture.folder.keys.values():
        assert len(secret) < 16 or secret not in caught.value.detail
    return caught.value


def _other(value: str) -> str:
    """The same with another letter in the middle."""
    middle = len(value) // 2
    return value[:middle] + ("0" if value[middle] != "0" else "1") + value[middle + 1 :]


DAMAGES: Final[Mapping[str, Callable[[str], str]]] = {
    "empty": lambda _: "",
    "blank": lambda _: "  ",
    "one letter": lambda _: "v",
    "cut by one": lambda value: value[:-1],
    "cut to its scheme": lambda value: re.split(r"[ ,=]", value)[0][: len(value) - 1],
    "half": lambda value: value[: len(value) // 2],
    "lengthened": lambda value: value + "x",
    "over-long": lambda value: value * (100_000 // max(len(value), 1)) + "x",
    "another letter": _other,
    "not ASCII": lambda value: value[:-1] + "é",
    "not Latin-1": lambda value: value[:-1] + "☃",
    "a lone surrogate": lambda value: value[:-1] + "\udc80",
    "wrong base64": lambda value: value[: len(value) // 2] + "=*=" + value[len(value) // 2 :],
    "a NUL": lambda value: value + "\x00",
}


def _edit(fixture: Fixture, path: Sequence[str], change: Callable[[str], str] | None) -> bytes:
    """The body with one field changed, or without it (`None`)."""
    content_type = fixture.headers.get("content-type", "")
    if content_type.startswith("application/x-www-form-urlencoded"):
        return _edit_urlencoded(fixture.body, path[-1], change)
    if content_type.startswith("multipart/"):
        return _edit_multipart(fixture.body, path[-1], change)
    value = json.loads(fixture.body.removeprefix(b"\xef\xbb\xbf"))
    old = value
    for key in path:
        old = old.get(key) if isinstance(old, dict) else None
    if old is None:
        return fixture.body
    edited = removed(value, path) if change is None else changed(value, path, change(str(old)))
    return json.dumps(edited).encode()


def _edit_urlencoded(body: bytes, name: str, change: Callable[[str], str] | None) -> bytes:
    """All fields of the name are changed: one that is a user's own must not serve instead."""
    fields = parse_qsl(body.decode(), keep_blank_values=True)
    kept = [(key, value) for key, value in fields if key != name]
    if change is not None:
        kept += [(name, change(value)) for key, value in fields if key == name]
    return urlencode(kept, errors="surrogatepass").encode()


def _edit_multipart(body: bytes, name: str, change: Callable[[str], str] | None) -> bytes:
    pattern = re.compile(rb'(name="%s"\r\n\r\n)(.*?)(\r\n--)' % name.encode(), re.DOTALL)
    if change is None:
        return body.replace(b'name="%s"' % name.encode(), b'name="something-else"')
    return pattern.sub(lambda m: m[1] + change(m[2].decode()).encode(errors="surrogatepass") + m[3], body)


def test_a_files_name_is_its_providers() -> None:
    """a provider is found by the name of its file or recipe alone, and only those that are used are imported"""
    assert [kind.name for kind in providers().values()] == provider_names()
    source = "import sys, receiver.providers as p; p.provider('resend'); print('receiver.providers.ses' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
