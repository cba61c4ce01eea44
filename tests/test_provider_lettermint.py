"""What is Lettermint's alone: several `v1`, and a time sent twice. The rest is in `test_provider_contract.py`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import pytest

from receiver.contract import Delivery, World
from receiver.errors import Reason, Refused
from receiver.providers.lettermint import Lettermint, LettermintSettings
from receiver.signers import hmacs
from tests.provider_fixtures import _no_fetch

OLD: Final = "whsec_the secret that was replaced"
NEW: Final = "whsec_the secret that replaces it"
STAMP: Final = 1795175970
BODY: Final = b'{"id":"1","event":"message.sent","timestamp":"2026-11-20T11:59:30Z","data":{"recipient":"a@b.example"}}'


def lettermint(*secrets: str) -> Lettermint:
    settings = LettermintSettings.model_validate({"provider": "lettermint", "signing_secret": list(secrets)})
    return Lettermint(settings, World(fetch=_no_fetch, now=lambda: datetime.fromtimestamp(STAMP + 30, UTC)))


def signature(secret: str) -> str:
    return hmacs.hexadecimal(secret, b"%d." % STAMP, BODY)


def delivery(signed: str, sent_at: str = str(STAMP)) -> Delivery:
    headers = {"x-lettermint-signature": signed, "x-lettermint-delivery": sent_at}
    return Delivery(source="lettermint", headers=headers, body=BODY)


@pytest.mark.parametrize("secret", [OLD, NEW])
@pytest.mark.parametrize("order", [(OLD, NEW), (NEW, OLD)])
async def test_several_signatures(secret: str, order: tuple[str, str]) -> None:
    """while a secret is replaced each request has a signature of both, and either secret here is enough"""
    both = ",".join(f"v1={signature(one)}" for one in order)
    for header in (f"t={STAMP},{both}", f"{both},t={STAMP}", f"t={STAMP}, v0=00, v1={'0' * 64}, {both}"):
        await lettermint(secret).authenticate(delivery(header))
    with pytest.raises(Refused):
        await lettermint("whsec_another account's secret").authenticate(delivery(f"t={STAMP},{both}"))


@pytest.mark.parametrize("sent_at", [str(STAMP + 1), f"0{STAMP}", f"{STAMP}.0", f"{STAMP},{STAMP}", "t", "-1"])
async def test_the_delivery_header_is_the_signed_time(sent_at: str) -> None:
    """a request whose `X-Lettermint-Delivery` is not `t` is refused, however right its signature is"""
    with pytest.raises(Refused) as caught:
        await lettermint(NEW).authenticate(delivery(f"t={STAMP},v1={signature(NEW)}", sent_at))
    assert (caught.value.reason, caught.value.authentic) == (Reason.MALFORMED_HEADER, False)


async def test_the_secret_is_used_as_it_is() -> None:
    """`whsec_` belongs to the key"""
    with pytest.raises(Refused) as caught:
        await lettermint(NEW).authenticate(delivery(f"t={STAMP},v1={signature(NEW.removeprefix('whsec_'))}"))
    assert caught.value.reason is Reason.WRONG_KEY
