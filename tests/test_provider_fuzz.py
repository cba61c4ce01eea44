"""Any JSON value in any place of a provider's item: nothing but `Unreadable`, and no neighbour is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.contract import Item, Occurrence, Provider, UnreadableItem
from receiver.errors import Unreadable
from receiver.event import EventType, Reading
from receiver.payload import item_of
from receiver.providers import providers
from tests.provider_fixtures import Folder, columns, fixtures, folder, items_of_fixture

every_provider = pytest.mark.parametrize("name", sorted(providers()))
fuzzed = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
posted = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

NASTY: Final = [
    "",
    " ",
    "\x00",
    "a\x00b",
    "\ud800",
    "x" * 5000,
    "☃",
    "null",
    "-1",
    "1e999",
    "2026-13-45T99:99:99Z",
    "\r\nX: y",
]
NUMBERS: Final = [0, -1, 2**31, 2**63, 2**64, -(2**70), 10**300, 1e308, 5e-324, 0.1, 253402300800, -62135596801]
# What no encoder of ours would write, but a body can contain.
TEXTS: Final = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e-999",
    "9" * 5000,
    '"\\ud800"',
    '"\\u0000"',
    "[" * 300 + "]" * 300,
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(NUMBERS),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(NASTY),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.none() | st.integers(-9, 9), max_size=2),
    st.dictionaries(st.sampled_from(["a", "Email", "headers"]), st.none() | st.text("ab<>@"), max_size=2),
)
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=10)  # what comes with an item
Place = tuple[Any, ...]


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Every place of a JSON value, the whole value included."""
    yield here
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*here, key))


