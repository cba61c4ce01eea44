"""Mail addresses in what goes into logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.printable import without_addresses


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.com",
        "ada.l+news@mail.example.com",
        '"john doe"@example.com',
        "user@[192.168.0.1]",
        "bounce+ada=example.org@mail.example.com",
        "ada%40example.com",
        "ada=40example.com",
        "ada\\u0040example.com",
        "ada&#64;example.com",
        "ada\N{FULLWIDTH COMMERCIAL AT}example.com",
        "a" * 200 + "@example.com",
        "jörg@müller.example",
        "o'brien@example.com",
        "d'a{b}c!#$%&'*+/=?^_`{|}~-@example.com",
        "o%27brien%40example.com",
        "o\\u0027brien@example.com",
        "o&#39;brien@example.com",
        "o&apos;brien&#64;example.com",
    ],
)
def test_an_address_in_any_writing(address: str) -> None:
    """an address is left out whole, however it is written, and what stands around it stays"""
    assert without_addresses(f"cannot mail {address}, nor <{address}>: 550") == (
        "cannot mail <address>, nor <<address>>: 550"
    )


@pytest.mark.parametrize("text", ["'{}'", "{{{}}}", "{{'to': '{}'}}", "`{}`", "('{}', '{}')"])
def test_what_stands_around_an_address(text: str) -> None:
    """marks in which an address stands stay, though an address may begin with them"""
    assert without_addresses(text.replace("{}", "ada@example.com")) == text.replace("{}", "<address>")


@pytest.mark.parametrize("text", ["", "at @ last", "a = 40", "550 5.1.1 user unknown", "@", 'say "hello"', "x%40"])
def test_what_is_no_address(text: str) -> None:
    """text without an address stays as it is"""
    assert without_addresses(text) == text


@given(st.text(alphabet='a@%40=" <\\u[].', max_size=60))
def test_nothing_is_added_or_reordered(text: str) -> None:
    """what is left is the text in its order, and a second look finds no more than the marks of the first"""
    rest = without_addresses(text).split("<address>")
    found = 0
    for part in rest:
        found = text.index(part, found) + len(part)
    assert "a@a" not in "".join(rest)
