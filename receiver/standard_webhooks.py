"""Standard Webhooks, as all providers that sign so share it: the proof, the secrets, one event in each request.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, seen 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import SecretStr

from receiver import signatures
from receiver.contract import Authentic, Delivery, Item, SourceSettings, UnreadableItem, World, secret_problems
from receiver.errors import Problem
from receiver.payload import item_of, strip

WINDOW: Final = 300.0  # seconds; each attempt is signed anew
SHORTEST: Final = 16  # bytes; the specification asks senders for 24 to 64

# Samples from the documents of Standard Webhooks, Svix and Resend.
PUBLISHED: Final = (
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH",
    "whsec_plJ3nmyCDGBKInavdOK15jsl",
    "whsec_51TKyHBy5KFY1Ab98GQ8V60BkWnejkWy",
)

Signed = tuple[str, bytes]  # webhook id, body


class Proof:
    """What proves one source's requests. `window`: seconds a signature may be old; `bare`: see `signatures`."""

    def __init__(
        self,
        keys: Sequence[bytes],
        settings: SourceSettings,
        world: World,
        *,
        window: float = WINDOW,
        public_keys: Sequence[Ed25519PublicKey] = (),
        bare: bool = False,
    ) -> None:
        self._keys, self._public_keys, self._bare = keys, public_keys, bare
        self._tolerance = settings.tolerance or window
        self._now = world.now

    def check(self, delivery: Delivery) -> Authentic:
        """The payload is `Signed`. Raises Refused."""
        webhook_id = signatures.standard_webhooks(
            delivery.headers,
            delivery.body,
            keys=self._keys,
            public_keys=self._public_keys,
            now=self._now(),
            tolerance=self._tolerance,
            bare=self._bare,
        )
        return Authentic(payload=(webhook_id, delivery.body))


class ByStandardWebhooks:
    """What providers that sign so share: one event in each request, and the proof, which each makes itself."""

    _proof: Proof

    async def authenticate(self, delivery: Delivery) -> Authentic:
        return self._proof.check(delivery)

    def parse(self, payload: Signed) -> Iterable[Item | UnreadableItem]:
        """The body as one item, with the webhook id, which repetitions keep, as its event id."""
        webhook_id, body = payload
        return (item_of(strip(body), event_id=webhook_id),)


def hmac_keys(secrets: Sequence[SecretStr]) -> list[bytes]:
    """The keys of `whsec_` secrets. Raises ValueError."""
    return [signatures.standard_webhooks_key(secret.get_secret_value()) for secret in secrets]


def whsec_problems(secrets: Sequence[SecretStr], key: str, right: str) -> list[Problem]:
    """Problems of `whsec_` secrets: none, empty, published, no base64, or too few bytes."""
    samples = (*PUBLISHED, *(sample.removeprefix("whsec_") for sample in PUBLISHED))
    found = secret_problems(secrets, key, right, shortest=1, published=samples)
    if found:
        return found
    for number, secret in enumerate(secrets, 1):
        where = key if len(secrets) == 1 else f"{key} (number {number})"
        try:
            length = len(signatures.standard_webhooks_key(secret.get_secret_value()))
        except ValueError:
            found.append(Problem(where, "is not base64 (behind whsec_)", right))
        else:
            if length < SHORTEST:
                found.append(Problem(where, f"holds only {length} bytes", right))
    return found
