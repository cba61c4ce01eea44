"""What there is to know of a provider, from its own file: `receiver sources show`, and the pages in `docs/providers/`.

`python -m receiver.cli.provider_page DIRECTORY README` writes all pages and their table; `make docs` calls it.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from receiver.cli.prose import for_page
from receiver.cli.template import example
from receiver.contract import Basis, Provider
from receiver.providers import providers

LABEL: Final[Mapping[Basis, str]] = {"verified": "verified", "documents": "from documents", "recipe": "recipe"}
LABELS: Final[Mapping[Basis, str]] = {
    "verified": "the provider's own signatures, samples or source code, which a test repeats (verified)",
    "documents": "what the provider and others have written; no genuine delivery was at hand (from documents)",
    "recipe": "a mapping for the generic provider, made from documents (recipe)",
}
_COVERS: Final = {
    "body": "the whole body",
    "fields": "the fields that say what happened",
    "token": "a time and a token, not the events",
    "nothing": "who calls, not what is said",
}


def about(provider: type[Provider]) -> str:
    """The head of the provider's file: its documents, its codes, its identity."""
    return inspect.cleandoc(getattr(provider, "about", None) or sys.modules[provider.__module__].__doc__ or "")


def answers(provider: type[Provider]) -> Iterator[tuple[str, int]]:
    """What we answer in which case."""
    reply = provider.reply
    yield "stored, or known already", reply.stored
    yield "not proven", reply.refused
    yield "overloaded, try again", reply.again
    yield "too slow", reply.slow
    yield "too large", reply.too_large
    yield "bad encoding", reply.bad_encoding


def markdown(provider: type[Provider]) -> str:
    """The provider's page."""
    return "\n".join(_page(provider))


def _page(provider: type[Provider]) -> Iterator[str]:
    yield f"# {provider.title}"
    yield ""
    yield f'`provider = "{provider.name}"`. This rests on: {LABELS[provider.basis]}.'
    yield ""
    yield "## Set it up"
    yield ""
    yield from for_page(provider.simulation.setup, f"https://your-host/webhooks/{provider.name}")
    yield ""
    yield "```toml"
    yield from example(provider)
    yield "```"
    yield ""
    yield "What is left out has a default; [configuration](../configuration.md) has what every source may say. Try it:"
    yield f"`receiver simulate {provider.name} {provider.simulation.types[0]}`."
    yield ""
    yield "## Events"
    yield ""
    yield "| its word | our type |"
    yield "|---|---|"
    yield from (f"| `{word}` | `{type_}` |" for word, type_ in provider.words.items())
    yield ""
    yield "Any other word is kept as `unknown`, with all it came with; `types` in the source's settings gives it a"
    yield "meaning, and `receiver reprocess` applies that to what is stored."
    yield ""
    yield "## Answers"
    yield ""
    yield "| | code |"
    yield "|---|---|"
    yield from (f"| {what} | {code} |" for what, code in answers(provider))
    yield ""
    yield provider.reply.retries
    yield f"It waits {provider.reply.timeout:g} s for an answer. A body may have {provider.reply.max_body >> 10} KiB."
    yield ""
    yield "## What this rests on, and what the proof protects"
    yield ""
    yield f"The proof covers {_COVERS[provider.covers]}."
    yield ""
    yield from about(provider).splitlines()
    yield ""


def overview(directory: str = "") -> str:
    """The table of all providers; `directory`: where their pages are, from where the table stands."""
    return "\n".join(_overview(directory))


def _overview(directory: str) -> Iterator[str]:
    yield "| provider | `provider =` | support | the proof covers | not proven / try again |"
    yield "|---|---|---|---|---|"
    for one in sorted(providers().values(), key=lambda one: one.title.lower()):
        title, codes = f"[{one.title}]({directory}{one.name}.md)", f"{one.reply.refused} / {one.reply.again}"
        yield f"| {title} | `{one.name}` | {LABEL[one.basis]} | {_COVERS[one.covers]} | {codes} |"


def pages() -> Mapping[str, str]:
    """The files of `docs/providers/` and what they hold."""
    return {f"{name}.md": markdown(provider) for name, provider in providers().items()} | {"README.md": _index()}


def with_overview(readme: str) -> str:
    """The project's README with the table between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{_counts()}\n\n{overview('docs/providers/')}\n{END}{after}"


def write_pages(directory: Path, readme: Path) -> None:
    """Write every page, and the table into the README; pages of providers that are gone are removed."""
    wanted = pages()
    directory.mkdir(exist_ok=True)
    for path in directory.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (directory / name).write_text(text, encoding="utf-8")
    readme.write_text(with_overview(readme.read_text(encoding="utf-8")), encoding="utf-8")


def _index() -> str:
    return f"# All providers\n\n{_counts()}\n\n{_MEANING}\n\n{overview()}\n"


def _counts() -> str:
    found = Counter(one.basis for one in providers().values())
    kinds = ", ".join(f"{found[basis]} {label}" for basis, label in LABEL.items() if found[basis])
    return f"{len(providers())} in all: {kinds}."


_MEANING: Final = """\
*Verified*: a test repeats the provider's own signature, sample or source code. *From documents*: built from what the
provider and others have written. *Recipe*: a mapping in TOML for the generic provider. [Providers](../providers.md)
says what all have in common, [Add a provider](../add-a-provider.md) how another gets into this table."""
BEGIN: Final = "<!-- the providers, written by `make docs` -->"
END: Final = "<!-- the end of the providers -->"


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]), Path(sys.argv[2]))
