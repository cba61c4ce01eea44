"""Credentials that a provider sends along: the only proof where it signs nothing, an addition where it signs little.

What a source sets is required: Basic credentials and a header means both. Of several values of one kind (while one
replaces the other) any will do; all are compared, in constant time. No credential covers the body: whoever knows it can
say anything, and a body that was changed on the way is accepted.

A wrong credential is nearly always our own mistake, so each refusal here asks for the provider's "try again" code;
but a token of OAuth's is answered with 401, after which its sender gets a new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl

from pydantic import Field, SecretStr

from receiver.contract import (
    Authentic,
    Covers,
    Delivery,
    Secrets,
    SourceSettings,
    World,
    secret_bytes,
    secret_problems,
)
from receiver.errors import Problem, Reason, Refused
from receiver.oauth import Client, ClientSettings, client_problems
from receiver.signatures import check_basic, header, same

RIGHT: Final = "At least 16 random characters, the same as at the provider: `openssl rand -hex 24` makes some"
CHALLENGE: Final = 'Basic realm="webhooks", charset="UTF-8"'
TOKEN: Final = "token"  # noqa: S105  # the name of the query parameter
_IN_URL: Final = re.compile(r"[A-Za-z0-9._~-]+")
_BEARER: Final = "bearer "
_MAX_QUERY: Final = 8192
_SIGNING: Final = frozenset({"signing_secret", "signature_key", "authentication_key"})  # as the providers call it


class CredentialSettings(SourceSettings):
    """What is set here is required of every request."""

    username: str = Field("webhook", description="user of the Basic credentials")
    password: Secrets = Field([], description="password(s) of the Basic credentials")
    bearer_token: Secrets = Field([], description="token(s) of `Authorization: Bearer`")
    header_name: str | None = Field(None, description="name of a custom header that carries a secret")
    header_value: Secrets = Field([], description="value(s) of that header")
    url_secret: Secrets = Field([], description="secret(s) of the URL: /webhooks/<source>/<secret> or ?token=<secret>")


class OAuthSettings(CredentialSettings, ClientSettings):
    """For a provider that knows OAuth 2.0 too."""


class Credentials:
    """The credentials of one source. `ask`: its sender keeps Basic credentials back until a 401 asks for them."""

    def __init__(self, settings: CredentialSettings, *, ask: bool = False) -> None:
        self._ask = ask
        self._username = settings.username
        self._passwords = [secret.get_secret_value() for secret in settings.password]
        self._tokens = secret_bytes(settings.bearer_token)
        self._header = (settings.header_name or "").lower()
        self._values = secret_bytes(settings.header_value)
        self._url_secrets = secret_bytes(settings.url_secret)
        self._client = Client(settings) if isinstance(settings, OAuthSettings) else None
        self.any = bool(self._passwords or self._tokens or self._values or self._url_secrets or self._client)

    def require(self, delivery: Delivery) -> None:
        """Refuse unless the delivery carries everything that is set, and something is."""
        if not self.any:
            raise Refused(Reason.MISSING_CREDENTIALS, "this source has no credentials configured", again=True)
        self.check(delivery)

    def check(self, delivery: Delivery) -> None:
        """Refuse unless the delivery carries everything that is set, if anything is."""
        if self._client:
            self._client.check(delivery)
        if self._tokens:
            self._check(bearer_token(delivery), self._tokens, "the token of the header Authorization")
        if self._values:
            value = _latin1(header(delivery.headers, self._header, again=True), self._header)
            self._check(value, self._values, f"the value of the header {self._header}")
        if self._url_secrets:
            self._check(_url_secret(delivery), self._url_secrets, "the secret in the URL")
        if self._passwords:
            self._check_basic(delivery)

    def _check_basic(self, delivery: Delivery) -> None:
        if self._ask and "authorization" not in delivery.headers:
            detail = "asked for the Basic credentials, which this sender shows only then"
            raise Refused(Reason.MISSING_CREDENTIALS, detail, challenge=CHALLENGE)
        check_basic(delivery.headers, self._username, self._passwords)

    @staticmethod
    def _check(given: bytes, right: Sequence[bytes], what: str) -> None:
        matched = False
        for value in right:
            matched |= same(given, value)
        if not matched:
            raise Refused(Reason.WRONG_CREDENTIALS, f"{what} is wrong", again=True)


class ByCredentials:
    """What providers that sign nothing share: their credentials are the proof, and the body is the payload.

    `right`: where the credentials are set at the provider. `published`: values that its documents show.
    """

    right: ClassVar[str]
    published: ClassVar[Sequence[str]] = ()

    def __init__(self, settings: CredentialSettings, world: World) -> None:  # noqa: ARG002 - the contract's
        self._credentials = Credentials(settings)

    @classmethod
    def problems(cls, settings: CredentialSettings, key: str) -> Sequence[Problem]:
        return credential_problems(settings, key, cls.right, published=cls.published)

    async def authenticate(self, delivery: Delivery) -> Authentic:
        self._credentials.require(delivery)
        return Authentic(payload=delivery.body)


class BySecret:
    """What providers that sign with a shared secret share; each verifies in its own way.

    `key_setting`: the setting that holds it, one or several. `right`: where it is found at the provider.
    `published`: values that its documents show. `window`: seconds that a signed time may be old; None where nothing
    that ages is signed.
    """

    key_setting: ClassVar[str] = "signing_secret"
    right: ClassVar[str]
    published: ClassVar[Sequence[str]] = ()
    window: ClassVar[float | None] = None

    def __init__(self, settings: SourceSettings, world: World) -> None:
        self._keys = secret_bytes(getattr(settings, self.key_setting))
        self._tolerance = settings.tolerance or self.window
        self._now = world.now

    @classmethod
    def problems(cls, settings: SourceSettings, key: str) -> Sequence[Problem]:
        return secret_problems(
            getattr(settings, cls.key_setting), f"{key}.{cls.key_setting}", cls.right, published=cls.published
        )


def bearer_token(delivery: Delivery) -> bytes:
    """The token of `Authorization: Bearer`. Raises Refused."""
    value = header(delivery.headers, "authorization", again=True)
    if value[: len(_BEARER)].lower() != _BEARER:
        raise Refused(Reason.MALFORMED_HEADER, "the header Authorization is not of the kind Bearer", again=True)
    return _latin1(value[len(_BEARER) :], "authorization")


def covers_with(table: Mapping[str, Any]) -> Covers:
    """What the proof of a source covers where a signing secret is optional, from its table in the configuration."""
    return "body" if _SIGNING & {name.removesuffix("_file") for name in table} else "nothing"


def credential_problems(
    settings: CredentialSettings, key: str, right: str = RIGHT, *, required: bool = True, published: Sequence[str] = ()
) -> list[Problem]:
    """What is wrong with the credentials of a source. `right`: where they are set at the provider.

    `required`: nothing else proves the sender, so that none at all is a problem too.
    """
    found: list[Problem] = []
    for name in ("password", "bearer_token", "header_value", "url_secret"):
        secrets: Sequence[SecretStr] = getattr(settings, name)
        if secrets:
            found += secret_problems(secrets, f"{key}.{name}", right, published=published)
    found += _shape_problems(settings, key)
    if isinstance(settings, OAuthSettings):
        found += client_problems(settings, key)
    if required and not found and not Credentials(settings).any:
        names = "`password`, `bearer_token`, `header_value`, `url_secret`"
        names += ", `client_secret`" if isinstance(settings, OAuthSettings) else ""
        wrong = f"sets none of {names}, so nothing would prove the sender"
        return [Problem(key, wrong, right)]
    return found


def signed_problems(
    settings: CredentialSettings, name: str, key: str, right: str, *, published: Sequence[str] = ()
) -> list[Problem]:
    """Problems of a source whose sender signs, if a secret is set (the setting `name`), or sends credentials, or both.

    `right`: where the secret is found at the provider.
    """
    secrets: Sequence[SecretStr] = getattr(settings, name)
    if not secrets and not Credentials(settings).any:
        return [Problem(key, f"sets neither `{name}` nor credentials, so nothing would prove the sender", right)]
    signed = secret_problems(secrets, f"{key}.{name}", right, published=published) if secrets else []
    return signed + credential_problems(settings, key, right, required=False)


def _shape_problems(settings: CredentialSettings, key: str) -> list[Problem]:
    found: list[Problem] = []
    authorizing = [name for name in ("password", "bearer_token", "client_secret") if getattr(settings, name, None)]
    if len(authorizing) > 1:
        right = "One request has one header Authorization: use one of them, or a header of your own"
        wrong = f"cannot be required together with `{authorizing[0]}`"
        found.append(Problem(f"{key}.{authorizing[1]}", wrong, right))
    if settings.password and (not settings.username.strip() or ":" in settings.username):
        right = "The user name that the webhook's URL or settings carry"
        found.append(Problem(f"{key}.username", "is empty or has a colon", right))
    if bool(settings.header_value) != bool(settings.header_name and settings.header_name.strip()):
        wrong = "needs `header_name` and `header_value` together"
        found.append(Problem(f"{key}.header_name", wrong, "For example header_name = 'X-Webhook-Secret'"))
    if not all(_IN_URL.fullmatch(secret.get_secret_value()) for secret in settings.url_secret):
        wrong = "has characters that a URL would change"
        found.append(Problem(f"{key}.url_secret", wrong, "Use letters, digits, and - . _ ~ only"))
    return found


def _url_secret(delivery: Delivery) -> bytes:
    if delivery.path:
        return _latin1(delivery.path, "the URL's path")
    given = [value for name, value in parse_qsl(delivery.query[:_MAX_QUERY]) if name == TOKEN]
    if not given:
        raise Refused(Reason.MISSING_CREDENTIALS, "the URL ends without its secret", again=True)
    return given[0].encode(errors="surrogatepass")


def _latin1(value: str, name: str) -> bytes:
    try:
        return value.strip().encode("latin-1")
    except UnicodeEncodeError as error:
        wrong = f"{name} has characters that no header can carry"
        raise Refused(Reason.MALFORMED_HEADER, wrong, again=True) from error
