"""What pydantic found wrong, as problems for people: which key, what is wrong, what a right value looks like.

Never the value itself: it may be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from receiver.errors import Problem


def problems_of(
    error: ValidationError, model: type[BaseModel], prefix: str, origins: Mapping[str, str]
) -> list[tuple[str, Problem]]:
    """Each fault that pydantic found, as (first key, Problem), without any value."""
    found: dict[tuple[str, str], Problem] = {}
    for fault in error.errors(include_url=False, include_input=False):
        first, where = str(fault["loc"][0]) if fault["loc"] else "", _dotted(fault["loc"])
        setting, owner = _setting(fault["loc"], model)
        wrong = _wrong(fault["type"], fault["msg"], setting, owner)
        key = f"{prefix}{where}"
        shown = f"{key} (from {origins[key]})" if key in origins else key
        found.setdefault((first, where), Problem(shown, wrong, right_value(owner, setting)))
    return [(first, problem) for (first, _), problem in found.items()]


def _setting(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """The setting's own name, and the model that it stands in: a section of settings has one of its own."""
    first = str(loc[0]) if loc else ""
    section = model.model_fields[first].annotation if first in model.model_fields else None
    if len(loc) > 1 and isinstance(section, type) and issubclass(section, BaseModel):
        return _setting(loc[1:], section)
    if len(loc) > 2 and (named := _named_section(section)) is not None:
        return _setting(loc[2:], named)
    return first, model


def _named_section(annotation: Any) -> type[BaseModel] | None:
    """The model of tables with names of the user's own: `dict[str, Model]`."""
    values = get_args(annotation)[1:] if get_origin(annotation) is dict else ()
    return values[0] if values and isinstance(values[0], type) and issubclass(values[0], BaseModel) else None


def _dotted(loc: tuple[int | str, ...]) -> str:
    key = str(loc[0]) if loc else ""
    for part in loc[1:]:
        if isinstance(part, int):
            key += f" (number {part + 1})"
        elif re.fullmatch(r"[\w-]+", part):  # pydantic also names the branches of a union here
            key += f".{part}"
    return key


def _wrong(kind: str, message: str, key: str, model: type[BaseModel]) -> str:
    if kind == "extra_forbidden":
        return f"is not a setting{did_you_mean(key, setting_names(model))}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    return f"is wrong: {message[:1].lower()}{message[1:]}"


def setting_names(model: type[BaseModel]) -> dict[str, str]:
    """Every name a table for `model` may use (aliases too) -> the name of the field."""
    names: dict[str, str] = {}
    for name, field in model.model_fields.items():
        for alias in (field.validation_alias, field.alias):
            choices = getattr(alias, "choices", [alias])
            names |= {choice: name for choice in choices if isinstance(choice, str)}
        names[name] = name
    return names


def right_value(model: type[BaseModel], key: str) -> str:
    """What a right value looks like, from the field's description and its example."""
    field = model.model_fields.get(setting_names(model).get(key, key))
    if field is None:
        return f"Known here: {', '.join(sorted(setting_names(model)))}"
    text = field.description or "See the documentation of this setting"
    text = f"{text[:1].upper()}{text[1:]}"
    return f"{text}, such as {key} = {toml_value(field.examples[0])}" if field.examples else text


def toml_value(value: object) -> str:
    """A text, number, truth value, or a list or table of them, as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        members = (f"{_toml_key(key)} = {toml_value(member)}" for key, member in value.items())
        return f"{{ {', '.join(members)} }}"
    return json.dumps(value) if isinstance(value, (str, int, float)) else json.dumps(str(value))


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to append to a message, if a known word is close; else nothing."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def split_list(text: str) -> list[Any]:
    """A list as the environment writes it: JSON, or separated by commas."""
    decoded = json_list(text)
    return [part.strip() for part in text.split(",") if part.strip()] if decoded is None else decoded


def json_list(text: str) -> list[Any] | None:
    """The list that the text is in JSON; None where it only looks like one, or not at all."""
    try:
        decoded = json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError:
        return None
    return decoded if isinstance(decoded, list) else None
