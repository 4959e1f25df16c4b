"""Token labels: geometric transforms move them with the image, and invalid files are errors."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from glmix.data.classification.datamodule import ImageData
from glmix.data.classification.source import ImageSource, TokenLabelConfig
from glmix.data.classification.token_labels import (
    TokenLabels,
    TokenLabelTransform,
    save_label_map,
    write_scene_label_maps,
)
from glmix.data.classification.transforms import TransformConfig
from glmix.data.core.sampling import seeded
from tests.data.conftest import CONFIG, COUNTS, resumes_exactly, take

PLAIN = TransformConfig(
    size=112, vflip=0.5, auto_augment=None, color_jitter=None, erasing=0, mean=(0, 0, 0), std=(1, 1, 1)
)


def painted(height: int, width: int) -> tuple[Image.Image, torch.Tensor]:
    """Return a smooth image, and the same image as shares of three classes: red, green, blue."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(2))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    picture = Image.fromarray((fine.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy())
    return picture, to_tensor(picture)


@pytest.mark.parametrize("extent", ["image", "square"])
def test_labels_move_with_the_image(tmp_path: Path, extent: str) -> None:
    picture, pixels = painted(180, 240)
    covered = pixels if extent == "image" else pixels[:, :, 30:210]
    save_label_map(tmp_path / "a" / "b.pt", torch.nn.functional.adaptive_avg_pool2d(covered, 36))
    labels = TokenLabels(tmp_path, 3, smoothing=0, extent=extent)  # type: ignore[arg-type]
    transform = TokenLabelTransform(PLAIN, labels)
    stored = labels.load("train/a/b.JPEG")
    flips = 0
    for seed in range(40):
        with seeded(seed):
            image, dense = transform(picture, stored)
        shown = torch.nn.functional.adaptive_avg_pool2d(image, 7).permute(1, 2, 0)
        inside = dense.sum(-1) > 0.95 * shown.sum(-1) if extent == "square" else torch.ones(7, 7, dtype=torch.bool)
        assert (dense - shown)[inside].abs().max() < 0.03, seed
        flips += bool(inside.any() and (dense.flip(1) - shown)[inside].abs().max() > 0.1)
    assert flips > 20  # the image is asymmetric, so the test detects a missing flip


def test_images_equal_those_of_the_transform_without_labels(tmp_path: Path) -> None:
    picture, pixels = painted(180, 240)
    save_label_map(tmp_path / "a" / "b.pt", torch.nn.functional.adaptive_avg_pool2d(pixels, 9))
    labels = TokenLabels(tmp_path, 3)
    config = TransformConfig(size=64)
    for seed in range(8):
        with seeded(seed):
            image, _ = TokenLabelTransform(config, labels)(picture, labels.load("a/b.jpg"))
        with seeded(seed):
            assert torch.equal(image, config.train()(picture))


def test_file_format_is_the_public_one(tmp_path: Path) -> None:
    shares = torch.rand(9, 4, 6)
    save_label_map(tmp_path / "n01" / "x_1.pt", shares)
    stored = torch.load(tmp_path / "n01" / "x_1.pt", weights_only=True)
    assert stored.shape == (2, 5, 4, 6)
    assert stored.dtype == torch.float16
    values, classes = shares.topk(5, dim=0)
    assert torch.equal(stored[1].long(), classes)
    assert torch.allclose(stored[0].float(), values, atol=1e-3)
    dense = TokenLabels(tmp_path, 9, grid=4, smoothing=0.1).dense(stored.float(), (0, 0, 1, 1))
    assert dense.shape == (4, 4, 9)
    assert torch.allclose(dense.min(), torch.tensor(0.1 / 9))


def test_logits_and_invalid_label_maps(tmp_path: Path) -> None:
    save_label_map(tmp_path / "a" / "b.pt", 7 * torch.rand(6, 3, 3))
    with pytest.raises(ValueError, match=r"not probabilities.* logits"):
        TokenLabels(tmp_path, 6).load("a/b.jpg")
    assert torch.allclose(TokenLabels(tmp_path, 6, scores="logits").load("a/b.jpg")[0].sum(0), torch.ones(3, 3))
    with pytest.raises(ValueError, match="but there are 2"):
        TokenLabels(tmp_path, 2, scores="logits").load("a/b.jpg")
    torch.save(torch.zeros(3), tmp_path / "a" / "c.pt")
    with pytest.raises(ValueError, match="not a label map"):
        TokenLabels(tmp_path, 6).load("a/c.jpg")


@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_data_module_with_label_maps(reader: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue("folder" if reader == "folder" else "tars")
    write_scene_label_maps(tmp_path, CONFIG, "train", COUNTS["train"])
    data = ImageData(
        ImageSource(str(root), reader),  # type: ignore[arg-type]
        TransformConfig(size=32, scale=(0.9, 1)),
        batch_size=8,
        num_workers=0,
        token_labels=TokenLabelConfig(str(tmp_path), smoothing=0),
    )
    data.setup("fit")
    images, targets, dense = take(data.train_dataloader(), 1)[0]
    assert images.shape == (8, 3, 32, 32)
    assert dense.shape == (8, 7, 7, 4)
    assert torch.equal(dense.sum((1, 2)).argmax(1), targets)
    resumes_exactly(data.train_dataloader, [2], total=5)
