"""Any other sender, told by a few lines of settings instead of code; the recipes are such lines too.

Rests on no document: the sender's own decides what the settings say. `receiver/mapping.py` reads its format and its
words, `receiver/signature_scheme.py` its signature. `receiver/recipes/` holds the senders that are known this way, and
the made-up one that the simulator plays.

Signature: an HMAC or Standard Webhooks, over the whole body. Where a sender signs nothing, credentials prove who calls
and cover nothing of what is said: whoever knows them can say anything.

Status codes: 2xx is kept, and everything else is answered 503, because more senders repeat after that code than after
any other. What yours does, its documents say.

Identity: the sender's event id (name one only if a retry has it too), its word, message id, recipient, time, link,
attempt, address, user agent, campaign, topic and diagnostic, as sent; the whole event where it has neither id nor time.
A mapping that is changed later can therefore give an event that is sent again another id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field

from receiver.contract import (
    Answer,
    Authentic,
    Basis,
    Covers,
    Delivery,
    Item,
    Post,
    Provider,
    Reply,
    Secrets,
    Simulation,
    SourceSettings,
    UnreadableItem,
    World,
    secret_problems,
)
from receiver.credentials import Credentials, CredentialSettings, covers_with, credential_problems
from receiver.errors import Problem
from receiver.event import EventType, Reading, each_recipient
from receiver.mapping import CompiledMapping, MappingSettings
from receiver.payload import bare_id, event_object
from receiver.recipes import DAY_AND_MORE, Recipe, read_recipe
from receiver.signature_scheme import SignatureScheme, SignatureSettings, scheme_problems
from receiver.signers import credentials as demo_credentials
from receiver.signers import hmacs
from receiver.signers.mapped import Shape, posts
from receiver.standard_webhooks import WINDOW

_RIGHT: Final = (
    "`signing_secret` with the table `signature` if the sender signs, else one of these credentials; each is at least "
    "16 random characters, the same as at the sender"
)
_IDS: Final = ("message_id", "internet_message_id")
_IN_IDENTITY: Final = (
    *(
        "provider_event_id",
        "message_id",
        "url",
        "attempt",
        "client_ip",
        "user_agent",
        "campaign",
        "topic",
        "diagnostic",
    ),
)


class SignedSettings(CredentialSettings):
    """Credentials can be required on top of the signature."""

    signing_secret: Secrets = Field([], description="secret(s) that the sender signs with")


class GenericSettings(SignedSettings, MappingSettings):
    """The mapping, and the proof: `signing_secret` with `signature`, or credentials, or both."""

    signature: SignatureSettings = Field(
        SignatureSettings(),
        description="how the sender signs",
        examples=[{"header": "X-Signature", "algorithm": "sha256", "encoding": "hex", "signed": "{body}"}],
    )


class Mapped(Provider):
    """A sender with a mapping: of the settings, or of a recipe."""

    name: ClassVar[str]
    words: ClassVar[Mapping[str, EventType]]
    covers: ClassVar[Covers]

    def __init__(
        self,
        settings: CredentialSettings,
        world: World,
        mapping: MappingSettings,
        signature: SignatureSettings,
        window: float,
    ) -> None:
        secrets = settings.signing_secret if isinstance(settings, SignedSettings) else []
        window = settings.tolerance or window
        self._mapping = CompiledMapping(mapping)
        self._credentials = Credentials(settings)
        self._scheme = SignatureScheme(signature, secrets, window, world.now) if secrets and signature.used else None

    async def authenticate(self, delivery: Delivery) -> Authentic:
        if self._scheme is None:
            self._credentials.require(delivery)
        else:
            self._scheme.check(delivery)
            self._credentials.check(delivery)
        if not delivery.body.strip():  # some senders try the credentials out with an empty body
            return Authentic(answer=Answer(status=200, body=b"ok\n"))
        return Authentic(payload=delivery)

    def parse(self, payload: Delivery) -> Iterable[Item | UnreadableItem]:
        return self._mapping.items(payload)

    def read(self, item: Item) -> Sequence[Reading]:
        value = event_object(item, "the event")
        sent, word, meaning = self._mapping.word(value)
        written, moment = self._mapping.time(value)
        columns = self._mapping.columns(value)
        same = _identity(sent, written, columns)
        columns |= {name: bare_id(columns[name]) for name in _IDS if name in columns}
        recipients, attribution = each_recipient(meaning.type, self._mapping.recipients(value))
        return [
            Reading(
                type=meaning.type,
                word=word,
                identity=None if same is None else (*same, recipient),
                occurred_at=moment,
                recipient=recipient,
                attribution=attribution,
                verdict=meaning.verdict,
                reject_reason=meaning.reject_reason,
                actor=meaning.actor,
                echo=meaning.echo,
                **columns,
            )
            for recipient in recipients
        ]


def _identity(sent: str, written: str | None, columns: Mapping[str, Any]) -> list[str | None] | None:
    """What makes the event itself beside its recipient; None where that would be too little."""
    if not (written or columns.get("provider_event_id")):
        return None
    values = [columns.get(name) for name in _IN_IDENTITY]
    return [sent, written, *(None if value is None else str(value) for value in values)]


class Generic(Mapped):
    """Any other sender."""

    name = "generic"
    title = "Any other sender (mapped by settings)"
    basis = "documents"
    covers = "body"
    words: ClassVar[Mapping[str, EventType]] = {}
    reply: ClassVar[Reply]
    Settings = GenericSettings
    covers_with = staticmethod(covers_with)

    def __init__(self, settings: GenericSettings, world: World) -> None:
        window = WINDOW if settings.signature.scheme == "standard_webhooks" else DAY_AND_MORE
        super().__init__(settings, world, settings, settings.signature, window)

    @staticmethod
    def warnings(settings: GenericSettings) -> Sequence[str]:
        unsigned = "nothing is signed: whoever knows the credentials can say anything. Ask the sender for signatures"
        return [] if settings.signing_secret else [unsigned]

    @staticmethod
    def problems(settings: GenericSettings, key: str) -> Sequence[Problem]:
        found = _proof_problems(settings, settings.signature, key, _RIGHT, signs=settings.signature.used)
        if "type" not in settings.fields:
            right = 'The path of what happened in an event, such as fields = { type = "event" }'
            found.append(Problem(f"{key}.fields.type", "is missing, so no event would mean anything", right))
        if "recipient" not in settings.fields:
            right = 'The path of the address in an event, such as fields = { recipient = "email" }'
            found.append(Problem(f"{key}.fields.recipient", "is missing, so no event would concern anybody", right))
        if settings.header_name and f"header.{settings.header_name}".lower() in map(str.lower, settings.add.values()):
            right = "Add another header: this one carries the secret of `header_value`"
            found.append(Problem(f"{key}.add", "would store a secret with every event", right))
        if not settings.words:
            right = 'What the sender\'s words mean, such as words = { delivered = "delivered" }'
            found.append(Problem(f"{key}.words", "is missing, so every event would be `unknown`", right))
        return found


def _proof_problems(
    settings: CredentialSettings, signature: SignatureSettings, key: str, right: str, *, signs: bool
) -> list[Problem]:
    secrets = settings.signing_secret if isinstance(settings, SignedSettings) else []
    if not (signs or secrets):
        return credential_problems(settings, key, right)
    found = credential_problems(settings, key, right, required=False)
    found += secret_problems(secrets, f"{key}.signing_secret", right)
    return [*found, *scheme_problems(signature, secrets, key)]


def recipe_provider(recipe: Recipe) -> type[Provider]:
    """The provider that a recipe makes."""
    signs = recipe.signature.used

    class FromRecipe(Mapped):
        name: ClassVar[str] = recipe.name
        title: ClassVar[str] = recipe.title
        about: ClassVar[str] = recipe.about
        basis: ClassVar[Basis] = "recipe"
        covers: ClassVar[Covers] = "body" if signs else "nothing"
        words: ClassVar[Mapping[str, EventType]] = CompiledMapping(recipe.mapping).types()
        reply: ClassVar[Reply] = recipe.reply.reply()
        Settings: ClassVar[type[SourceSettings]] = SignedSettings if signs else CredentialSettings
        simulation: ClassVar[Simulation] = _simulation(recipe)

        def __init__(self, settings: CredentialSettings, world: World) -> None:
            super().__init__(settings, world, recipe.mapping, recipe.signature, recipe.window)

        @staticmethod
        def problems(settings: CredentialSettings, key: str) -> Sequence[Problem]:
            return _proof_problems(settings, recipe.signature, key, recipe.right, signs=signs)

    FromRecipe.__name__ = FromRecipe.__qualname__ = recipe.name
    return FromRecipe


# Simulation


def _simulation(recipe: Recipe) -> Simulation:
    mapping = recipe.mapping
    shape = Shape(
        format=mapping.format,
        events=mapping.events,
        batch=recipe.batch,
        add=mapping.add,
        signature=recipe.signature.model_dump(),
    )

    def post(items: Sequence[Any], keys: Mapping[str, str], now: datetime) -> Sequence[Post]:
        return posts(shape, items, keys, now)

    return Simulation(
        types=tuple(recipe.samples),
        demo=hmacs.demo() if recipe.demo == "signing_secret" else demo_credentials.demo(recipe.demo),
        keys=_keys,
        sample=recipe.sample,
        post=post,
        setup=recipe.setup,
        unsignable="Its simulator plays the sender of the example alone. Post a captured request with curl instead.",
    )


def _keys(settings: CredentialSettings) -> Mapping[str, str] | None:
    secrets = settings.signing_secret if isinstance(settings, SignedSettings) else []
    return demo_credentials.keys(settings) | ({"signing_secret": secrets[0].get_secret_value()} if secrets else {})


_EXAMPLE: Final = read_recipe("generic")


def _demo(directory: Path) -> tuple[dict[str, Any], dict[str, str]]:
    made, keys = hmacs.demo()(directory)
    told = _EXAMPLE.mapping.model_dump(exclude_defaults=True)
    return {**made, "signature": _EXAMPLE.signature.model_dump(exclude_defaults=True), **told}, keys


def _example_keys(settings: GenericSettings) -> Mapping[str, str] | None:
    played = settings.model_dump(include=set(MappingSettings.model_fields)) == _EXAMPLE.mapping.model_dump()
    return _keys(settings) if played and settings.signature == _EXAMPLE.signature else None


_PLAYED: Final = _simulation(_EXAMPLE)
Generic.reply = _EXAMPLE.reply.reply()
Generic.simulation = Simulation(
    types=_PLAYED.types,
    demo=_demo,
    keys=_example_keys,
    sample=_PLAYED.sample,
    post=_PLAYED.post,
    setup=_PLAYED.setup,
    unsignable=_PLAYED.unsignable,
)

PROVIDER: Final[type[Provider]] = Generic
