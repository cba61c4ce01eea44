"""One operation of the API: what it is called with, what it does, and what it answers.

The router, the scopes and the OpenAPI document are made from the same table of these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from receiver.contacts.addresses import Address
from receiver.policy_settings import PolicySettings
from receiver.sending.means import Means
from receiver.store.sql import Sql
from receiver.vault import Vault
from receiver.web.api.authentication import Key

LIMIT: Final = 50
MOST: Final = 500


class Asked(BaseModel):
    """What a client sends: nothing that we do not know, and nothing that is changed on the way."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class Answered(BaseModel):
    """What we answer."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


def whole(value: object) -> object:
    """JSON does not tell 25.0 from 25, nor does JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Listing(Asked):
    """What every listing is asked with."""

    limit: Annotated[int, Field(ge=1, le=MOST, description="How many at most."), BeforeValidator(whole)] = LIMIT
    cursor: Annotated[
        str | None, Field(max_length=2000, description="`next` of the page before, with the same filters.")
    ] = None


class Page(Answered):
    """A part of a listing."""

    items: Sequence[Any]
    next: Annotated[str | None, Field(description="The cursor of the next page; null: this is the last one.")] = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a listing found. `after`: the place of the last item, where there may be more."""

    items: Sequence[BaseModel]
    after: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """Something that was not there before, and where it is now, below the API's root."""

    what: BaseModel
    location: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, in a transaction of its own. `after`: where a listing goes on. `public_url`: for links in mail.

    `means`: what is sent with.
    """

    sql: Sql
    vault: Vault
    key: Key
    public_url: str | None
    policy: PolicySettings
    means: Means
    path: Any = None
    query: Any = None
    body: Any = None
    after: Sequence[str] | None = None

    @property
    def who(self) -> str:
        """For audit_log and consent_log."""
        return f"api:{self.key.id} {self.key.name}"

    def hash_of(self, address: Address) -> bytes:
        return self.vault.address_hash(address.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`run` returns what `answer` describes: a model, Found, Made, its JSON text, or None for an empty answer."""

    id: str
    method: str
    path: str
    scope: str
    summary: str
    run: Callable[[Call], Awaitable[BaseModel | Found | Made | str | None]]
    answer: type[BaseModel] | None = None
    in_path: type[Asked] | None = None
    query: type[Asked] | None = None
    body: type[Asked] | None = None
    makes: bool = False
    conflicts: bool = False
    finds: bool = False

    root: ClassVar[str] = "/api/v1"

    @property
    def writes(self) -> bool:
        return not self.scope.endswith(":read")

    @property
    def lists(self) -> bool:
        return self.answer is not None and issubclass(self.answer, Page)
