"""The providers we understand: every module of this package is one, found by its `PROVIDER`, and so is every recipe."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from receiver.contract import Provider
from receiver.recipes import recipes


@cache
def providers() -> dict[str, type[Provider]]:
    """All providers by name, in alphabetical order."""
    from receiver.providers.generic import recipe_provider

    modules = {module.name for module in pkgutil.iter_modules(__path__)}
    found = [importlib.import_module(f"{__name__}.{name}").PROVIDER for name in modules]
    made = [recipe_provider(recipe) for name, recipe in recipes().items() if name not in modules]
    return {provider.name: provider for provider in sorted([*found, *made], key=lambda provider: provider.name)}
