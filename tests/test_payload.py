"""From bytes to items and plain values, whatever the bytes are."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final

import asyncpg
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from receiver import payload
from receiver.contract import Item, UnreadableItem
from receiver.errors import Unreadable
from receiver.payload import item_of, items_in, items_of

DEEP: Final = b"[" * 100_000 + b"]" * 100_000
GOOD: Final = [
    b'{"n":1}',
    b'{"a": "x,]}\\"", "b": [1, {"c": null}]}',
    b'"text"',
    b"7",
    b"[[], {}]",
    b'{"e":"\xc3\xa9\\/"}',
]
# No item, or one that has to be repaired. Their brackets are balanced: where one is missing nobody can say where an
# item ends.
BAD: Final = [
    b"NaN",
    b"Infinity",
    b"tru",
    b"1.2.3",
    b"-",
    b'{"a":}',
    b'{"a":1,}',
    b"{a:1}",
    b"[1 2]",
    b'{"a":"\\ud800"}',
    b'{"a":"\\udc00\\ud800"}',
    b'{"a":"\\u0000"}',
    b'{"\\u0000":"\\ud800"}',
    b'{"a":"\x00\x01"}',
    b'{"a":"\xff\xfe"}',
    b'{"a":NaN,"b":-Infinity}',
    b'{"a":1e999,"b":-1E+999,"c":1e-999}',
    b'{"a":' + b"9" * 5000 + b"}",
    b'{"a":-' + b"9" * 5000 + b".5e-400}",
    b'{"a":1.' + b"0" * 20_000 + b"1}",
    b'{"a":0.' + b"0" * 20_000 + b"}",
    b'{"a":0e-99999}',
    b'{"a":0e99999999999}',
    b'{"a":1e-99999 }',
    b'{"a":1e-99999\n,"b":"2e-4122"}',
    b"[0.1E+99999\t]",
    b'{"a":' + DEEP + b"}",
    b'{"a":"\\x"}',
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\x00", "\ud800", "\udfff\ud800", "\\u0000", "é", "\N{REPLACEMENT CHARACTER}"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.just("\x00"), inner, max_size=4)
    ),
)
bodies = st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), json_values)
mixed = st.lists(st.sampled_from([(True, one) for one in GOOD] + [(False, one) for one in BAD]), max_size=6)
any_value = json_values | st.binary(max_size=4) | st.sampled_from([10**400, 1e308, math.nan, math.inf, b"x", object()])


def strictly(text: str) -> Any:
    """The value of JSON by the letter: no NaN, no control characters in strings."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def odd(value: Any) -> bool:
    """Whether Postgres's JSON operators could not read the value."""
    if isinstance(value, str):
        return "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, int):
        return abs(value) >= 10**1000
    if isinstance(value, dict):
        return any(odd(key) or odd(member) for key, member in value.items())
    return isinstance(value, list) and any(map(odd, value))


def fit(item: Item) -> None:
    """The item can be stored and queried, and its text and value say the same."""
    assert not odd(item.value)
    decoded = strictly(item.text)
    assert not odd(decoded)
    assert decoded == item.value
    msgspec.json.decode(item.text)
    item.text.encode()


def of(body: bytes) -> Item:
    item = item_of(body)
    assert isinstance(item, Item)
    fit(item)
    return item


@settings(max_examples=400, deadline=None)
@given(bodies)
@example(DEEP)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'["' + b"\\" * 99_999)
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"null")
@example(b"[,,,]")
@example(b'{"a":"x')
@example(b"[1e99999999999999999999]")
def test_any_bytes(body: bytes) -> None:
    """whatever the body is, there are items fit to be stored, items set aside, or Unreadable"""
    try:
        items = list(items_of(body))
    except Unreadable:
        return
    for item in items:
        if isinstance(item, Item):
            fit(item)
        else:
            assert item.why


@settings(max_examples=400, deadline=None)
@given(bodies)
def test_any_bytes_as_one_item(body: bytes) -> None:
    """one item is fit to be stored or set aside with its bytes, and nothing is raised"""
    item = item_of(body)
    if isinstance(item, Item):
        fit(item)
        assert item.altered or item.text.encode() == body
    else:
        assert item.body == body


@settings(max_examples=200, deadline=None)
@given(mixed, st.sampled_from([b",", b" , ", b",\r\n"]), st.sampled_from([b"", payload.BOM, b" \r\n"]))
def test_good_neighbours_survive(parts: list[tuple[bool, bytes]], comma: bytes, start: bytes) -> None:
    """every good item of a batch comes through as its own text, in order, whatever stands beside it"""
    body = start + b"[" + comma.join(part for _, part in parts) + b"]\r\n"
    items = list(items_of(body, event_id="e"))
    assert len(items) == len(parts)
    for item, (good, part) in zip(items, parts, strict=True):
        if isinstance(item, Item):
            fit(item)
            assert item.event_id == "e"
        if good:
            assert isinstance(item, Item)
            assert (item.text.encode(), item.altered) == (part, False)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad[:20]))
