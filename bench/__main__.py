"""`python -m bench`: CPU time for each event as a ratio of the least that this machine needs, in interleaved pairs.

single    signed events one by one, 64 connections: a no-op ASGI application / service and Postgres
batch     batches of 500: a bare COPY of the same rows, client and Postgres / service and Postgres
dispatch  as batch, with three batch handlers that do nothing, until every cursor has passed / with its worker

The exit status is 1 when what is stored is not what was acknowledged, or something failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.measure import Bench, HalfLoad, Pair, Size
from bench.processes import Failed
from bench.report import results, show

RESULTS: Final = Path(__file__).with_name("results.json")
FULL: Final = Size(singles=6000, batches=40)
QUICK: Final = Size(singles=2000, batches=12)
_KINDS: Final = {"single": "single", "batch": "batch", "dispatch": "dispatch3"}
say: Final = Console(stderr=True)


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure; the results as they are written. Raises Failed."""
    standard = QUICK if options.quick else FULL
    size = Size(options.singles or standard.singles, options.batches or standard.batches)
    count = options.pairs or (3 if options.quick else 5)
    with ExitStack() as stack:
        bench = Bench(stack, directory, size)
        measures = {"single": bench.single, "batch": bench.batch, "dispatch3": bench.dispatch3}
        bench.warm_up()
        pairs: dict[str, list[Pair]] = {}
        half: HalfLoad | None = None
        for name in [_KINDS[options.only]] if options.only else list(measures):
            say.print(f"{name}: {count} pairs")
            pairs[name] = [measures[name]() for _ in range(count)]
            if name == "single":  # before there is a worker
                half = bench.half_load(statistics.median(pair.ours.per_second for pair in pairs[name]))
        bench.finish()
        return results(bench, pairs, half, size)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter pairs, under 45 seconds")
    parser.add_argument("--only", choices=list(_KINDS), help="one of the three")
    parser.add_argument("--pairs", type=int, help="pairs of floor and ours (5, quick 3)")
    parser.add_argument("--singles", type=int, help="events of one side of a pair of single")
    parser.add_argument("--batches", type=int, help="batches of one side of a pair of the others")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results are written")
    return parser.parse_args(arguments)


@contextmanager
def _temporary() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="receiver-bench-"))
    directory.chmod(0o711)  # as root, Postgres runs as another user, who must get to its data
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: everything is cleared away
    try:
        with _temporary() as directory:
            found = run(options, directory)
    except KeyboardInterrupt:
        say.print("stopped")
        return 130
    except Failed as failure:
        say.print(f"failed: {failure}", markup=False)
        return 1
    show(found)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if found["acknowledged"] == found["stored"] == found["distinct"] else 1


if __name__ == "__main__":
    sys.exit(main())
