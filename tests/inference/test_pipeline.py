"""The inference pipeline: results equal those of the model, in any number of workers, batches, runs and processes."""

import itertools
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import timm
import torch
from PIL import Image

import glmix
from glmix import inference
from glmix.data.classification.views import model_input
from glmix.errors import InputError
from glmix_cli import main
from glmix_cli.inputs import check_device

IMAGES = 37

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute with one thread as the forked processes do: sums in another order have other last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and images of several sizes, two of which cannot be read."""
    root = tmp_path_factory.mktemp("inference")
    torch.manual_seed(0)
    glmix.save_model(timm.create_model("test_glnet", num_classes=7), root / "model")
    (root / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        size = (40 + 8 * (number % 3), 60, 3)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(root / "images" / f"{number:03d}.png")
    (root / "images" / "010.png").write_bytes(b"not an image")
    (root / "images" / "020.png").write_bytes((root / "images" / "021.png").read_bytes()[:300])
    return root


@pytest.fixture(scope="module")
def model(root: Path) -> torch.nn.Module:
    return glmix.load(root / "model").network


def command(root: Path, name: str, out: Path, *more: str) -> list[str]:
    return [
        name,
        f"{root}/images",
        "--model",
        f"local-dir:{root}/model",
        "-o",
        str(out),
        "--batch-size",
        "4",
        "--workers",
        "0",
        *more,
    ]


def child(
    arguments: list[str], environment: dict[str, str] | None = None, file_size: int | None = None
) -> multiprocessing.Process:
    """Start a command in a forked process, which need not import everything again."""

    def run() -> None:
        torch.set_num_threads(1)  # the thread pool of this process does not exist in a forked one
        os.environ.update(environment or {})
        if file_size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        sys.exit(main(arguments))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def table(folder: Path) -> list[dict]:
    return pyarrow.parquet.read_table(folder).to_pylist()


@pytest.mark.parametrize("view", ["crop", "whole"])
def test_predictions_equal_those_of_the_model(root, model, view):
    source = inference.open_source(root / "images")
    output = inference.Predictions(model, topk=3, view=view)
    rows = list(itertools.chain(*inference.run(output, source, batch_size=5, num_workers=2)))
    assert [Path(row["key"]).name for row in rows] == [f"{number:03d}.png" for number in range(IMAGES)]
    assert [number for number, row in enumerate(rows) if row["error"]] == [10, 20]
    assert all(name in row["error"] for name, row in (("010.png", rows[10]), ("020.png", rows[20])))
    for row in (rows[0], rows[1], rows[36]):
        image = Image.open(row["key"])
        size = None if view == "crop" else (row["input_height"], row["input_width"])
        with torch.inference_mode():
            expected = model(model_input(image, model, size)[None]).softmax(1)[0]
        assert (row["width"], row["height"]) == image.size
        assert row["classes"] == expected.topk(3).indices.tolist()
        assert row["probabilities"] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-6)


def test_embeddings_equal_those_of_timm(root, model):
    source = inference.open_source(root / "images" / "000.png")
    with torch.inference_mode():
        inputs = model_input(Image.open(root / "images" / "000.png"), model)[None]
        expected = model.forward_head(model.forward_features(inputs), pre_logits=True)[0]
        maps = model.forward_intermediates(inputs, intermediates_only=True)
    ((row,),) = inference.run(inference.Embedding(model), source)
    np.testing.assert_allclose(row["embedding"], expected, atol=1e-6)
    ((row,),) = inference.run(inference.Embedding(model, stages=[1, 3], normalize=True, dtype="float16"), source)
    assert row["embedding_3"].dtype == np.float16
    mean = maps[3][0].mean((1, 2))
    np.testing.assert_allclose(row["embedding_3"], mean / mean.norm(), atol=1e-3)
    assert np.linalg.norm(row["embedding_1"].astype(float)) == pytest.approx(1, abs=1e-3)


def test_any_model_of_timm_has_embeddings(root):
    output = inference.Embedding(timm.create_model("resnet10t", num_classes=3))
    ((row,),) = inference.run(output, inference.open_source(root / "images" / "000.png"))
    assert row["embedding"].shape == (512,)
    assert output.columns == {"embedding": "float32[512]"}


def test_the_command_embeds_with_weights_of_any_model_of_timm(root, tmp_path):
    model = timm.create_model("resnet10t", num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    image = root / "images" / "000.png"
    weights = ["--model", "resnet10t", "--checkpoint", str(tmp_path / "weights.pth")]
    assert main(["embed", str(image), *weights, "-o", f"{tmp_path}/out"]) == 0
    ((row,),) = inference.run(inference.Embedding(model), inference.open_source(image))
    np.testing.assert_allclose(table(tmp_path / "out")[0]["embedding"], row["embedding"], atol=1e-4)


@pytest.mark.parametrize("stages", [[4], [-1]])
def test_absent_stages_are_refused(model, stages):
    with pytest.raises(InputError, match="0 to 3"):
        inference.Embedding(model, stages=stages)


def test_every_division_of_the_work_gives_the_same_rows(root, tmp_path):
    whole = command(root, "predict", tmp_path / "whole", "--shard-size", "8")
    assert main(whole) == 1
    expected = table(tmp_path / "whole")
    assert len(expected) == IMAGES
    assert len(list((tmp_path / "whole").glob("part-*.parquet"))) == 5
    for share in ("0/2", "1/2"):
        parts = command(root, "predict", tmp_path / "parts", "--shard-size", "8", "--workers", "1", "--share", share)
        assert main(parts) == 1
    assert table(tmp_path / "parts") == expected


def test_processes_of_torchrun_divide_the_work(root, tmp_path):
    arguments = command(root, "embed", tmp_path / "ranks", "--shard-size", "8")
    ranks = [child(arguments, {"RANK": str(rank), "WORLD_SIZE": "2"}) for rank in range(2)]
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [1, 1]
    assert main(command(root, "embed", tmp_path / "one", "--shard-size", "8")) == 1
    assert table(tmp_path / "ranks") == table(tmp_path / "one")


@pytest.mark.parametrize(("rank", "gpu"), [("1", 1), ("2", 0)])
def test_processes_of_torchrun_use_one_gpu_each(monkeypatch, rank, gpu):
    selected = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", selected.append)
    monkeypatch.setattr("torch.empty", lambda *size, device: None)
    monkeypatch.setenv("LOCAL_RANK", rank)
    for device in ("cuda:1", "cpu", "cuda"):
        check_device(device)
    assert selected == [gpu]


def test_a_killed_run_continues(root, tmp_path):
    """Kill the command at random moments until it ends; the result equals that of one run."""
    out = tmp_path / "killed"
    arguments = command(root, "embed", out, "--shard-size", "2", "--workers", "1")
    chance, kills = random.Random(0), 0
    while len(list(out.glob("part-*"))) < -(-IMAGES // 2):
        before = len(list(out.glob("part-*")))
        process = child(arguments)
        while process.is_alive():
            if len(list(out.glob("part-*"))) > before + 2:
                time.sleep(chance.random() / 50)
                process.kill()
            time.sleep(0.002)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 1
    assert main(arguments) == 1
    assert main(command(root, "embed", tmp_path / "one", "--shard-size", "2")) == 1
    assert table(out) == table(tmp_path / "one")
    assert not list(out.glob(".*"))


def test_another_computation_in_the_same_folder_is_refused(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command(root, "predict", out)) == 1
    before = table(out)
    assert main(command(root, "predict", out, "--topk", "2")) == 2
    message = capsys.readouterr().err
    assert all(fact in message for fact in (str(out), "topk", "5", "2"))
    assert table(out) == before
    assert main(command(root, "predict", out, "--topk", "2", "--overwrite")) == 1
    assert len(table(out)[0]["classes"]) == 2
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    assert main(command(root, "predict", tmp_path / "notes")) == 2


def test_a_finished_run_computes_nothing(root, tmp_path, capsys):
    assert main(command(root, "predict", tmp_path / "out", "--json")) == 1
    first = json.loads(capsys.readouterr().out)
    assert (first["images"], first["errors"], first["computed"]) == (IMAGES, 2, IMAGES)
    assert main(command(root, "predict", tmp_path / "out", "--json")) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["computed"] == 0
    assert "010.png" in captured.err  # errors of earlier runs are listed


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_formats_have_the_same_rows(root, tmp_path, format):
    assert main(command(root, "predict", tmp_path / "parquet", "--topk", "2")) == 1
    assert main(command(root, "predict", tmp_path / format, "--topk", "2", "--format", format)) == 1
    expected = table(tmp_path / "parquet")
    text = (tmp_path / format / f"part-00000.{format}").read_text()
    if format == "jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
        assert [row["classes"] for row in rows] == [row["classes"] for row in expected]
    else:
        header, *lines = text.splitlines()
        assert header.startswith("key,width,height,error,")
        assert header.endswith("classes_1,classes_2,labels_1,labels_2,probabilities_1,probabilities_2")
        assert len(lines) == IMAGES
    assert main(command(root, "embed", tmp_path / "vectors", "--format", "csv")) == 2


def test_a_full_disk_loses_nothing(root, tmp_path, capfd):
    """Write under a limit on the size of files, then without it."""
    out = tmp_path / "out"
    arguments = command(root, "embed", out, "--shard-size", "20")
    process = child(arguments, file_size=3000)
    process.join(120)
    assert process.exitcode == 2
    assert "Traceback" not in capfd.readouterr().err
    assert not list(out.glob("*part*"))
    assert main(arguments) == 1
    assert len(table(out)) == IMAGES


def test_cost_of_a_million_images():
    assert inference.Summary(10, 0, 10, 1.0, 1e6 / 3600).cost_per_million(3.5) == pytest.approx(3.5)


def test_exhausted_memory_divides_a_batch(root, model):
    """A forward pass of more than two images fails, so that smaller ones are tried; one image alone has an error."""
    output = inference.Predictions(model)
    compute = output.compute

    def limited(inputs: torch.Tensor) -> list[dict]:
        if len(inputs) > 2 or inputs.shape[-1] > 200:
            raise torch.OutOfMemoryError("too much")
        return compute(inputs)

    output.compute = limited
    rows = list(itertools.chain(*inference.run(output, inference.open_source(root / "images"), batch_size=8)))
    assert sum(row["error"] is None for row in rows) == IMAGES - 2
    assert rows[3]["probabilities"] == pytest.approx(
        compute(torch.stack([output.read(Path(rows[3]["key"]))[0]]))[0]["probabilities"], abs=1e-6
    )