def test_what_is_odd_is_repaired_or_set_aside(bad: bytes) -> None:
    """nothing odd reaches the database as it came"""
    item = item_of(bad)
    if isinstance(item, Item):
        fit(item)
        assert item.altered
    else:
        assert item.body == bad


SHORT_NUMBERS: Final = """
0 -0 0.0 0e999 0e-999 1e-5 1.5E+10 1e290 1e-290 -1e300 1e-300 1e-301 5e-324 1.7976931348623157e308 1e309
1e00000000290 1e0000000000000309 0E0000000000000000000000000000000001 123e-299 18446744073709551616
"""
LONG_NUMBERS: Final = [
    "9" * 299,
    "9" * 300,
    "9" * 1000,
    "9" * 1001,
    "9" * 300 + "e300",
    "0." + "0" * 290 + "1",
    "1." + "0" * 990,
    "1." + "0" * 16_390,
    "5." + "0" * 900 + "1e-299",
    "9" * 290 + "." + "9" * 290 + "e-299",
]


async def test_postgres_reads_every_item(database: str) -> None:
    """what becomes of odd and of ordinary values alike can be stored and queried as jsonb"""
    connection = await asyncpg.connect(database)
    try:
        numbers = [*SHORT_NUMBERS.split(), *LONG_NUMBERS]
        bodies = [*BAD, *GOOD, *(b'{"a":[%s]}' % number.encode() for number in numbers)]
        for body in bodies:
            item = item_of(body)
            if isinstance(item, Item):
                assert await connection.fetchval("SELECT ($1::json)::jsonb IS NOT NULL", item.text), body[:40]
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":"x\\u0000y"}', {"a": "x\ufffdy"}),
        (b'{"a":"x\\ud800y"}', {"a": "x\ufffdy"}),
        (b'{"a\\u0000":1}', {"a\ufffd": 1}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b'{"a":NaN,"b":1}', {"a": None, "b": 1}),
        (b'{"a":-Infinity}', {"a": None}),
        (b'{"a":1e999}', {"a": None}),
        (b'{"a":' + b"9" * 5000 + b',"b":2}', {"a": None, "b": 2}),
    ],
)
def test_repairs(body: bytes, value: Any) -> None:
    """what Postgres could not hold is replaced, the rest stays, and the item says that it was altered"""
    item = of(body)
    assert (item.value, item.altered) == (value, True)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"\\\\u0000"}',  # an escaped backslash, and no NUL
        b'{"a":"\\ud83d\\ude00"}',
        b'{"id":"3e-4120"}',
        b'{"a":1e-5,"b":0.0,"c":0e999}',
        b'{ "a" : 1.0 ,\n"a":2}',
        b'{"a":18446744073709551616}',
        '{"a":"\N{REPLACEMENT CHARACTER}"}'.encode(),
        b'{"a":' + b"9" * 250 + b"}",
    ],
)
def test_what_is_fit_is_left_as_it_came(body: bytes) -> None:
    """numbers, escapes and blanks that Postgres holds are kept byte for byte"""
    item = item_of(body)
    assert isinstance(item, Item)
    assert (item.text.encode(), item.altered) == (body, False)


def test_depth_is_bounded() -> None:
    """an item that is too deep is set aside alone, one that is just deep enough is kept"""
    body = b"[" + DEEP + b',{"n":1},' + b"[" * 150 + b"]" * 150 + b"]"
    deep, flat, kept = items_of(body)
    assert isinstance(deep, UnreadableItem)
    assert isinstance(flat, Item)
    assert isinstance(kept, Item)


@pytest.mark.parametrize(
    "body",
    [b"[" * 1_000_000, b'["' + b"\\" * 999_999, b'{"a":"' * 150_000, b"9" * 999_999, b'["\\u0000' + b"," * 999_999],
)
def test_hostile_bodies_take_no_time(body: bytes) -> None:
    """a megabyte of brackets, backslashes, digits or commas is done within seconds, in linear time"""
    begun = perf_counter()
    with contextlib.suppress(Unreadable):
        list(items_of(body))
    assert perf_counter() - begun < 10


@pytest.mark.parametrize("body", [b"", b" ", b"null", b"7", b'"x"', b"garbage", b"<html>", b"\xff", b"true"])
def test_neither_array_nor_object(body: bytes) -> None:
    """a body that is neither array nor object has no items"""
    with pytest.raises(Unreadable):
        items_of(body)


