"""What handler files may import. The layers inside `receiver` are import-linter's (pyproject.toml)."""

import ast
import sys
from pathlib import Path

import pytest

HANDLERS = Path(__file__).parents[1] / "handlers"


def foreign_imports(source: str) -> list[str]:
    """The modules that a handler's file imports besides Python's own and `receiver` itself."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names]
            case ast.ImportFrom(module=module, level=level):
                found.append("." * level + (module or ""))
            case _:
                pass
    return [module for module in found if module != "receiver" and module.split(".")[0] not in sys.stdlib_module_names]


def test_handlers_import_the_public_api_alone() -> None:
    """the shipped handlers import nothing of this project but `receiver`, as everyone's handlers can."""
    files = list(HANDLERS.glob("*.py"))
    assert files
    assert {file.name: foreign_imports(file.read_text()) for file in files} == {file.name: [] for file in files}


@pytest.mark.parametrize(
    "source",
    ["import receiver.store", "from receiver.store import log", "from . import other", "def f():\n    import asyncpg"],
)
def test_other_imports_are_found(source: str) -> None:
    """the check above sees inner modules of ours, neighbours and other packages, wherever they are imported."""
    assert foreign_imports(source)
    assert not foreign_imports("import re\nfrom receiver import handler")
