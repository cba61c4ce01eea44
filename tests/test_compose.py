"""From a row of `sends` to a message: the headers that come of whose mail it is, and about what."""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import pytest

from receiver.sending.accounts import AccountSettings
from receiver.sending.compose import message_of, stranger
from receiver.sending.content import Content
from receiver.sending.mime import mime_of

ADA = "ada@example.com"


def made(sender: str = "hello@mail.shop.example", *, headers: dict[str, str] | None = None, **row: Any) -> EmailMessage:
    account = AccountSettings.model_validate({"transport": "smtp", "from": sender})
    about = {"id": uuid4(), "recipient": ADA, "broadcast_id": 7, "template": "sale", "stream": "marketing"}
    content = Content(subject="Hello", text="Hello.", headers=headers or {})
    row = {**about, "topic": "news", "brand": "", **row}
    return mime_of(message_of(row, account, content, stranger(ADA), {}), datetime.now(UTC))


@pytest.mark.parametrize(
    ("sender", "brand", "expected"),
    [
        ("hello@shop.example", "", "shopexample"),
        ("hello@shop.example", "Acme & Sons", "AcmeSons"),
        ("hello@shop.example", "a b", "shopexample"),
        ("hello@bücher.example", "läden", "xnbcherkvaexamp"),
        ("hello@a.io", "", "aio00"),
    ],
)
def test_complaints_are_counted_by_sender(sender: str, brand: str, expected: str) -> None:
    """the last part of Feedback-ID is the brand or the sender's domain, in the 5 to 15 characters that Google takes"""
    assert made(sender, brand=brand)["Feedback-ID"] == f"7:news:marketing:{expected}"


@pytest.mark.parametrize(
    ("row", "headers", "expected"),
    [
        ({}, {}, ["<news.mail.shop.example>"]),
        ({"topic": "..Neues für alle..sofort"}, {}, ["<Neues-f-r-alle.sofort.mail.shop.example>"]),
        ({"topic": "..."}, {}, ["<list.mail.shop.example>"]),
        ({"stream": "transactional"}, {}, None),
        ({}, {"list-id": "<ours.shop.example>"}, ["<ours.shop.example>"]),
    ],
)
def test_people_can_sort_their_mail(row: dict[str, Any], headers: dict[str, str], expected: list[str] | None) -> None:
    """marketing mail names its list by topic and sender's domain, once; one that the team gives stands instead"""
    assert made(headers=headers, **row).get_all("List-Id") == expected
