"""Atomic writes."""

import os

import pytest

from pyaegpu.training import atomic_write, remove_leftovers


def test_writes_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    assert atomic_write(path, b"old") == path
    atomic_write(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = atomic_write(tmp_path / "file", b"old")
    seen = []

    def fail(source, target):
        seen.append((source.parent, source.read_bytes()))
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        atomic_write(path, b"new")
    assert seen == [(tmp_path, b"new")]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_failure_in_the_middle_of_the_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = atomic_write(tmp_path / "file", b"old")

    def half(self, content):
        with self.open("wb") as file:
            file.write(content[:2])
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, b"newer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    kept = ["a.bin", ".a.bin", ".b.bin.7.tmp", "a.bin.7.tmp"]
    for name in [*kept, ".a.bin.7.tmp", ".a.bin.123456.tmp"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, ["a.bin", "c.bin"])
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
    remove_leftovers(tmp_path / "absent", ["a.bin"])
