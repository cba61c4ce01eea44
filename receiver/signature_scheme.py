"""How a sender signs, told by settings: for senders that have no file of their own.

What is signed always has the whole body in it: a signature that leaves it out would fit any other body.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from receiver import signatures
from receiver.contract import Delivery
from receiver.errors import Problem, Reason, Refused

_PART: Final = re.compile(r"\{(\w*)\}")
_KNOWN: Final = frozenset({"body", "timestamp"})
_LONGEST_TIME: Final = 15  # digits of a timestamp
_MILLISECONDS: Final = 1000
_SHORTEST: Final = 8  # bytes of a key: what 16 hexadecimal digits stand for
_SHORTEST_OF_STANDARD: Final = 16  # as for the provider `standard_webhooks`


def _check_signed(value: str) -> str:
    names = _PART.findall(value)
    if names.count("body") != 1:
        raise ValueError("does not say once where the {body} stands, without which the signature would fit any body")
    if set(names) - _KNOWN or "{" in _PART.sub("", value):
        raise ValueError("has a part that is none of {body} and {timestamp}")
    return value


class SignatureSettings(BaseModel):
    """The table `signature`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    scheme: Literal["hmac", "timed", "standard_webhooks"] = Field(
        "hmac",
        description="`hmac`: a signature in a header; `timed`: a header t=...,v1=... over t.body; `standard_webhooks`",
        examples=["hmac"],
    )
    header: str | None = Field(None, description="the header with the signature", examples=["X-Signature"])
    algorithm: Literal["sha1", "sha256", "sha512"] = Field(
        "sha256", description="the hash of the HMAC: sha1, sha256 or sha512", examples=["sha256"]
    )
    encoding: Literal["hex", "base64"] = Field("hex", description="hex or base64", examples=["hex"])
    prefix: str = Field("", description="what stands before the signature in its header", examples=["sha256="])
    signed: Annotated[str, AfterValidator(_check_signed)] = Field(
        "{body}", description="what is signed, of {body}, {timestamp} and other text", examples=["{timestamp}.{body}"]
    )
    timestamp_header: str | None = Field(
        None, description="the header with the time of signing", examples=["X-Timestamp"]
    )
    timestamp_unit: Literal["seconds", "milliseconds"] = Field(
        "seconds", description="of that time since 1970: seconds or milliseconds", examples=["seconds"]
    )
    key: Literal["text", "base64", "hex"] = Field(
        "text", description="how the secret stands for the key: as its text, or in base64 or hex", examples=["text"]
    )

    @property
    def used(self) -> bool:
        """Whether the table names a signature at all."""
        return self.header is not None or self.scheme == "standard_webhooks"


def scheme_problems(settings: SignatureSettings, secrets: Sequence[SecretStr], key: str) -> Iterator[Problem]:
    """What is wrong with a scheme and the secrets for it. `key`: the source's."""
    header, time = f"{key}.signature.header", f"{key}.signature.timestamp_header"
    if secrets and not settings.used:
        right = 'The header that carries the signature, such as signature = { header = "X-Signature" }'
        yield Problem(header, "is missing, so nobody knows where the signature is", right)
    if ("{timestamp}" in settings.signed) != (settings.timestamp_header is not None) and settings.scheme == "hmac":
        wrong = "and the {timestamp} in `signed` need each other"
        yield Problem(time, wrong, 'For example timestamp_header = "X-Timestamp", signed = "{timestamp}.{body}"')
    for number, secret in enumerate(secrets, 1):
        where = f"{key}.signing_secret" + ("" if len(secrets) == 1 else f" (number {number})")
        right = "Copy it whole, or set another `key`"
        try:
            length = len(key_of(settings, secret))
        except ValueError:
            yield Problem(where, "is not in the form that `signature` says", right)
            continue
        if length < (_SHORTEST_OF_STANDARD if settings.scheme == "standard_webhooks" else _SHORTEST):
            yield Problem(where, f"stands for a key of only {length} bytes", right)


def key_of(settings: SignatureSettings, secret: SecretStr) -> bytes:
    """The key that a secret stands for. Raises ValueError."""
    text = secret.get_secret_value()
    if settings.scheme == "standard_webhooks":
        return signatures.standard_webhooks_key(text)
    if settings.key == "base64":
        return b64decode(text, validate=True)
    return bytes.fromhex(text) if settings.key == "hex" else text.encode()


class SignatureScheme:
    """The scheme of one source, with its keys. `window`: seconds a signed time may be old."""

    def __init__(
        self, settings: SignatureSettings, secrets: Sequence[SecretStr], window: float, now: Callable[[], datetime]
    ) -> None:
        self._keys = [key_of(settings, secret) for secret in secrets]
        self._window = window
        self._now = now
        self._settings = settings
        self._header = (settings.header or "").lower()
        self._time_header = (settings.timestamp_header or "").lower()
        self._parts = _PART.split(settings.signed)  # text, name, text, name, ..., text

    def check(self, delivery: Delivery) -> None:
        """Refuse what is not signed, or was signed too long ago."""
        headers, body, now = delivery.headers, delivery.body, self._now()
        match self._settings.scheme:
            case "standard_webhooks":
                signatures.standard_webhooks(headers, body, keys=self._keys, now=now, tolerance=self._window)
            case "timed":
                signatures.check_timed(headers, self._header, self._keys, body, now=now, past=self._window)
            case "hmac":
                stamp = self._stamp(delivery) if self._time_header else ""
                given = self._given(signatures.header(headers, self._header))
                signatures.check_hmac(self._keys, self._signed(stamp, body), [given], self._settings.algorithm)
                if stamp:
                    signatures.check_time(self._seconds(stamp), now, past=self._window)

    def _given(self, value: str) -> bytes:
        decode = signatures.unhex if self._settings.encoding == "hex" else signatures.unbase64
        return decode(value.strip().removeprefix(self._settings.prefix), self._header)

    def _stamp(self, delivery: Delivery) -> str:
        stamp = signatures.header(delivery.headers, self._time_header).strip()
        if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= _LONGEST_TIME):
            raise Refused(Reason.MALFORMED_HEADER, f"the header {self._time_header} is not a whole number")
        return stamp

    def _seconds(self, stamp: str) -> float:
        return int(stamp) / (_MILLISECONDS if self._settings.timestamp_unit == "milliseconds" else 1)

    def _signed(self, stamp: str, body: bytes) -> bytes:
        values = {"body": body, "timestamp": stamp.encode()}
        return b"".join(values[part] if odd % 2 else part.encode() for odd, part in enumerate(self._parts))
