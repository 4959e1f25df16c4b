"""Search, k-NN, duplicates and linear probes equal brute force and scikit-learn."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

import glmix
from glmix import inference
from glmix.errors import InputError, MissingExtraError
from glmix.inference import search as module
from glmix_cli import main


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 500)
    monkeypatch.setattr(module, "ROWS", 64)


@pytest.fixture(scope="module")
def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Vectors around three centres, and their classes."""
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 3, 200)
    return generator.normal(size=(3, 16))[classes] + generator.normal(size=(200, 16)), classes


def test_search_equals_brute_force(clusters):
    vectors, _ = clusters
    scores, found = inference.nearest(vectors[:30], vectors[30:], 7)
    expected = cosine_similarity(vectors[:30], vectors[30:])
    np.testing.assert_array_equal(found, np.argsort(-expected, 1)[:, :7])
    np.testing.assert_allclose(scores, -np.sort(-expected, 1)[:, :7], atol=1e-6)
    assert inference.nearest(vectors[:2], vectors[:3], 10)[1].shape == (2, 3)
    with pytest.raises(InputError, match=r"16.*8"):
        inference.nearest(vectors, vectors[:, :8])


@pytest.mark.parametrize(("index", "package"), [("faiss", "faiss"), ("hnsw", "hnswlib")])
def test_approximate_search_finds_most_of_the_nearest(index, package, monkeypatch):
    pytest.importorskip(package)
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 16))[generator.integers(0, 40, 2000)] + generator.normal(size=(2000, 16))
    scores, found = inference.nearest(vectors[:100], vectors.astype(np.float16), 10, index=index)
    expected_scores, expected = inference.nearest(vectors[:100], vectors, 10)
    recall = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(found, expected, strict=True)])
    assert recall > (0.9 if index == "faiss" else 0.97)  # 0.97 and 1.00 were measured
    np.testing.assert_allclose(scores[:, 0], expected_scores[:, 0], atol=2e-3)  # each query finds itself
    assert inference.nearest(vectors[:2], vectors[:3], 10, index=index)[1].shape == (2, 3)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match="pip install"):
        inference.nearest(vectors, vectors, index=index)


def test_an_unknown_index_is_refused(clusters):
    with pytest.raises(InputError, match=r"exact, faiss, hnsw.*annoy"):
        inference.nearest(clusters[0], clusters[0], index="annoy")


def test_few_shot_probes_differ_by_seed(clusters):
    vectors, classes = clusters
    split = (vectors[:150], classes[:150], vectors[150:], classes[150:])
    found = inference.few_shot_probes(*split, 2, repeats=4, seed=3)
    assert len(set(found)) > 1
    assert found[1:] == inference.few_shot_probes(*split, 2, repeats=3, seed=4)
    everything = inference.few_shot_probes(*split, 1000, repeats=1)
    assert everything == [inference.linear_probe(*split).accuracy]


def test_knn_equals_a_weighted_vote(clusters):
    vectors, classes = clusters
    similar = cosine_similarity(vectors[150:], vectors[:150])
    expected = []
    for row in similar:
        top = np.argsort(-row)[:20]
        expected.append(np.bincount(classes[top], np.exp(row[top] / 0.07), minlength=3).argmax())
    np.testing.assert_array_equal(inference.knn_classify(vectors[:150], classes[:150], vectors[150:], 20), expected)


def test_linear_probe_equals_scikit_learn(clusters):
    vectors, classes = clusters
    probe = inference.linear_probe(vectors[:150], classes[:150], vectors[150:], classes[150:])
    assert probe.sweep[probe.regularization] == max(probe.sweep.values())
    scaler = StandardScaler().fit(vectors[:150])
    model = LogisticRegression(C=probe.regularization, max_iter=2000)
    model.fit(scaler.transform(vectors[:150]), classes[:150])
    assert probe.accuracy == model.score(scaler.transform(vectors[150:]), classes[150:])
    few = inference.linear_probe(vectors[:8], classes[:8], vectors[150:], classes[150:])
    assert (few.sweep, few.regularization) == ({}, 1.0)
    given = inference.linear_probe(
        vectors[:100],
        classes[:100],
        vectors[150:],
        classes[150:],
        validation=(vectors[100:150], classes[100:150]),
        regularizations=(1e-9, 1.0),
    )
    scaler = StandardScaler().fit(vectors[:100])
    model = LogisticRegression(C=1.0, max_iter=2000).fit(scaler.transform(vectors[:100]), classes[:100])
    assert given.sweep[1.0] == model.score(scaler.transform(vectors[100:150]), classes[100:150])
    assert given.accuracy == model.score(scaler.transform(vectors[150:]), classes[150:])
    assert given.regularization == 1.0


