"""`[pages]`: what the pages say that people see when they unsubscribe, confirm, or choose what they get."""

from __future__ import annotations

import json
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

CONSENT: Final = "I agree to get mail about what I have chosen. I can leave at any time, by a link in every mail."


def _table(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value  # as the environment writes a whole table
    except ValueError as error:
        raise ValueError("is not a table") from error


def _check_support(value: str) -> str:
    parts = urlsplit(value)
    address = "@" in value and not any(char.isspace() or char in '<>"?&' for char in value) and not parts.scheme
    if not address and not (parts.scheme == "https" and parts.hostname):
        raise ValueError("is neither an address nor the https URL of a page")
    return value


class PageSettings(BaseModel):
    """The table `[pages]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(
        "", max_length=100, description="your name, as the people know you who get your mail", examples=["Acme"]
    )
    brands: Annotated[dict[str, str], BeforeValidator(_table)] = Field(
        {}, description="the names of brands, where topics have one", examples=[{"shop": "Acme Shop"}]
    )
    support: Annotated[str, AfterValidator(_check_support)] | None = Field(
        None, description="whom people can ask: an address, or the URL of a page", examples=["help@acme.example"]
    )
    consent: str = Field(
        CONSENT,
        min_length=1,
        max_length=2000,
        description="what people agree to who subscribe by a page; it is kept with their consent",
        examples=[CONSENT],
    )

    def name_of(self, brand: str) -> str:
        """What a brand is called; empty where nobody has said."""
        return self.brands.get(brand, self.name)
