"""The signed links of mail, and the headers of RFC 8058."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import listunsub
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.contacts.addresses import WrongAddress
from receiver.contacts.links import (
    Leaving,
    NoPublicUrl,
    list_unsubscribe_headers,
    mailed_token,
    read_mailed,
    read_unsubscribe,
    unsubscribe_token,
    unsubscribe_url,
)
from receiver.vault import Vault
from tests.service import SECRET_KEY

VAULT: Final = Vault(SECRET_KEY)
NEW: Final = "another secret key for tests, long enough"
URL: Final = "https://hooks.example.net"
WORDS: Final = st.text(st.characters(codec="utf-8"), max_size=40)
ID: Final = UUID("0190b7f4-7f3e-7c1a-9d55-0a1b2c3d4e5f")
URL_SAFE: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@settings(suppress_health_check=[HealthCheck.too_slow])  # a small machine does much at once
@given(st.binary(min_size=32, max_size=32), WORDS, WORDS, WORDS)
def test_a_token_says_what_it_was_made_for(address_hash: bytes, topic: str, brand: str, send: str) -> None:
    """any topic, brand and send come back as they were, in a token that a URL takes as it is"""
    leaving = Leaving(address_hash, topic, brand, send)
    token = unsubscribe_token(VAULT, leaving)
    assert set(token) <= set(URL_SAFE)
    assert read_unsubscribe(VAULT, token) == leaving


@given(st.data())
def test_a_changed_token_is_unknown(data: st.DataObject) -> None:
    """whatever one letter is replaced with, left out or added, also the last one's bits that Base64 does not use"""
    leaving = Leaving(VAULT.address_hash("ada@example.com"), "news" * data.draw(st.integers(0, 3)))
    token = unsubscribe_token(VAULT, leaving)
    at = data.draw(st.integers(0, len(token)))
    letters = data.draw(st.sampled_from([*URL_SAFE, "", "=", "+", "/", "%", ".", "é", " ", "\n"]))
    for changed in {token[:at] + letters + token[at + 1 :], token[:at] + letters + token[at:]} - {token}:
        assert read_unsubscribe(VAULT, changed) is None


@given(st.text(max_size=200) | st.text(URL_SAFE, max_size=200))
def test_what_we_have_not_made_is_unknown(text: str) -> None:
    """no text that somebody makes up is a token, and none makes reading it fail"""
    assert read_unsubscribe(VAULT, text) is None
    assert read_mailed(VAULT, "preferences", text) is None


def test_a_token_is_good_for_one_thing() -> None:
    """a token of one kind opens nothing of another kind"""
    unsubscribe = unsubscribe_token(VAULT, Leaving(VAULT.address_hash("ada@example.com")))
    preferences, confirmation = (mailed_token(VAULT, kind, ID) for kind in ("preferences", "confirmation"))
    assert read_mailed(VAULT, "preferences", preferences) == ID
    assert read_mailed(VAULT, "confirmation", confirmation) == ID
    assert read_mailed(VAULT, "preferences", confirmation) is None
    assert read_mailed(VAULT, "confirmation", preferences) is None
    assert read_mailed(VAULT, "preferences", unsubscribe) is None
    assert read_unsubscribe(VAULT, preferences) is None


def test_tokens_outlive_their_secret_key() -> None:
    """a link that a former secret key has signed works as long as that key is listed, for the same address"""
    old = unsubscribe_token(VAULT, Leaving(VAULT.address_hash("ada@example.com"), "news"))
    rotated = Vault(NEW, previous=[SECRET_KEY], address_key=SECRET_KEY)
    found = read_unsubscribe(rotated, old)
    assert found is not None
    assert found.address_hash == rotated.address_hash("ada@example.com")
    assert read_unsubscribe(Vault(NEW, address_key=SECRET_KEY), old) is None


@pytest.mark.parametrize("mailto", [None, "leave+1@example.net"])
def test_the_headers_are_those_of_rfc_8058(mailto: str | None) -> None:
    """an independent reader finds one https URI, one-click and nothing to complain of, and no address in it"""
    url = unsubscribe_url(VAULT, URL, "Ada.Lovelace@Example.com", topic="news", send="m-1")
    headers = list_unsubscribe_headers(url, mailto=mailto)
    uris = listunsub.parse(headers["List-Unsubscribe"], strict=True)
    assert listunsub.is_one_click(headers["List-Unsubscribe-Post"])
    assert listunsub.http_links(uris) == [url]
    mails = [listunsub.parse_mailto(one).to for one in listunsub.mailto_links(uris)]
    assert mails == ([(mailto,)] if mailto else [])
    assert listunsub.audit(headers["List-Unsubscribe"], headers["List-Unsubscribe-Post"]) == []
    assert "ovelace" not in url
    assert "example.com" not in url
    assert read_unsubscribe(VAULT, url.rpartition("/")[2]) == Leaving(
        VAULT.address_hash("ada.lovelace@example.com"), "news", "", "m-1"
    )


def test_what_the_headers_need_is_said() -> None:
    """without public_url, with one that is not https, or with a text that is no address, the message says what to do"""
    with pytest.raises(NoPublicUrl, match=r'public_url = "https://'):
        unsubscribe_url(VAULT, None, "ada@example.com")
    with pytest.raises(NoPublicUrl, match="must begin with https"):
        list_unsubscribe_headers(unsubscribe_url(VAULT, "http://127.0.0.1:8080", "ada@example.com"))
    with pytest.raises(WrongAddress):
        unsubscribe_url(VAULT, URL, "ada")
    with pytest.raises(WrongAddress):
        list_unsubscribe_headers(URL, mailto="a>, <https://evil.example")
