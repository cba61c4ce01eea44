"""The providers we understand: every module of this package is one, found by its `PROVIDER`, and so is every recipe.

A file's name is its provider's. What a process does not use is not imported: all of them take half a second.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from receiver.contract import Provider
from receiver.recipes import read_recipe, recipe_names


@cache
def provider_names() -> list[str]:
    """The names of all providers, in alphabetical order."""
    return sorted({*_modules(), *recipe_names()})


@cache
def provider(name: str) -> type[Provider]:
    """The provider of that name, which is one of `provider_names`."""
    if name in _modules():
        found: type[Provider] = importlib.import_module(f"{__name__}.{name}").PROVIDER
        return found
    from receiver.providers.generic import recipe_provider

    return recipe_provider(read_recipe(name))


@cache
def providers() -> dict[str, type[Provider]]:
    """All providers by name, in alphabetical order."""
    return {name: provider(name) for name in provider_names()}


@cache
def _modules() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(__path__))
