"""The OpenAPI document (3.1), made from the table of operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from receiver.api_keys import SCOPES
from receiver.web.api.idempotency import HEADER
from receiver.web.api.operations import Asked, Operation
from receiver.web.api.problems import MEDIA_TYPE, STATUSES, ProblemDocument

_REF: Final = "#/components/schemas/{model}"
_SECURITY: Final = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key, or an access token."},
    "basic": {"type": "http", "scheme": "basic", "description": "A key as the password, with any name."},
    "oauth": {
        "type": "oauth2",
        "flows": {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {name: name for name in SCOPES}}},
    },
}
_HEADERS: Final[Mapping[str, Any]] = {
    "RateLimit": "What is left of the key's requests, and seconds until all of them are there again.",
    "RateLimit-Policy": "How many requests a key has at once, and in how many seconds they come back.",
}
_EVERY: Final = (401, 403, 405, 408, 413, 415, 422, 429, 500, 503)  # any operation may answer so
_DESCRIPTION: Final = (
    "Who may be mailed, contacts, suppressions, topics, segments, events, messages and broadcasts. "
    "docs/api.md shows how to use it."
)


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document, as JSON values."""
    schemas, components = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.root + one.path, {})[one.method.lower()] = _operation(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Email event receiver",
            "version": version("email-event-receiver"),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"key": []}, {"basic": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }


Schemas: TypeAlias = Mapping[Any, Any]  # of (model, mode)


def _schemas(operations: Sequence[Operation]) -> tuple[Schemas, Mapping[str, Any]]:
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(ProblemDocument, "serialization"): None}
    for one in operations:
        if one.answer:
            wanted[one.answer, "serialization"] = None
        if one.body:
            wanted[one.body, "validation"] = None
    found, definitions = models_json_schema(list(wanted), ref_template=_REF)
    return found, definitions["$defs"]


def _operation(one: Operation, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": one.id,
        "summary": one.summary,
        "description": f"Needs the scope `{one.scope}`.",
        "tags": [one.path.split("/")[1]],
        "security": [{"key": []}, {"basic": []}, {"oauth": [one.scope]}],
        "parameters": [*_parameters(one.in_path, "path"), *_parameters(one.query, "query"), *_further(one)],
        "responses": _responses(one, schemas),
    }
    if one.body:
        found["requestBody"] = {"required": True, "content": _content(schemas[one.body, "validation"])}
    return found


def _parameters(model: type[Asked] | None, place: str) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        _parameter(name, place, _inlined(one, schema.get("$defs", {})), required=name in required)
        for name, one in schema["properties"].items()
    ]


def _parameter(name: str, place: str, schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    shape = {key: value for key, value in schema.items() if key not in ("title", "description")}
    description = {"description": schema["description"]} if "description" in schema else {}
    return {"name": name, "in": place, "required": required, **description, "schema": shape}


def _inlined(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's schema by itself, which is left out rather than null."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
    found = {name: one for name, one in schema.items() if not (name == "default" and one is None)}
    if "items" in found:
        found["items"] = _inlined(found["items"], definitions)
    choices = [one for one in found.pop("anyOf", []) if one != {"type": "null"}]
    return found | (_inlined(choices[0], definitions) if choices else {})


def _further(one: Operation) -> list[dict[str, Any]]:
    if not one.writes:
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"}
    description = "A repetition with the same one, within a day, is not done again and gets the first answer."
    return [{"name": HEADER.title(), "in": "header", "required": False, "description": description, "schema": schema}]


def _responses(one: Operation, schemas: Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if one.answer:
        content = _content(schemas[one.answer, "serialization"])
        if one.lists:
            content["text/csv"] = {"schema": {"type": "string"}}
        found["200"] = _response("Done.", content)
        if one.makes:
            found["201"] = _response("Made.", content)
    elif one.method == "DELETE":
        found["204"] = _response("Done.", None)
    else:
        found["200"] = _response("Done.", {"application/json": {"schema": {}}})
    statuses = {400, *_EVERY} if one.body else set(_EVERY)
    statuses |= {404} if one.in_path or one.finds else set()
    statuses |= {409} if one.conflicts or one.writes else set()
    problem = {MEDIA_TYPE: {"schema": schemas[ProblemDocument, "serialization"]}}
    return found | {str(status): {"description": STATUSES[status], "content": problem} for status in sorted(statuses)}


def _response(description: str, content: Mapping[str, Any] | None) -> dict[str, Any]:
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()}
    return {"description": description, "headers": headers, **({"content": content} if content else {})}


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
