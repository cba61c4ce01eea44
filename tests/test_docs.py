"""What the documents show is run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from receiver.cli.provider_page import pages, with_overview
from receiver.providers import providers
from receiver.settings import Settings

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK: Final = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (page.relative_to(ROOT).as_posix(), code)
        for page in PAGES
        for found, code in BLOCK.findall(page.read_text(encoding="utf-8"))
        if found == language
    ]


@pytest.mark.parametrize(("page", "sql"), blocks("sql"))
async def test_every_query_in_the_documents_runs(page: str, sql: str, database: str) -> None:
    """every SQL block of README and docs runs against the schema."""
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
    assert page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_the_documents_leads_somewhere(page: Path) -> None:
    """every relative link in README and docs names a file that exists."""
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_every_python_block_is_python(page: str, code: str) -> None:
    """every Python block of README and docs compiles."""
    compile(code, page, "exec")


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_every_setting_in_the_documents_exists(page: str, text: str) -> None:
    """every TOML block of README and docs names settings and providers that exist."""
    table = tomllib.loads(text)
    if {"now", "window"} <= set(table):  # a fixture folder's provider.toml, which the contract suite reads
        return
    assert set(table) <= set(Settings.model_fields), page
    for source in table.get("sources", {}).values():
        assert set(source) <= set(providers()[source["provider"]].Settings.model_fields), page


def test_the_pages_of_the_providers_are_up_to_date() -> None:
    """docs/providers/ and the table in the README say what the providers' files say: `make docs` writes them."""
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "providers").iterdir()}
    assert found == dict(pages())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == with_overview(readme)