def put(value: Any, place: Place, new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = put(copy[place[0]], place[1:], new)
    return copy


def drop(value: Any, place: Place) -> Any:
    parent: Any = value
    for key in place[:-1]:
        parent = parent[key]
    kept = dict(parent) if isinstance(parent, dict) else list(parent)
    del kept[place[-1]]
    return put(value, place[:-1], kept)


@cache
def spots(name: str) -> list[tuple[Any, Place]]:
    """(item's value, place) for every place of every recorded item."""
    return [(value, place) for value in recorded(name) for place in places(value)]


@cache
def provider_of(name: str) -> Provider:
    return folder(name).provider()


@cache
def recorded(name: str) -> list[Any]:
    return [item.value for one in fixtures(name) for item in _await(items_of_fixture(one))]


def _await(coroutine: Any) -> Any:
    """Runs what never really waits, so that hypothesis needs no event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("authenticate waits for something")


def check(name: str, body: bytes, event_id: str | None = None) -> list[Reading] | None:
    """Reads one item; None where it is unreadable. Whatever is read must be fit to be stored."""
    item = item_of(body, event_id=event_id)
    if isinstance(item, UnreadableItem):
        return None
    _fit(item)
    try:
        readings = provider_of(name).read(item)
    except Unreadable:
        return None
    for reading in readings:
        assert isinstance(reading.type, EventType)
        _identity_fits(reading)
        columns(reading)
    return list(readings)


def _fit(item: Item) -> None:
    """The text is JSON by the letter, says the value, and holds nothing that Postgres refuses."""
    decoded = json.loads(item.text, parse_constant=_no_constant)
    msgspec.json.decode(item.text)
    assert _holds_nothing_odd(decoded)


def _no_constant(word: str) -> None:
    raise AssertionError(word)


def _holds_nothing_odd(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, dict):
        return all(_holds_nothing_odd(key) and _holds_nothing_odd(member) for key, member in value.items())
    if isinstance(value, list):
        return all(map(_holds_nothing_odd, value))
    return True


def _identity_fits(reading: Reading) -> None:
    assert reading.identity is None or all(isinstance(part, str | None) for part in reading.identity)
    msgspec.json.encode(reading.identity)
    assert all(map(_holds_nothing_odd, columns(reading).values()))
    for value in (reading.recipient, reading.message_id, reading.diagnostic, reading.url, reading.word):
        assert value is None or isinstance(value, str)
    assert all(isinstance(tag, str) for tag in reading.tags)
    assert reading.metadata is None or isinstance(reading.metadata, dict)


@every_provider
def test_any_value_in_any_place(name: str) -> None:
    """whatever stands in whatever place, reading an item raises nothing but Unreadable"""

    @fuzzed
    @given(st.sampled_from(spots(name)), values, st.none() | header_text)
    def run(spot: tuple[Any, Place], new: Any, event_id: str | None) -> None:
        value, place = spot
        check(name, json.dumps(put(value, place, new)).encode(), event_id)

    run()


@every_provider
def test_every_place_at_least_once(name: str) -> None:
    """null, a number, a text, a list and an object in every place in turn"""
    seen = set()
    others = cycle([None, 7, 1e300, "text", [], [None, {"a": 1}, ["x"]], {}, {"a": None}, True])
    for value, place in spots(name):
        shape = (
            place,
            str(value.get("event") or value.get("RecordType") or value.get("type")) if isinstance(value, dict) else "",
        )
        if shape in seen:
            continue
        seen.add(shape)
        for new in islice(others, 4):  # four of nine, so that each comes to all kinds of places
            check(name, json.dumps(put(value, place, new)).encode())


@every_provider
def test_missing_and_doubled_keys(name: str) -> None:
    """each key can be missing, or be there twice"""
    seen: set[Place] = set()
    for value, place in spots(name):
        if place and place not in seen:
            seen.add(place)
            check(name, json.dumps(drop(value, place)).encode())
    for value in recorded(name):
        if isinstance(value, dict):
            members = json.dumps(value)[1:-1]
            check(name, ("{" + members + "," + members + "}").encode())


@every_provider
def test_odd_json_in_every_place(name: str) -> None:
    """texts that some JSON writers produce and others refuse never break the reading, nor reach what is stored"""
    seen: set[Place] = set()
    odd = cycle(TEXTS)
    for value, place in spots(name):
        if place in seen:
            continue
        seen.add(place)
        body = json.dumps(put(value, place, "@@hole@@"))
        for text in islice(odd, len(TEXTS) // 2):  # four of nine, so that each comes to all kinds of places
            check(name, body.replace('"@@hole@@"', text).encode())


@every_provider
def test_neighbours_survive(name: str) -> None:
    """through the whole way (signed, authenticated, parsed, read) a spoilt item leaves its neighbours as they were"""
    here = folder(name)
    provider = here.provider()

    @posted
    @given(st.sampled_from(spots(name)), plain)
    def run(spot: tuple[Any, Place], new: Any) -> None:
        value, place = spot
        first, second = (here.kind.simulation.sample(_occurrence(here, number)) for number in (1, 2))
        alone = [columns(reading) for reading in _read_all(here, provider, [first, second])]
        found = [columns(reading) for reading in _read_all(here, provider, [first, put(value, place, new), second])]
        assert [found.count(neighbour) for neighbour in alone] == [1, 1]

    run()


def _occurrence(here: Folder, number: int) -> Occurrence:
    recipient = f"person{number}@customer.example"
    return Occurrence(type=here.kind.simulation.types[0], recipient=recipient, at=here.now, run="f", number=number)


def _read_all(here: Folder, provider: Provider, items: list[Any]) -> list[Reading]:
    found: list[Reading] = []
    for post in here.kind.simulation.post(items, here.keys, here.now):
        headers = {key.lower(): value for key, value in post.headers.items()}
        delivery = fixtures(here.name)[0].delivery(headers=headers, body=post.body, query=post.query)
        try:
            authentic = _await(provider.authenticate(delivery))
            if authentic.answer is not None:  # what is left is a handshake, such as an empty form
                continue
            parsed = list(provider.parse(authentic.payload))
        except Unreadable:
            continue
        found += _readings(provider, parsed)
    return found


def _readings(provider: Provider, items: list[Item | UnreadableItem]) -> list[Reading]:
    found: list[Reading] = []
    for item in items:
        if isinstance(item, UnreadableItem):
            continue
        _fit(item)
        try:
            found += provider.read(item)
        except Unreadable:
            continue
    return found
