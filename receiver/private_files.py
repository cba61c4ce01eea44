"""Files in the data directory that only their owner may read."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

MODE = 0o600


def write_json(path: Path, value: object) -> None:
    """Write whole or not at all; the file belongs to whoever the directory belongs to. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(unfinished, flags, MODE), "w", encoding="utf-8") as file:
            if os.geteuid() == 0:
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            json.dump(value, file, indent=2)
        unfinished.replace(path)
    except BaseException:  # Ctrl-C included: no half file stays behind
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None where there is no file, or nothing of use in it. Follows no link."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
