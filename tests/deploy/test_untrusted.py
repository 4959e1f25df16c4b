"""Untrusted `.pt2` files: content that may run code is rejected before PyTorch reads it."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from glmix.deploy import export_model, load_exported
from glmix.errors import InputError
from tests.deploy.models import ONE, make


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The members of a valid .pt2, with names relative to its root folder."""
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    export_model(make(**ONE), path)
    found = load_exported(path)(np.zeros((1, 3, 64, 64), np.float32))
    assert found["logits"].shape == (1, 5)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def write(path, members, root="model/"):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{root}{name}", content)
    return path


def pickled(mark):
    buffer = io.BytesIO()
    torch.save(Payload(mark), buffer)
    return buffer.getvalue()


def edited(members, name, change):
    """Return the members with one JSON file replaced."""
    content = json.loads(members[name])
    change(content)
    return {**members, name: json.dumps(content).encode()}


WEIGHTS, GRAPH = "data/weights/model_weights_config.json", "models/model.json"


def weights_as_a_pickle(members, mark):
    def change(config):
        next(iter(config["config"].values()))["use_pickle"] = True

    return {**edited(members, WEIGHTS, change), "data/weights/weight_0": pickled(mark)}


def weights_outside(members, mark):
    def change(config):
        next(iter(config["config"].values()))["path_name"] = "../sample_inputs/model.pt"

    return edited(members, WEIGHTS, change)


def in_graph(change):
    def hostile(members, mark):
        def edit(graph):
            change(graph, graph["graph_module"]["graph"]["nodes"], mark)

        return edited(members, GRAPH, edit)

    return hostile


def first_node(**entries):
    return in_graph(lambda graph, nodes, mark: nodes[0].update(entries))


HOSTILE = {
    "pickled weights": weights_as_a_pickle,
    "weights in another place": weights_outside,
    "pickled weights of the older format": lambda m, mark: {**m, "data/weights/model.pt": pickled(mark)},
    "pickled sample inputs": lambda m, mark: {**m, "data/sample_inputs/model.pt": pickled(mark)},
    "a custom object": lambda m, mark: {**m, "data/constants/custom_obj_0": pickle.dumps(Payload(mark))},
    "machine code": lambda m, mark: {**m, "data/aotinductor/model/model.so": b"\x7fELF"},
    "a member that leaves the folder": lambda m, mark: {**m, "../../evil": b""},
    "an unknown member": lambda m, mark: {**m, "data/more": b""},
    "a function of Python": first_node(target="torch.serialization.os.mkdir"),
    "an operator that opens files": first_node(
        target="torch.ops.aten.from_file.default",
        inputs=[{"name": "filename", "arg": {"as_string": "/etc/hostname"}, "kind": 1}],
    ),
    "a guard": in_graph(lambda g, n, mark: g["guards_code"].append(f"__import__('os').mkdir({str(mark)!r}) is None")),
    "an expression": in_graph(
        lambda g, n, mark: n[0]["inputs"].append(
            {
                "name": "x",
                "kind": 1,
                "arg": {"as_sym_int": {"as_expr": {"expr_str": f"exec(\"open({str(mark)!r}, 'w')\")"}}},
            }
        )
    ),
    "an enumeration of any module": in_graph(
        lambda g, n, mark: g["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "evil.module", "context": "null", "children_spec": []}]'
        )
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_pt2_that_may_run_code_raises_an_error_and_runs_nothing(kind, members, tmp_path):
    mark = tmp_path / "the-payload-ran"
    path = write(tmp_path / "evil.pt2", HOSTILE[kind](members, mark))
    with pytest.raises(InputError, match=r"evil\.pt2"):
        load_exported(path)
    assert not mark.exists()


def test_a_pickle_of_weights_would_run_without_the_check(members, tmp_path):
    mark = tmp_path / "the-payload-ran"
    path = write(tmp_path / "evil.pt2", weights_as_a_pickle(members, mark))
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever PyTorch raises after it ran the payload
        load_exported(path, trusted=True)
    assert mark.exists()


def test_unchanged_members_load(members, tmp_path):
    assert load_exported(write(tmp_path / "model.pt2", members)).about["outputs"] == "classes"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_damaged_pt2_raises_an_error_with_its_name(content, tmp_path):
    (tmp_path / "torn.pt2").write_bytes(content)
    with pytest.raises(InputError, match=r"torn\.pt2"):
        load_exported(tmp_path / "torn.pt2")
