"""Hostile inputs, killed workers and killed runs: each image is named, and nothing blocks a run or is lost."""

import io
import multiprocessing
import os
import random
import signal
import struct
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch
from PIL import Image

import glmix
from glmix.inference import open_source
from glmix_cli import main

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork, FIFOs and names that Windows does not have")


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """Return a PNG whose header claims a size, with further chunks and almost no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
TURNED = Image.Exif()
TURNED[0x0112] = 6

GOOD = {
    "cmyk.jpg": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)),
    "palette.gif": encoded(PHOTO.convert("P"), "GIF"),
    "animated.gif": encoded(PHOTO.convert("P"), "GIF", save_all=True, append_images=[PHOTO.rotate(90).convert("P")]),
    "turned.jpg": encoded(PHOTO, "JPEG", exif=TURNED),
    "transparent.png": encoded(PHOTO.convert("RGBA")),
    "png_content.jpg": encoded(PHOTO),
    "two\nlines.png": encoded(PHOTO),
    os.fsdecode(b"caf\xe9.png"): encoded(PHOTO),
}
BAD = {
    "torn.jpg": encoded(PHOTO, "JPEG")[:400],
    "empty.png": b"",
    "text.jpg": b"this is text",
    "pixels.png": png(20_000, 20_000),
    "header.png": png(40, 30, (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 25), 1))),
    "strange.blp": b"BLP2" + struct.pack("<iBBBB", 99, 1, 0, 0, 0) + bytes(1200),  # RuntimeError of Pillow
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("hostile") / "model"
    torch.manual_seed(0)
    glmix.save_model(timm.create_model("test_glnet", num_classes=3), folder)
    return f"local-dir:{folder}"


def table(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(folder).to_pylist()
    return rows


def test_every_hostile_file_is_a_row_or_is_named(model, tmp_path, capsys):
    folder = tmp_path / "images"
    (folder / "folder.jpg").mkdir(parents=True)
    for name, content in (GOOD | BAD).items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to(folder / "absent.png")
    (folder / "cycle.png").symlink_to(folder / "cycle.png")
    forbidden = folder / "forbidden.png"
    forbidden.write_bytes(GOOD["deep.png"])
    forbidden.chmod(0)
    (folder / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "list.txt").write_text(f"{folder}/deep.png\n{folder}/nowhere.png\n{folder}/folder.jpg\n")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for name in ("/etc/absolute.png", "../../parent.png", "deep.png", "empty.png", "last.png"):
            member = tarfile.TarInfo(name)
            member.size = len((GOOD | BAD).get(name, GOOD["deep.png"]))
            archive.addfile(member, io.BytesIO((GOOD | BAD).get(name, GOOD["deep.png"])))
    whole = (tmp_path / "photos.tar").read_bytes()
    with tarfile.open(tmp_path / "photos.tar") as archive:
        end = archive.getmember("last.png").offset_data + 100
    (tmp_path / "photos.tar").write_bytes(whole[:end])
    out = tmp_path / "out"
    inputs = [f"{folder}", f"{tmp_path}/list.txt", f"{tmp_path}/photos.tar"]
    arguments = ["--model", model, "-o", str(out), "--workers", "1", "--batch-size", "4", "--max-pixels", "1000000"]
    assert main(["predict", *inputs, *arguments]) == 1
    printed = capsys.readouterr().err
    rows = {row["key"].removeprefix(f"{folder}/").removeprefix(f"{tmp_path}/"): row for row in table(out)}
    good = {name.encode("utf-8", "backslashreplace").decode() for name in GOOD}
    good |= {f"photos.tar/{name}" for name in ("/etc/absolute.png", "../../parent.png", "deep.png")}
    bad = {*BAD, "pipe.png", "dangling.png", "cycle.png", "nowhere.png", "folder.jpg"}
    bad |= {"photos.tar/empty.png", "photos.tar/last.png"}
    (good if os.geteuid() == 0 else bad).add("forbidden.png")  # root may read every file
    assert {name for name, row in rows.items() if row["error"]} == bad
    assert {name for name, row in rows.items() if row["probabilities"]} == good
    assert "20000 x 20000" in rows["pixels.png"]["error"]
    assert "regular file" in rows["pipe.png"]["error"]
    assert (rows["turned.jpg"]["width"], rows["turned.jpg"]["height"]) == (30, 40)
    assert all(name in printed for name in [*bad, "photo.heic", "damaged after last.png"])
    assert not Path("/etc/absolute.png").exists()


@pytest.mark.parametrize("damage", ["header", "end"])
def test_images_before_the_damage_of_a_tar_file_are_found(tmp_path, damage):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("1.png", "2.png"):
            member = tarfile.TarInfo(name)
            member.size = len(GOOD["deep.png"])
            archive.addfile(member, io.BytesIO(GOOD["deep.png"]))
    assert not open_source(path).problems
    content = path.read_bytes()
    second = content.index(b"2.png")
    path.write_bytes(content[:second] + (b"\xff" * 512 + content[second + 512 :] if damage == "header" else b""))
    source = open_source(path)
    assert [source.key(index) for index in range(len(source))] == [f"{path}/1.png"]
    assert [problem["file"] for problem in source.problems] == [str(path)]


def start(arguments: Sequence[str]) -> multiprocessing.Process:
    """Start a command in a forked process with a process group of its own."""

    def run() -> None:
        os.setpgid(0, 0)
        torch.set_num_threads(1)  # the thread pool of this process does not exist in a forked one
        sys.exit(main(arguments))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def members(group: int | None) -> list[int]:
    """Return the processes of a process group that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended
            continue
        if int(of) == group and state != "Z":
            found.append(int(entry.parent.name))
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(120):
        (folder / f"{number:03d}.png").write_bytes(GOOD["transparent.png"])
    (folder / "050.png").write_bytes(BAD["torn.jpg"])
    return folder


