"""Filters: what a wrong one is told, and that no input gets into the SQL's text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from receiver.contacts import segments
from receiver.contacts.filter_faults import MAX_DEPTH, WrongFilter
from receiver.contacts.filter_sql import where
from receiver.contacts.filter_words import describe
from receiver.contacts.filters import ADAPTER, parse_filter, read_filter

NOW: Final = datetime.now(UTC)


@pytest.fixture
async def people(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Two contacts, of whom little is known."""
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO contacts (address, address_hash) VALUES ('ann@one.test', 'a'), ('eve@one.test', 'e')"
    )
    try:
        yield connection
    finally:
        await connection.close()


CANARY: Final = "cAnArY"
_HOSTILE: Final = [
    *("'", "''", "'; DROP TABLE contacts; --", '"', "\\", "\\'", "$1", "$$", "%", "_", "{}", "{path}", "{0}", "%s"),
    *("::text", "--", "/*", ";", "E'\\x00'", "\r\n", "\u2028", "U&'\\0027'", "$tag$", "]]", "null", "NaN"),
    *("1) OR (1=1", "☃", "\x00", "\ud800"),
]
_texts = st.builds("{}{}{}".format, st.sampled_from(_HOSTILE), st.just(CANARY), st.sampled_from(["", *_HOSTILE]))
_lists = st.lists(_texts, min_size=1, max_size=3)
_scalars = st.one_of(_texts, st.booleans(), st.sampled_from([987654321, -0.0, 1e308, 5e-324, 2**63 - 1]))
_matches = dict.fromkeys(("contains", "starts_with", "ends_with"), _texts)
_of_events = dict.fromkeys(
    ("topic", "campaign", "template", "source", "stream", "brand", "url", "bounce_class"), _texts
)
_of_attributes = {
    "in": st.lists(_scalars, min_size=1, max_size=3),
    "has": _scalars,
    "exists": st.booleans(),
    "at_least": st.sampled_from([987654321, 1e308]),
    "since": st.sampled_from(["30d", "0001-01-01", "9999-12-31"]),
}
_fields = st.sampled_from(["address", "domain", "name", "external_id"])
_leaves = st.one_of(
    st.fixed_dictionaries({"tag": _lists}),
    st.fixed_dictionaries({"attribute": _lists, "equals": _scalars}, optional=_of_attributes | _matches),
    st.fixed_dictionaries({"field": _fields, "equals": _texts}, optional=_matches | {"in": _lists}),
    st.fixed_dictionaries({"topic": _texts, "state": st.sampled_from(["none", "pending"])}),
    st.fixed_dictionaries({"sendable": _texts, "stream": st.sampled_from(["marketing", "transactional"])}),
    st.fixed_dictionaries(
        {"event": st.just("opened")},
        optional=_of_events | {"tag": _lists, "metadata": st.dictionaries(_texts, _scalars, min_size=1)},
    ),
    st.dictionaries(st.one_of(_texts, st.sampled_from(["tag", "event", "field", "topic", "attribute"])), _scalars),
)
_filters = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(lambda word, parts: {word: parts}, st.sampled_from(["all", "any"]), st.lists(inner, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=6,
)


async def test_no_input_gets_into_the_text(people: asyncpg.Connection) -> None:
    """whatever a filter holds is refused, or a parameter: the SQL is made of our words alone, and Postgres runs it"""
    loop, ran = asyncio.get_running_loop(), 0

    async def ask(filter_: object) -> None:
        nonlocal ran
        try:
            condition = read_filter(filter_)
        except WrongFilter:
            return
        ran += 1
        text, values = where(condition, NOW)
        assert CANARY not in text
        assert "987654321" not in text
        assert text.isascii()
        assert values
        assert 0 <= await segments.count(people, condition, NOW) <= 2
        assert describe(condition)

    @hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_filters)
    def run(filter_: object) -> None:
        asyncio.run_coroutine_threadsafe(ask(filter_), loop).result(60)

    await asyncio.to_thread(run)
    assert ran > 20
    assert await people.fetchval("SELECT count(*) FROM contacts") == 2


