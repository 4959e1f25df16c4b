"""Atomic file writes."""

import os
from pathlib import Path

import pytest

from glmix.files import atomic_write, check_writable, publish, temporary_path, write_atomically
from tests.processes import Command


@pytest.mark.parametrize("flush", [False, True])
def test_an_error_while_writing_keeps_the_old_file_and_no_temporary_file(tmp_path: Path, flush: bool) -> None:
    target = tmp_path / "made" / "file.txt"
    with atomic_write(target, flush=flush) as part:
        part.write_text("first")
        assert not target.exists()

    def fail() -> None:
        with atomic_write(target, flush=flush) as part:
            part.write_text("sec")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_text_and_bytes_are_written_identically(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "Käse\n")
    write_atomically(tmp_path / "b", "Käse\n".encode())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_concurrent_writers_of_one_file_leave_one_complete_version(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from glmix.files import write_atomically
for _ in range(200):
    write_atomically(Path("file"), {letter!r} * 100_000)
"""
    target = tmp_path / "file"
    writers = [Command(cwd=tmp_path, code=code.replace("{letter!r}", repr(letter))) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if target.exists():
            seen.add(target.read_text())
    assert all(writer.returncode == 0 for writer in writers)
    assert seen <= {"a" * 100_000, "b" * 100_000}
    assert os.listdir(tmp_path) == ["file"]


def test_publish_replaces_all_files_or_none(tmp_path: Path) -> None:
    sources = [tmp_path / "weights", tmp_path / "graph"]
    for source in sources:
        source.write_text(source.name)
    out = tmp_path / "out"
    out.mkdir()
    targets = [out / source.name for source in sources]
    publish(list(zip(sources, targets, strict=True)))
    assert [target.read_text() for target in targets] == ["weights", "graph"]

    sources[1].unlink()
    sources[0].write_text("others")
    with pytest.raises(FileNotFoundError, match="graph could not be written"):
        publish(list(zip(sources, targets, strict=True)))
    assert [target.read_text() for target in targets] == ["weights", "graph"]
    assert sorted(os.listdir(out)) == ["graph", "weights"]


def test_check_writable_reports_targets_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError, match="there already exists"):
        check_writable([tmp_path / "there"], overwrite=False)
    check_writable([tmp_path / "there"], overwrite=True)
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        check_writable([tmp_path], overwrite=True)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        check_writable([tmp_path / "there" / "file"], overwrite=False)
    assert not temporary_path(tmp_path / "there").exists()


@pytest.mark.parametrize("letter", ["x", "\N{CAT FACE}"])
def test_a_name_of_255_bytes_can_be_written(tmp_path: Path, letter: str) -> None:
    size = len(letter.encode())
    name = letter * (255 // size) + "y" * (255 % size)
    write_atomically(tmp_path / name, "content")
    check_writable([tmp_path / name], overwrite=True)
    publish([(tmp_path / name, tmp_path / name.replace(letter, "z" * size))])
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["content", "content"]
    assert temporary_path(tmp_path / "a") != temporary_path(tmp_path / "b")
