"""MailPace's traps: Ed25519 over the raw body, and an endpoint that any HTTP error disables."""

from __future__ import annotations

from base64 import b64encode

import pytest

from receiver.contract import Delivery, UnreadableItem
from receiver.errors import Reason, Refused
from receiver.signers import ed25519
from tests.provider_fixtures import folder

# RFC 8032, section 7.1, test 3: its public key, message and signature.
PUBLIC = b64encode(bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")).decode()
MESSAGE = bytes.fromhex("af82")
SIGNATURE = b64encode(
    bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
).decode()


def delivery(body: bytes, signature: str) -> Delivery:
    return Delivery(source="mailpace", headers={"x-mailpace-signature": signature}, body=body)


async def test_the_published_vector_of_ed25519() -> None:
    """the signature of RFC 8032 holds for its message and key, and for no other message"""
    provider = folder("mailpace").provider(public_key=[PUBLIC])
    await provider.authenticate(delivery(MESSAGE, SIGNATURE))
    with pytest.raises(Refused) as caught:
        await provider.authenticate(delivery(MESSAGE + b"\n", SIGNATURE))
    assert caught.value.reason is Reason.WRONG_KEY


async def test_nothing_authentic_gets_an_error() -> None:
    """what is signed is taken whatever it is, and quarantined at worst: an HTTP error would disable the endpoint"""
    here = folder("mailpace")
    provider = here.provider()
    for body in (b"", b"\xff{", b"null", b'{"event": 7', b"[" * 500):
        found = await provider.authenticate(delivery(body, ed25519.sign(here.keys["private_key"], body)))
        assert found.answer is None
        for item in provider.parse(found.payload):
            assert isinstance(item, UnreadableItem) or item.text == "null"


def test_no_code_asks_for_a_repetition() -> None:
    """the table of answers does not pretend that any code is repeated, and the request is held for a minute instead"""
    reply = folder("mailpace").kind.reply
    assert not any(map(reply.repeated, range(200, 600)))
    assert reply.timeout == 60.0
