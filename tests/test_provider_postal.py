"""Postal: its two signatures, and the forms of its key. The rest is in `test_provider_contract.py`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from receiver.contract import Authentic, Delivery, World
from receiver.errors import ConfigError, Reason, Refused
from receiver.providers.postal import OLD_SIGNATURE, SIGNATURE, Postal, PostalSettings
from receiver.signers import rsa as signer
from tests.provider_fixtures import _no_fetch, folder

PRIVATE, PUBLIC = signer.new_key_pair()
BODY: Final = b'{"event":"MessageSent","payload":{}}'
SHA256: Final = signer.sign(PRIVATE, BODY)
SHA1: Final = signer.sign(PRIVATE, BODY, sha1=True)


async def post(headers: Mapping[str, str], **settings: Any) -> Authentic:
    provider = folder("postal").provider(**{"public_key": PUBLIC, **settings})
    return await provider.authenticate(Delivery(source="p", headers=headers, body=BODY))


async def refusal(headers: Mapping[str, str], **settings: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await post(headers, **settings)
    return caught.value


async def test_sha1_alone_is_refused_with_advice() -> None:
    """a request of a server that only knows SHA-1 is refused, to be repeated, and the reason says what to set"""
    error = await refusal({OLD_SIGNATURE: SHA1})
    assert (error.reason, error.again) == (Reason.MISSING_HEADER, True)
    assert "allow_sha1 = true" in error.detail


async def test_sha1_where_it_is_allowed() -> None:
    """with `allow_sha1` such a request is accepted if its signature is right"""
    await post({OLD_SIGNATURE: SHA1}, allow_sha1=True)
    for wrong in (SHA256, signer.sign(signer.new_key_pair()[0], BODY, sha1=True)):
        assert (await refusal({OLD_SIGNATURE: wrong}, allow_sha1=True)).reason is Reason.WRONG_KEY


@pytest.mark.parametrize("damaged", ["", " ", "x", SHA1, SHA256[4:]])
async def test_no_way_back_to_sha1(damaged: str) -> None:
    """where the newer header is there it alone counts: a right SHA-1 does not heal a wrong SHA-256"""
    await refusal({SIGNATURE: damaged, OLD_SIGNATURE: SHA1}, allow_sha1=True)


def _forms() -> Mapping[str, str]:
    key = load_der_public_key(base64.b64decode(PUBLIC))
    assert isinstance(key, RSAPublicKey)
    numbers = key.public_numbers()
    n, e = (
        base64.urlsafe_b64encode(part.to_bytes((part.bit_length() + 7) // 8)).decode().rstrip("=")
        for part in (numbers.n, numbers.e)
    )
    jwk = {"kty": "RSA", "n": n, "e": e, "kid": "0" * 64, "use": "sig", "alg": "RS256"}
    return {
        "base64": PUBLIC,
        "dkim": f"v=DKIM1; t=s; h=sha256; p={PUBLIC};",
        "pem": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "jwks": json.dumps({"keys": [jwk]}),
    }


@pytest.mark.parametrize("form", ["base64", "dkim", "pem", "jwks"])
async def test_every_form_of_the_key(form: str) -> None:
    """the key can be given as the installation shows it: JWKS, DKIM record, base64 or PEM"""
    await post({SIGNATURE: SHA256, OLD_SIGNATURE: SHA1}, public_key=_forms()[form])


@pytest.mark.parametrize(
    "key", ["", "rubbish", "{}", '{"keys":[]}', '{"keys":[{"kty":"EC"}]}', '{"keys":[{"n":"!","e":"AQAB"}]}', PRIVATE]
)
def test_keys_that_are_none(key: str) -> None:
    """what holds no public key, or a private one, is a problem at start that does not show the key"""
    settings = PostalSettings.model_validate({"provider": "postal", "public_key": key})
    (problem,) = Postal.problems(settings, "sources.p")
    assert problem.key == "sources.p.public_key"
    assert PRIVATE[100:200] not in str(problem)
    if key != '{"keys":[]}':
        with pytest.raises(ConfigError):
            Postal(settings, World(fetch=_no_fetch))
