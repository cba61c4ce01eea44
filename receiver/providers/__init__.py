"""The providers we understand: every module of this package is one, found by its `PROVIDER`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from receiver.contract import Provider


@cache
def providers() -> dict[str, type[Provider]]:
    """All providers by name, in alphabetical order."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [importlib.import_module(f"{__name__}.{name}").PROVIDER for name in modules]
    return {provider.name: provider for provider in found}
