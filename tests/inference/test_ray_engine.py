"""The Ray engine gives the rows of the local engine, also if its processes are killed."""

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch
from PIL import Image

import glmix
from glmix import inference
from glmix.errors import InputError, MissingExtraError
from glmix_cli import main

IMAGES = 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and images of several sizes, one of which cannot be read."""
    root = tmp_path_factory.mktemp("ray")
    torch.manual_seed(0)
    glmix.save_model(timm.create_model("test_glnet", num_classes=7), root / "model")
    (root / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        size = (40 + 8 * (number % 3), 60, 3)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(root / "images" / f"{number:03d}.png")
    (root / "images" / "010.png").write_bytes(b"not an image")
    return root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of three CPUs on this machine. Its processes use one thread, as this process does."""
    ray = pytest.importorskip("ray")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    paths = os.pathsep.join(path for path in sys.path if path)  # of this process, which pytest may have changed
    ray.init("local", num_cpus=3, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
    yield ray
    ray.shutdown()
    torch.set_num_threads(threads)


def command(root: Path, out: Path, *more: str) -> list[str]:
    files = ["--batch-size", "2", "--shard-size", "8", "-o", str(out)]
    return ["embed", f"{root}/images", "--model", f"local-dir:{root}/model", *files, *more]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_wrong_address_is_named(root, address):
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        pytest.skip("this process is connected to a cluster")
    output = inference.Embedding(glmix.load(root / "model").network)
    with pytest.raises(InputError, match=address):
        next(inference.RayEngine(address).run(output, inference.open_source(root / "images"), [range(2)]))


def test_without_ray_the_extra_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    output = inference.Embedding(glmix.load(root / "model").network)
    with pytest.raises(MissingExtraError, match=r"glmix\[scale\]"):
        next(inference.RayEngine().run(output, inference.open_source(root / "images"), [range(2)]))


def test_options_that_need_others(root, tmp_path, capsys):
    assert main(command(root, tmp_path / "out", "--ray-actors", "2")) == 2
    assert "--engine ray" in capsys.readouterr().err
    assert main(["predict", f"{root}/images", "--model", f"local-dir:{root}/model", "--engine", "ray"]) == 2
    assert "--output" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(command(root, tmp_path / "out", "--engine", "ray", "--ray-actors", "3-2"))
    assert "MIN-MAX" in capsys.readouterr().err


@pytest.mark.slow
def test_a_computation_that_cannot_start_is_refused(root, cluster):
    source = inference.open_source(root / "images")
    output = inference.Embedding(glmix.load(root / "model").network)
    with pytest.raises(InputError, match="3 CPUs, but 4"):
        next(inference.RayEngine(actors=3).run(output, source, [range(2)]))
    with pytest.raises(InputError, match="0 GPUs, but 1"):
        next(inference.RayEngine(actors=2, gpus=0.5).run(output, source, [range(2)]))
    with pytest.raises(InputError, match="3-2"):
        next(inference.RayEngine(actors=(3, 2)).run(output, source, [range(2)]))
    output.model.to("meta")
    with pytest.raises(InputError, match="on the CPU"):
        next(inference.RayEngine().run(output, source, [range(2)]))


@pytest.mark.slow
def test_both_engines_give_the_same_rows_and_continue_each_other(root, cluster, tmp_path):
    assert main(command(root, tmp_path / "local", "--workers", "0")) == 1
    expected = pyarrow.parquet.read_table(tmp_path / "local").to_pylist()
    assert main(command(root, tmp_path / "ray", "--workers", "0")) == 1
    for shard in (0, 3):
        (tmp_path / "ray" / f"part-{shard:05d}.parquet").unlink()
    kept = (tmp_path / "ray" / "part-00001.parquet").stat()
    assert main(command(root, tmp_path / "ray", "--engine", "ray", "--ray-actors", "2")) == 1
    assert pyarrow.parquet.read_table(tmp_path / "ray").to_pylist() == expected
    assert (tmp_path / "ray" / "part-00001.parquet").stat() == kept
    assert main(command(root, tmp_path / "ray", "--engine", "ray", "--ray-address", "127.0.0.1:1")) == 1  # no work left


@pytest.mark.slow
def test_killed_processes_lose_nothing(root, cluster, tmp_path):
    """Kill the process of an actor and one that decodes after the second batch."""
    folder = str(tmp_path)

    class Named(inference.Embedding):  # pickled by value, because it is local
        @property
        def read(self) -> Any:
            read = self._read

            def named(file: Any) -> Any:
                Path(folder, f"decoder-{os.getpid()}").touch()
                return read(file)

            return named

        @read.setter
        def read(self, value: Any) -> None:
            self._read = value

        def compute(self, inputs: torch.Tensor) -> list[dict[str, Any]]:
            Path(folder, f"actor-{os.getpid()}").touch()
            return super().compute(inputs)

    source = inference.open_source(root / "images")
    output = Named(glmix.load(root / "model").network)
    ranges = [range(IMAGES)] * 6
    batches = inference.RayEngine(actors=2).run(output, source, ranges, batch_size=2)
    found = list(itertools.islice(batches, 2))
    first = set(tmp_path.iterdir())
    for kind in ("actor", "decoder"):
        process = next(path for path in first if path.name.startswith(kind))
        os.kill(int(process.name.partition("-")[2]), signal.SIGKILL)
    found += batches
    started = {path.name.partition("-")[0] for path in set(tmp_path.iterdir()) - first}
    assert started == {"actor", "decoder"}
    rows = list(itertools.chain(*inference.run(output, source, batch_size=2, num_workers=0)))
    assert sorted(positions.start for positions, _ in found) == sorted([*range(0, IMAGES, 2)] * 6)
    for positions, computed in found:
        for index, row in zip(positions, computed, strict=True):
            assert row["key"] == rows[index]["key"]
            assert row["error"] == rows[index]["error"]
            np.testing.assert_array_equal(row.get("embedding"), rows[index].get("embedding"))