def test_near_duplicates_are_connected_components(clusters):
    vectors, _ = clusters
    copies = np.concatenate([vectors[:40], vectors[:10] * 2, vectors[:3] + 1e-4])
    groups = inference.near_duplicates(copies, 0.999)
    assert sorted(groups) == [[i, 40 + i, 50 + i] if i < 3 else [i, 40 + i] for i in range(10)]
    assert [len(group) for group in groups] == [3] * 3 + [2] * 7
    assert inference.near_duplicates(copies[:1]) == []
    assert inference.near_duplicates(copies[:0].reshape(0, 16)) == []


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of two folders with images of two classes, one of which is broken."""
    root = tmp_path_factory.mktemp("stored")
    torch.manual_seed(0)
    glmix.save_model(timm.create_model("test_glnet", num_classes=2), root / "model")
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, shade in (("dark", 30), ("light", 220)):
            (root / split / label).mkdir(parents=True)
            for number in range(6):
                pixels = generator.integers(shade - 30, shade + 30, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")
        (root / split / "dark" / "broken.png").touch()
        arguments = [f"{root}/{split}", "--model", f"local-dir:{root}/model", "-o", f"{root}/{split}-vectors"]
        assert main(["embed", *arguments, "--shard-size", "5", "--dtype", "float16"]) == 1
    return root


def test_stored_embeddings_are_read_in_order(stored):
    found = inference.load_embeddings(stored / "train-vectors")
    assert found.keys == sorted(found.keys)
    assert found.vectors.shape == (12, 96)
    assert found.vectors.dtype == np.float32
    assert [Path(name).name for name in found.errors] == ["broken.png"]
    network = glmix.load(stored / "model").network
    ((row,),) = inference.run(inference.Embedding(network), inference.open_source(found.keys[7]))
    np.testing.assert_allclose(found.vectors[7], row["embedding"], rtol=2e-3, atol=2e-3)
    with pytest.raises(InputError, match="embedding_3"):
        inference.load_embeddings(stored / "train-vectors", "embedding_3")
    with pytest.raises(InputError, match=re.escape(str(stored / "model"))):
        inference.load_embeddings(stored / "model")


def test_probe_command(stored, tmp_path, capsys):
    folders = [f"{stored}/train-vectors", f"{stored}/test-vectors"]
    assert main(["probe", *folders, "--neighbors", "3", "--shots", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["train"], report["test"], report["classes"]) == (12, 12, ["dark", "light"])
    assert report["accuracy"] == {"3-NN": 1.0, "linear probe": 1.0}
    assert report["linear_probe"]["sweep"][str(report["linear_probe"]["regularization"])] == 1.0
    assert report["few_shot"] == [{"shots": 2, "mean": 1.0, "std": 0.0, "accuracies": [1.0] * 5}]
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n" + f"{stored}/train/dark/0.png,x\n")
    assert main(["probe", *folders, "--labels", str(labels)]) == 2
    assert "labels.csv" in capsys.readouterr().err


def test_neighbors_command(stored, tmp_path, capsys):
    page = tmp_path / "page.html"
    arguments = [f"{stored}/train-vectors", "--queries", f"{stored}/test-vectors", "-k", "3", "--html", str(page)]
    assert main(["neighbors", *arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 12
    for row in rows:
        assert len(row["neighbors"]) == 3
        assert {Path(hit["file"]).parent.name for hit in row["neighbors"]} == {Path(row["file"]).parent.name}
    text = page.read_text()
    assert text.count("<section>") == 12
    assert text.count("data:image/jpeg") == 48
    assert "://" not in text
    assert main(["neighbors", f"{stored}/train-vectors", "-k", "1", "--json"]) == 0
    assert all(row["file"] != row["neighbors"][0]["file"] for row in json.loads(capsys.readouterr().out))
    assert main(["neighbors", f"{stored}/train-vectors", "--duplicates", "2"]) == 2
    assert main(["neighbors", f"{stored}/train-vectors", "--duplicates", "-1", "--html", str(page)]) == 0
    assert "12 images" in page.read_text()