async def test_odd_values_are_found_as_they_are(people: asyncpg.Connection) -> None:
    """a value full of quotes, wildcards and markup is compared as it is, in every kind of place"""
    change = "UPDATE contacts SET tags = $1, attributes = $2::jsonb, name = $3 WHERE address = 'eve@one.test'"
    for odd in (text for text in _HOSTILE if text not in ("\x00", "\ud800")):
        await people.execute(change, [odd], json.dumps({odd: {odd: odd}}), odd)
        conditions: list[dict[str, Any]] = [{"tag": odd}, {"field": "name", "in": [odd]}]
        conditions += [
            {"attribute": [odd, odd], name: odd} for name in ("equals", "contains", "starts_with", "ends_with")
        ]
        for one in conditions:
            assert await segments.count(people, read_filter(one), NOW) == 1, one


WRONG: Final[list[tuple[object, str]]] = [
    ("x", 'the filter is no condition: it should be an object such as {"tag": "customer"}'),
    ({"tags": "x"}, "the filter is a condition of no known kind (did you mean tag?)"),
    ({"all": []}, "all is empty"),
    ({"all": [{"tag": "x"}, {"event": "clickd"}]}, "all[1].event is not known (did you mean clicked?)"),
    ({"not": {"any": [{"event": "clicked", "since": "30x"}]}}, "not.any[0].since is no time: say how long ago"),
    ({"event": "clicked", "since": "999999w"}, "since is no time"),
    ({"event": "clicked", "sinc": "30d"}, "sinc is not known in a condition on event (did you mean since?)"),
    ({"field": "last_open_at", "since": "3d"}, "field is not known (did you mean last_opened_at?)"),
    ({"field": "last_opened_at", "contains": "x"}, "has contains, but last_opened_at is a time: use since, until"),
    ({"field": "soft_streak", "equals": "x"}, "compares soft_streak, which is a number, with something else"),
    ({"attribute": "plan"}, "says nothing of the attribute: add equals"),
    ({"attribute": "plan", "equals": None}, "says nothing of the attribute"),
    ({"attribute": "plan", "at_least": "5"}, "at_least is not a number"),
    ({"attribute": "plan", "in": ["x", None]}, "in[1] is not a text, a number, true or false"),
    ({"suppressed": False}, 'who is not suppressed is {"not": {"suppressed": true}}'),
    ({"tag": "a\x00b"}, "tag has a character that Postgres cannot hold"),
    ({"attribute": "n", "equals": 2**63}, "equals is a number of more than 64 bits"),
    ({"tag": "x" * 1001}, "tag has a text of more than 1000 characters"),
    ({"tag": ["x"] * 2600}, "the filter has more than 2500 values"),
]


@pytest.mark.parametrize(("filter_", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_filter_is_told_where_and_what(filter_: object, message: str) -> None:
    """a wrong filter is refused with the place of what is wrong, and with what would be right"""
    with pytest.raises(WrongFilter) as refused:
        read_filter(filter_)
    assert message in str(refused.value)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 30_000])
def test_a_filter_that_is_too_deep_is_refused(depth: int) -> None:
    """neither the parser nor we follow a filter into any depth"""
    with pytest.raises(WrongFilter):
        parse_filter('{"not":' * depth + '{"tag":"x"}' + "}" * depth)


@pytest.mark.parametrize("text", ["{", '{"tag": "\\ud800"}', b"\xff", '{"tag": NaN}', " " * 70_000, "[" * 5000])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    """text that is no JSON, or too long, is refused as that"""
    with pytest.raises(WrongFilter, match="the filter"):
        parse_filter(text)


def test_the_form_can_be_given_to_others() -> None:
    """the JSON Schema of a filter names every condition, for the API's document"""
    assert len(ADAPTER.json_schema()["oneOf"]) == 10


def test_a_filter_in_words() -> None:
    """a filter reads as a sentence"""
    filter_ = {
        "all": [
            {"topic": "news"},
            {"any": [{"event": "clicked", "tag": "trial", "since": "30d"}, {"attribute": "plan", "in": ["pro", 2]}]},
            {"not": {"field": "last_opened_at", "since": "90d"}},
        ]
    }
    assert describe(read_filter(filter_)) == (
        "subscribed to news, and (clicked tagged trial in the last 30d, or plan is one of pro or 2), "
        "and not (last_opened_at is in the last 90d)"
    )