@pytest.mark.parametrize("bad", [b"{}", b"NaN", b'{"a":1,}', b'{"a":"\xff"}', b'{"a":"\\x"}'])
def test_an_array_inside_an_object(bad: bytes) -> None:
    """the items of a member's array are found, with whatever beside them, and a bad one costs no neighbour"""
    body = b' {"x": ["data", {"data": [7]}], "data" : [{"n":1}, %s, "]"], "meta": {"data": [8]}}' % bad
    first, _, last = items_in(body, "data")
    assert isinstance(first, Item)
    assert isinstance(last, Item)
    assert (first.value, last.value) == ({"n": 1}, "]")


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'{"other": []}', b'{"data": 7}', b'{"data" []', b"{data: []}"]
)
def test_no_array_inside_an_object(body: bytes) -> None:
    """without the member there are no items"""
    with pytest.raises(Unreadable):
        list(items_in(body, "data"))


def test_a_bare_object_is_an_array_of_one() -> None:
    """one object without brackets is one item"""
    (item,) = items_of(b'\xef\xbb\xbf {"a":1} \r\n')
    assert isinstance(item, Item)
    assert (item.text, item.value) == ('{"a":1}', {"a": 1})


form_values = st.dictionaries(st.text() | st.just("\x00"), st.text() | st.lists(st.text() | st.just("\ud800")))


@settings(max_examples=200, deadline=None)
@given(form_values)
def test_items_from_other_forms(value: Any) -> None:
    """an item made from a form's fields is fit to be stored and says whether it was altered"""
    item = payload.item_from_value(value)
    fit(item)
    assert item.altered is odd(value)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_what_has_to_be_repaired_is_at_most_200_levels_deep(opening: bytes, closing: bytes) -> None:
    """a value that is repaired may be 200 levels deep; at 201 it is set aside, with the reason."""
    inner = rb'"\u0000"'
    deep = item_of(opening * 200 + inner + closing * 200)
    assert isinstance(deep, Item)
    assert deep.altered
    deeper = item_of(opening * 201 + inner + closing * 201)
    assert isinstance(deeper, UnreadableItem)
    assert "200 levels" in deeper.why


READERS: Final[dict[Callable[[Any], Any], type]] = {
    payload.text: str,
    payload.integer: int,
    payload.boolean: bool,
    payload.unix_time: datetime,
    payload.iso_time: datetime,
    payload.mapping: dict,
    payload.texts: list,
}


@settings(max_examples=300, deadline=None)
@given(any_value)
@example("9" * 5000)
@example("\uff11\uff12")
@example("²")
@example("nan")
@example("0001-01-01T00:00:00+23:59")
@example("9999-12-31T23:59:59-23:59")
@example(253402300800)
@example(-(10**18))
def test_readers_never_raise(value: Any) -> None:
    """a reader gives a value of its type, or nothing"""
    for reader, kind in READERS.items():
        found = reader(value)
        assert found is None or isinstance(found, kind), reader
    for moment in (payload.unix_time(value), payload.iso_time(value), payload.unix_time(value, per_second=1000)):
        assert moment is None or moment.utcoffset() == datetime.now(UTC).utcoffset()
    assert all(isinstance(member, str) for member in payload.texts(value))
    assert isinstance(payload.stable_text(value if not isinstance(value, bytes) else None), str)


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        (payload.text, "", None),
        (payload.text, 7, "7"),
        (payload.text, 1.5, "1.5"),
        (payload.text, True, None),
        (payload.text, ["x"], None),
        (payload.integer, "550", 550),
        (payload.integer, " -3 ", -3),
        (payload.integer, 5.0, 5),
        (payload.integer, 5.5, None),
        (payload.integer, 2**31, None),
        (payload.integer, True, None),
        (payload.integer, "5.0", None),
        (payload.boolean, "True", True),
        (payload.boolean, 0, False),
        (payload.boolean, "yes", None),
        (payload.boolean, "falsehood", None),
        (payload.boolean, 10**900, None),
        (payload.boolean, 2, None),
        (payload.texts, "one", ["one"]),
        (payload.texts, ["a", 1, None, {}, ""], ["a", "1"]),
        (payload.texts, {"a": 1}, []),
        (payload.iso_time, "2026-11-05T16:33:54.9070259Z", datetime(2026, 11, 5, 16, 33, 54, 907025, UTC)),
        (payload.iso_time, "2026-11-05 16:33:54", datetime(2026, 11, 5, 16, 33, 54, tzinfo=UTC)),
        (payload.iso_time, "2014-08-01T13:28:10.2735393-04:00", datetime(2014, 8, 1, 17, 28, 10, 273539, UTC)),
        (payload.iso_time, "yesterday", None),
        (payload.unix_time, 1521472262.908181, datetime(2018, 3, 19, 15, 11, 2, 908181, UTC)),
        (payload.unix_time, "1521472262", datetime(2018, 3, 19, 15, 11, 2, tzinfo=UTC)),
        (payload.unix_time, math.nan, None),
        (payload.unix_time, 1e300, None),
        (payload.unix_time, "1e999", None),
    ],
)
def test_readers(reader: Any, value: Any, expected: Any) -> None:
    """numbers as text and text as numbers are understood, other types are nothing"""
    assert reader(value) == expected
    assert type(reader(value)) is type(expected)
