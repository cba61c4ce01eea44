"""A provider that does not exist is added as the documents say: one file and one folder, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

TOP: Final = Path(__file__).parents[1]
PAGE: Final = TOP / "docs" / "add-a-provider.md"
FILE: Final = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
CONTRACT: Final = "tests/test_provider_contract.py"
NEEDED: Final = ("receiver", "handlers", "tests", "pyproject.toml", "schema.sql")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this project with the files of the page in it."""
    top = tmp_path_factory.mktemp("added")
    for name in NEEDED:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, top / name, ignore=shutil.ignore_patterns("__pycache__", "fixtures"))
        else:
            shutil.copy(TOP / name, top / name)
    files = FILE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(files) == 8
    for name, content in files:
        path = top / name
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return top


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RECEIVER"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_contract_suite_takes_it(tree: Path) -> None:
    """the whole contract suite runs over the new folder, and passes."""
    suite = (CONTRACT, "tests/test_provider_fuzz.py")
    done = run(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "acme", *suite)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 25


def test_the_contract_suite_would_notice(tree: Path) -> None:
    """a new provider that takes any signature is found out."""
    file = tree / "receiver" / "providers" / "acme.py"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace("check_hex(", "str("), encoding="utf-8")
    try:
        done = run(
            tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "acme", "tests/test_provider_contract.py"
        )
    finally:
        file.write_text(whole, encoding="utf-8")
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr
    assert "test_another_key_is_refused[acme]" in done.stdout


def test_it_is_explained(tree: Path) -> None:
    """the command line knows it at once, from its own file."""
    done = run(tree, "-m", "receiver", "sources", "show", "acme")
    assert done.returncode == 0, done.stderr
    for words in ("Acme Mail", "/webhooks/acme", "signing_secret", "repeated for 24 hours", "from documents"):
        assert words in done.stdout
