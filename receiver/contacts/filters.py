"""The filter of a segment: which contacts, as JSON. `all`, `any` and `not` join conditions, each known by one word.

    {"all": [{"topic": "newsletter"},
             {"event": "clicked", "tag": "trial", "since": "30d"},
             {"not": {"field": "last_opened_at", "since": "90d"}}]}

`filter_sql` makes SQL of it, `filter_words` a sentence. docs/contacts.md has every condition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    field_serializer,
    model_validator,
)

from receiver.contacts.filter_faults import MAX_TEXT, WrongFilter, check_values, decode, faults_of
from receiver.durations import read_moment
from receiver.event import EventType
from receiver.faults import did_you_mean

Kind: TypeAlias = Literal["text", "number", "time"]
FIELDS: Final[Mapping[str, Kind]] = {
    "address": "text",
    "domain": "text",
    "external_id": "text",
    "name": "text",
    "locale": "text",
    "time_zone": "text",
    "soft_streak": "number",
    "created_at": "time",
    "updated_at": "time",
    "last_event_at": "time",
    "last_sent_at": "time",
    "last_delivered_at": "time",
    "last_opened_at": "time",
    "last_clicked_at": "time",
    "last_bounced_at": "time",
    "complained_at": "time",
    "unsubscribed_at": "time",
    "prefetched_at": "time",
}
# What suits each kind of field; an attribute may be of any kind.
OPERATORS: Final[Mapping[Kind, Collection[str]]] = {
    "text": ("equals", "in", "starts_with", "ends_with", "contains", "exists"),
    "number": ("equals", "in", "at_least", "at_most", "above", "below"),
    "time": ("since", "until", "exists"),
}
REASONS: Final = ("hard_bounce", "soft_bounce", "complaint", "unsubscribe", "manual", "imported")
STATES: Final = ("subscribed", "pending", "unsubscribed", "none")
TYPES: Final = tuple(str(one) for one in EventType)
MAX_LIST: Final = 1000  # values of `in`


def _known(words: Collection[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"is not known{did_you_mean(text, words)}: it is one of {', '.join(words)}")
        return text

    return check


def _moment(text: str) -> str:
    read_moment(text, datetime.now(UTC))
    return text


def _scalar(value: object) -> object:
    if isinstance(value, (bool, int, float)) or (isinstance(value, str) and value):
        return value
    raise ValueError("is not a text, a number, true or false")


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("is not a number")  # noqa: TRY004 - pydantic takes ValueError alone
    return value


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _any_reason(value: object) -> object:
    if value is True:
        return ()
    if not value:
        raise ValueError('is true or some reasons; who is not suppressed is {"not": {"suppressed": true}}')
    return _listed(value)


def _path(value: object) -> object:
    return tuple(value.split(".")) if isinstance(value, str) else value


_ONE_OR_MORE: Final = BeforeValidator(_listed, str | list[str])
Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=MAX_TEXT)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_LIST), _ONE_OR_MORE]
Moment = Annotated[
    str,
    StringConstraints(strict=True, max_length=40),
    AfterValidator(_moment),
    Field(description="That long ago (30d), or when (2026-01-31, 2026-01-31T12:00Z).", examples=["30d", "2026-01-31"]),
]
Scalar = Annotated[bool | int | float | str, BeforeValidator(_scalar)]
Number = Annotated[int | float, BeforeValidator(_number)]
Column = Annotated[str, AfterValidator(_known(FIELDS)), Field(json_schema_extra={"enum": list(FIELDS)})]
State = Annotated[str, AfterValidator(_known(STATES)), Field(json_schema_extra={"enum": list(STATES)})]
Reason = Annotated[str, AfterValidator(_known(REASONS)), Field(json_schema_extra={"enum": list(REASONS)})]
TypeName = Annotated[str, AfterValidator(_known(TYPES)), Field(json_schema_extra={"enum": list(TYPES)})]


_SUBJECTS: Final = ("attribute", "field")


class Part(BaseModel):
    """A condition, or what joins several."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Compared(Part):
    """What is said of a value; where several things are, each must hold."""

    equals: Scalar | None = Field(default=None, description="Is this very value.")
    in_: tuple[Scalar, ...] | None = Field(
        default=None, alias="in", min_length=1, max_length=MAX_LIST, description="Is one of these values."
    )
    starts_with: Text | None = Field(default=None, description="Begins with this text, in any case.")
    ends_with: Text | None = Field(default=None, description="Ends with this text, in any case.")
    contains: Text | None = Field(default=None, description="Has this text somewhere, in any case.")
    at_least: Number | None = None
    at_most: Number | None = None
    above: Number | None = None
    below: Number | None = None
    since: Moment | None = None
    until: Moment | None = Field(default=None, description="Before this.")
    exists: bool | None = Field(default=None, strict=True, description="Whether there is a value at all.")

    @property
    def said(self) -> dict[str, Any]:
        """What is said, by its names in JSON."""
        values = {field.alias or name: getattr(self, name) for name, field in type(self).model_fields.items()}
        return {name: value for name, value in values.items() if name not in _SUBJECTS and value is not None}


