"""The rooms of the house import one way."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMON = {"_version"}
# What each room of pyaegpu may import of the others. Neither `kernels` nor `models` know of backends.
ALLOWED = {
    "_version": set(),
    "_checks": set(),
    "_extension": set(),
    "reference": set(),
    "data": set(),
    "measured": set(),
    "backends": {"_extension", "measured"},
    "ops": {"_extension", "backends", "kernels", "measured", "reference"},
    "functional": {"_checks", "backends", "ops", "reference"},
    "nn": {"functional"},
    "models": {"nn", "functional"},
    "training": {"data", "models", "nn", "functional"},
    "recipes": {"training", "data", "models", "nn", "functional"},
    "dropin": {"nn", "functional", "backends"},
    "info": {"_extension", "backends"},
    "cli": {"recipes", "training", "data", "models", "nn", "functional", "backends", "info"},
    "__main__": {"cli"},
}
THE_ENTRANCE = "__init__"


def imported_modules(path: Path, package: list[str]) -> Iterator[str]:
    """Absolute names of what a file imports, anywhere in it; `package` is where the file lies."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            # `from pyaegpu import nn` imports a room, `from pyaegpu.nn import X` its content.
            yield from (f"{module}.{alias.name}" if module == "pyaegpu" else module for alias in node.names)


def room_of(relative: Path) -> str:
    return relative.parts[0].removesuffix(".py")


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "kernels" not in path.relative_to(folder).parts[:1])


def violations(root: Path) -> list[str]:
    found = []
    for path in modules(root / "pyaegpu"):
        relative = path.relative_to(root / "pyaegpu")
        room = room_of(relative)
        if room == THE_ENTRANCE:
            continue
        if room not in ALLOWED:
            found.append(f"pyaegpu/{relative}: the room {room!r} has no row in ALLOWED")
            continue
        for name in imported_modules(path, ["pyaegpu", *relative.parts[:-1]]):
            top, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if top in ("kernels", "benchmarks", "tests"):
                found.append(f"pyaegpu/{relative} imports {name}")
            elif top == "pyaegpu" and other not in {room} | ALLOWED[room] | COMMON:
                found.append(f"pyaegpu/{relative} imports {name}: {room} may not use {other or 'pyaegpu itself'}")
    return found


def test_rooms_import_one_way(root):
    assert violations(root) == []


def test_the_allowed_imports_form_no_cycle():
    def reaches(room: str) -> set[str]:
        return ALLOWED.get(room, set()).union(*(reaches(other) for other in ALLOWED.get(room, set())))

    assert [room for room in ALLOWED if room in reaches(room)] == []


def test_kernels_import_torch_and_triton_only(root):
    allowed = {"torch", "triton", "kernels", *sys.stdlib_module_names}
    for path in (root / "kernels").rglob("*.py"):
        names = imported_modules(path, ["kernels", *path.relative_to(root / "kernels").parts[:-1]])
        strangers = {name for name in names if name.split(".")[0] not in allowed}
        # Installed they are pyaegpu.kernels: an absolute import of `kernels` would not be found there.
        text = path.read_text(encoding="utf-8")
        assert not strangers and "from kernels" not in text and "import kernels" not in text, (
            path,
            strangers,
        )


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("models/vae.py", "from pyaegpu import backends"),
        ("reference/vae_loss.py", "from ..ops import library"),
        ("data/idx.py", "import pyaegpu.models.vae"),
        ("ops/vae_loss.py", "import kernels.vae_loss"),
        ("nn.py", "def late():\n    from pyaegpu.training import fit"),
    ],
)
def test_an_upward_import_is_seen(tmp_path, file, line):
    path = tmp_path / "pyaegpu" / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(violations(tmp_path)) == 1
