"""What the long measurements have in common: a directory that goes afterwards, an orderly end, and the results."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.processes import Failed

say: Final = Console(stderr=True)


def longrun(name: str, out: Path, measure: Callable[[ExitStack, Path], dict[str, Any]]) -> dict[str, Any]:
    """What `measure(stack, directory)` finds, which is written to `out` too; the processes on the stack end before.

    Ends the program with status 130 after Ctrl-C, and with 1 after a failure: then nothing is written.
    """
    with tempfile.TemporaryDirectory(prefix=f"receiver-{name}-") as directory, ExitStack() as stack:
        Path(directory).chmod(0o711)  # as root, Postgres runs as another user, who must get to its data
        try:
            found = measure(stack, Path(directory))
        except KeyboardInterrupt:
            say.print("stopped")
            raise SystemExit(130) from None
        except Failed as failure:
            say.print(f"failed: {failure}", markup=False)
            raise SystemExit(1) from None
    out.write_text(json.dumps(found, indent=2) + "\n")
    say.print_json(json.dumps(found))
    return found