class Attribute(Compared):
    """A value within `contacts.attributes`. Dots lead into objects; where a name has a dot, a list names the way."""

    attribute: Annotated[tuple[Text, ...], Field(min_length=1, max_length=8), BeforeValidator(_path, str | list[str])]
    has: Scalar | None = Field(default=None, description="Is a list that has this.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.said:
            raise ValueError("says nothing of the attribute: add equals, in, has, contains, at_least, since, exists...")
        return self


class OfField(Compared):
    """A column of `contacts`, or the domain of the address."""

    field: Column

    @model_validator(mode="after")
    def _suits(self) -> Self:
        kind, said = FIELDS[self.field], self.said
        fits = OPERATORS[kind]
        for name in said:
            if name not in fits:
                raise ValueError(f"has {name}, but {self.field} is a {kind}: use {', '.join(fits)}")
        if not said:
            raise ValueError(f"says nothing of {self.field}: add one of {', '.join(fits)}")
        for value in (said.get("equals"), *said.get("in", ())):
            if value is not None and (isinstance(value, bool) or isinstance(value, str) != (kind == "text")):
                raise ValueError(f"compares {self.field}, which is a {kind}, with something else")
        return self


class Tagged(Part):
    """The contact has this tag, or one of these."""

    tag: Texts


class Subscribed(Part):
    """What the address has said about a topic; `since` and `until`: when it said so."""

    topic: Text
    state: Annotated[tuple[State, ...], Field(min_length=1), _ONE_OR_MORE] = ("subscribed",)
    since: Moment | None = None
    until: Moment | None = None


class Suppressed(Part):
    """A suppression counts now: any (true; here an empty tuple), or one for these reasons."""

    suppressed: Annotated[tuple[Reason, ...], BeforeValidator(_any_reason, bool | str | list[str])]

    @field_serializer("suppressed")
    def _as_given(self, reasons: tuple[str, ...]) -> bool | tuple[str, ...]:
        return reasons or True


class Sendable(Part):
    """`sendable()` says yes to mail about this topic now."""

    sendable: Text
    stream: Literal["marketing", "transactional"] = "marketing"


class Happened(Part):
    """Events of the contact: at least so many messages had one. Tests, echoes and what machines did do not count."""

    event: Annotated[tuple[TypeName, ...], Field(min_length=1), _ONE_OR_MORE]
    since: Moment | None = None
    until: Moment | None = Field(default=None, description="Before this.")
    at_least: int = Field(default=1, ge=1, le=10_000, strict=True, description="Distinct messages.")
    machines: bool = Field(
        default=False,
        strict=True,
        description="Opens and clicks by machines count too. Else it is unknown whether somebody has opened whose mail "
        "client probably loads pictures by itself: neither the condition nor its `not` holds.",
    )
    tag: Texts | None = None
    topic: Text | None = None
    campaign: Text | None = None
    template: Text | None = None
    source: Text | None = None
    stream: Text | None = None
    brand: Text | None = None
    url: Text | None = Field(default=None, description="The link has this text somewhere.")
    bounce_class: Text | None = None
    metadata: dict[Text, JsonValue] | None = Field(default=None, min_length=1, description="The metadata has these.")


class AllOf(Part):
    """Each of these holds."""

    all: tuple[Condition, ...] = Field(min_length=1)


class AnyOf(Part):
    """At least one of these holds."""

    any: tuple[Condition, ...] = Field(min_length=1)


class Not(Part):
    """This is known not to hold."""

    not_: Condition = Field(alias="not")


_MODELS: Final[Mapping[str, type[Part]]] = {  # in this order: an event's own topic and tag stand beside `event`
    "all": AllOf,
    "any": AnyOf,
    "not": Not,
    "event": Happened,
    "sendable": Sendable,
    "suppressed": Suppressed,
    "attribute": Attribute,
    "field": OfField,
    "topic": Subscribed,
    "tag": Tagged,
}
_MEMBERS: Final = {
    kind: [field.alias or name for name, field in model.model_fields.items()] for kind, model in _MODELS.items()
}


def _kind(value: object) -> str | None:
    if isinstance(value, dict):
        return next((kind for kind in _MODELS if kind in value), None)
    return next((kind for kind, model in _MODELS.items() if model is type(value)), None)


Condition: TypeAlias = Annotated[
    Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[Not, Tag("not")]
    | Annotated[Happened, Tag("event")]
    | Annotated[Sendable, Tag("sendable")]
    | Annotated[Suppressed, Tag("suppressed")]
    | Annotated[Attribute, Tag("attribute")]
    | Annotated[OfField, Tag("field")]
    | Annotated[Subscribed, Tag("topic")]
    | Annotated[Tagged, Tag("tag")],
    Discriminator(_kind),
]
for _model in (AllOf, AnyOf, Not):
    _model.model_rebuild()
ADAPTER: Final[TypeAdapter[Condition]] = TypeAdapter(Condition)


def read_filter(value: object) -> Condition:
    """The filter in a decoded JSON value. Raises WrongFilter."""
    check_values(value)
    try:
        return ADAPTER.validate_python(value)
    except ValidationError as error:
        raise WrongFilter(faults_of(error, value, _MEMBERS)) from None


def parse_filter(text: str | bytes) -> Condition:
    """The filter in JSON text. Raises WrongFilter."""
    return read_filter(decode(text))


def to_json(condition: Condition) -> str:
    """As it is stored: what was said, and no more."""
    return ADAPTER.dump_json(condition, by_alias=True, exclude_unset=True).decode()
