"""Files that are either whole or absent."""

import os
from collections.abc import Iterable
from pathlib import Path


def atomic_write(path: str | Path, content: bytes) -> Path:
    """Writes `content` under a temporary name in the same folder, then renames it to `path`.

    A failure in between leaves the file that was there before; the folder is made where missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Removes what a killed `atomic_write` of the files `names` left in `folder`."""
    for name in names:
        for temporary in folder.glob(f".{name}.*.tmp"):
            temporary.unlink(missing_ok=True)
