"""Stalwart's trap: the signature is optional, and what is set is required."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.contract import Delivery
from receiver.errors import Refused
from receiver.providers import providers
from receiver.signers import hmacs
from tests.provider_fixtures import folder

KEY = "for-tests-only-not-a-secret-4711"
TOKEN = "a-bearer-token-of-the-webhook"
BODY = b'{"events":[]}'
SIGNED = {"x-signature": hmacs.base64(KEY, BODY)}
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    ("settings", "right", "wrong"),
    [
        ({"bearer_token": [], "signature_key": [KEY]}, [SIGNED, SIGNED | BEARER], [{}, BEARER]),
        ({"bearer_token": [TOKEN], "signature_key": []}, [BEARER, SIGNED | BEARER], [{}, SIGNED]),
        ({"bearer_token": [TOKEN], "signature_key": [KEY]}, [SIGNED | BEARER], [{}, SIGNED, BEARER]),
    ],
    ids=["signature", "credentials", "both"],
)
async def test_what_is_set_is_required(
    settings: dict[str, Any], right: list[dict[str, str]], wrong: list[dict[str, str]]
) -> None:
    """a key, credentials or both prove the sender, and neither stands in for the other"""
    provider = folder("stalwart").provider(**settings)
    for headers in right:
        await provider.authenticate(Delivery(source="stalwart", headers=headers, body=BODY))
    for headers in wrong:
        with pytest.raises(Refused):
            await provider.authenticate(Delivery(source="stalwart", headers=headers, body=BODY))


def test_what_the_proof_covers_depends_on_the_settings() -> None:
    """`sources show` claims that the body is covered only where the source has a key to verify it with"""
    for name, secret in (("stalwart", "signature_key"), ("zeptomail", "authentication_key")):
        covers_with: Any = vars(providers()[name])["covers_with"]
        assert covers_with({secret: KEY}) == covers_with({f"{secret}_file": "key"}) == "body"
        assert covers_with({"bearer_token": TOKEN}) == "nothing"


def test_problems_name_both_ways() -> None:
    """a source with neither is told of both, one with a short key of that alone"""
    kind = folder("stalwart").kind
    settings = kind.Settings.model_validate({"provider": "stalwart"})
    (problem,) = kind.problems(settings, "sources.mta")
    assert "`signature_key`" in str(problem)
    assert "credentials" in str(problem)
    short = kind.Settings.model_validate({"provider": "stalwart", "signature_key": "my-secret-key"})
    assert [problem.key for problem in kind.problems(short, "sources.mta")] == ["sources.mta.signature_key"]