def command(many: Path, model: str, out: Path) -> list[str]:
    options = ["--shard-size", "6", "--batch-size", "3", "--workers", "2"]
    return ["predict", str(many), "--model", model, "-o", str(out), *options]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_killed_worker_ends_the_run_with_one_sentence_and_the_next_run_continues(model, many, tmp_path, capfd):
    """The system kills worker processes when the memory is exhausted."""
    out = tmp_path / "out"
    process = start(command(many, model, out))
    wait_until(lambda: list(out.glob("part-*")))
    workers = [member for member in members(process.pid) if member != process.pid]
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    process.join(60)
    assert process.exitcode == 2
    printed = capfd.readouterr().err
    (sentence,) = (line for line in printed.splitlines() if line.startswith("glmix predict: "))
    assert "worker" in sentence
    assert "memory" in sentence
    assert 0 < len(list(out.glob("part-*"))) < 20
    assert main(command(many, model, out)) == 1
    assert len(table(out)) == 120


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_twenty_killed_runs_give_the_table_of_one(model, many, tmp_path):
    """Kill the command twenty times at random moments. No worker survives, and no temporary file is visible."""
    assert main(command(many, model, tmp_path / "one")) == 1
    expected = table(tmp_path / "one")
    chance, groups, folders, kills = random.Random(0), [], 0, 0
    while kills < 20:
        out, folders = tmp_path / f"killed-{folders}", folders + 1
        while len(list(out.glob("part-*"))) < 20 and kills < 20:
            process = start(command(many, model, out))
            groups.append(process.pid)
            time.sleep(chance.uniform(0, 1.2))
            process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            visible = [path.name for path in out.glob("[!.]*")] if out.exists() else []
            assert all(name == "_manifest.json" or name.endswith(".parquet") for name in visible)
            for file in out.glob("part-*"):
                assert pyarrow.parquet.read_table(file).num_rows == 6
        assert main(command(many, model, out)) == 1
        assert table(out) == expected
        assert not list(out.glob(".*"))
    wait_until(lambda: not any(map(members, groups)))  # torch's workers look for their parent every five seconds
