"""Thresholds of several labels, class weights, soft labels and first convolutions for other numbers of channels."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glmix.data.classification.source import ImageSource
from glmix.errors import InputError
from glmix.tasks import Classification, MixConfig, load_weights
from glmix.tasks.classification.losses import class_weights, training_loss
from glmix.tasks.classification.threshold import F1AtThreshold, best_threshold, f1_scores

metrics = pytest.importorskip("sklearn.metrics")


def f1(probabilities: Tensor, targets: Tensor, threshold: float, average: str) -> float:
    predicted = (probabilities >= threshold).numpy()
    return float(metrics.f1_score(targets.numpy(), predicted, average=average, zero_division=0))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 25), st.integers(2, 4), st.integers(0, 10**6), st.booleans())
def test_the_threshold_has_the_highest_macro_f1(images: int, classes: int, seed: int, coarse: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(images, classes, generator=generator)
    if coarse:  # equal probabilities
        probabilities = (probabilities * 5).round() / 5
    targets = (torch.rand(images, classes, generator=generator) < 0.4).long()
    chosen = best_threshold(probabilities, targets)
    found = f1(probabilities, targets, chosen, "macro")
    if targets.any():
        best = max(f1(probabilities, targets, value, "macro") for value in probabilities.unique().tolist())
        assert found == pytest.approx(best, abs=1e-9)
    macro, micro = f1_scores(probabilities, targets, chosen)
    assert float(macro) == pytest.approx(found)
    assert float(micro) == pytest.approx(f1(probabilities, targets, chosen, "micro"))


def test_the_threshold_of_neighbouring_floats_and_of_no_labels() -> None:
    high = torch.tensor(0.5)
    low = torch.nextafter(high, torch.tensor(0.0))
    probabilities, targets = torch.stack([high, low]).unsqueeze(1), torch.tensor([[1], [0]])
    assert f1_scores(probabilities, targets, best_threshold(probabilities, targets))[0] == 1
    assert best_threshold(probabilities, torch.zeros_like(targets)) == 0.5


def test_f1_shares_its_predictions_with_average_precision() -> None:
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MultilabelAveragePrecision

    collection = MetricCollection({"mAP": MultilabelAveragePrecision(3), "f1": F1AtThreshold(3)})
    probabilities, targets = torch.rand(40, 3), torch.randint(2, (40, 3))
    for part in (slice(0, 25), slice(25, 40)):
        collection.update(probabilities[part], targets[part])
    found = collection.compute()
    assert len(collection.compute_groups) == 1
    assert found["threshold"] == pytest.approx(best_threshold(probabilities, targets))
    assert found["f1_macro"] == pytest.approx(f1(probabilities, targets, float(found["threshold"]), "macro"))
    expected = metrics.average_precision_score(targets.numpy(), probabilities.numpy(), average="macro")
    assert float(found["mAP"]) == pytest.approx(expected, abs=1e-5)


def multi_label_task(**options: Any) -> Classification:
    module = Classification(model="test_glnet", num_classes=3, multi_label=True, **options)
    module.configure_model()
    return module.eval()


def test_the_threshold_is_chosen_in_validation_and_kept_for_testing() -> None:
    module = multi_label_task()
    images, targets = torch.randn(12, 3, 32, 32), torch.randint(2, (12, 3)).float()
    module.validation_step((images, targets), 0)
    validated = module.compute_scores()[""]
    chosen = module.thresholds[""]
    probabilities = module.model(images).sigmoid()
    assert chosen == pytest.approx(best_threshold(probabilities, targets), abs=1e-6)
    assert float(validated["f1_macro"]) == pytest.approx(f1(probabilities, targets, chosen, "macro"))
    module._is_checked_or_tested = lambda: True  # type: ignore[method-assign]
    other = 1 - targets
    module.test_step((images, other), 0)
    tested = module.compute_scores()[""]
    assert float(tested["threshold"]) == pytest.approx(chosen)
    assert float(tested["f1_micro"]) == pytest.approx(f1(probabilities, other, chosen, "micro"))
    fixed = multi_label_task(threshold=0.3)
    fixed.validation_step((images, targets), 0)
    assert float(fixed.compute_scores()[""]["threshold"]) == pytest.approx(0.3)
    for options in ({"threshold": 1.0, "multi_label": True}, {"threshold": 0.5}):
        with pytest.raises(InputError, match="threshold must be above 0 and below 1, and needs multi_label"):
            Classification(**options)


def of_counts(*counts: float) -> SimpleNamespace:
    names = ["a", "b", "c"][: len(counts)]
    return SimpleNamespace(class_counts=np.array(counts), class_names=names, splits={"train": range(12)})


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat([0, 1, 2], [8, 3, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert np.allclose(class_weights("balanced", of_counts(8, 3, 1), 3, False), expected)
    assert class_weights("balanced", of_counts(8, 4, 0), 3, False).tolist() == [0.75, 1.5, 1.0]
    assert class_weights("balanced", of_counts(3, 6), 2, True).tolist() == [3.0, 1.0]
    assert class_weights({"b": 2.0, "a": 1.0}, of_counts(3, 6), 2, True).tolist() == [1.0, 2.0]
    for config, words in (
        ({"a": 1.0, "x": 1.0}, "'x', which the data do not"),
        ({"a": 1.0}, "no weight for the class 'b'"),
        ([1.0], "1 weights for 2 classes"),
        ([1.0, -1.0], "must be 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            class_weights(config, of_counts(3, 6), 2, False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs the numbers of images per class"):
        class_weights("balanced", SimpleNamespace(), 2, False)


def test_weighted_losses_are_those_of_torch_and_have_no_state() -> None:
    logits, weight = torch.randn(6, 3), torch.tensor([0.5, 1.0, 2.0])
    options: dict[str, Any] = {"soft_targets": False, "mixed": False, "smoothing": 0.1}
    loss = training_loss(multi_label=False, weight=weight, **options)
    classes = torch.randint(3, (6,))
    assert torch.equal(loss(logits, classes), torch.nn.CrossEntropyLoss(weight, label_smoothing=0.1)(logits, classes))
    assert not loss.state_dict()
    labels = torch.randint(2, (6, 3)).float()
    several = training_loss(multi_label=True, weight=weight, **options)
    assert torch.equal(several(logits, labels), torch.nn.BCEWithLogitsLoss(pos_weight=weight)(logits, labels))
    soft = labels.softmax(1)
    unweighted = training_loss(multi_label=False, weight=None, **{**options, "soft_targets": True, "smoothing": 0.0})
    assert torch.allclose(unweighted(logits, soft), -(soft * logits.log_softmax(1)).sum(1).mean())


def test_soft_labels_are_evaluated_with_their_highest_class() -> None:
    module = Classification(model="test_glnet", num_classes=3)
    module.configure_model()
    module.eval()
    images, scores = torch.randn(5, 3, 32, 32), torch.rand(5, 3).softmax(1)
    module.validation_step((images, scores), 0)
    found = module.compute_scores()[""]
    logits = module.model(images)
    assert found["top1"] == (logits.argmax(1) == scores.argmax(1)).float().mean()
    assert torch.allclose(found["loss"], torch.nn.functional.cross_entropy(logits, scores))
    mixed = Classification(mix=MixConfig())
    with pytest.raises(InputError, match="the data have scores: set mix to null"):
        mixed.check_data(SimpleNamespace(soft_targets=True))


@pytest.mark.parametrize("channels", [1, 5])
def test_the_first_convolution_is_adapted_to_the_channels(tmp_path, recwarn, channels: int) -> None:
    source = timm.create_model("test_glnet", num_classes=4)
    torch.save(source.state_dict(), tmp_path / "rgb.pth")
    model = timm.create_model("test_glnet", num_classes=4, in_chans=channels)
    assert load_weights(model, tmp_path / "rgb.pth") == []
    warned = [str(w.message) for w in recwarn if "repeated over the channels" in str(w.message)]
    assert len(warned) == (channels == 5)
    name = f"{source.pretrained_cfg['first_conv']}.weight"
    rgb, own = source.state_dict()[name], model.state_dict()[name]
    if channels == 1:
        assert torch.allclose(own, rgb.sum(1, keepdim=True))
    else:
        assert torch.allclose(own, rgb[:, [0, 1, 2, 0, 1]] * 3 / 5)
    others = {k: v for k, v in source.state_dict().items() if k != name}
    assert all(torch.equal(model.state_dict()[k], v) for k, v in others.items())


def test_channels_need_files_with_random_access() -> None:
    with pytest.raises(InputError, match="channels must be 1 or more and needs random access"):
        ImageSource("x", "wds", num_classes=2, channels=4)
