"""Uploads to the Hugging Face Hub, to a local server with the Hub's interface."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import glmix
from glmix.errors import InputError
from glmix.hub import push
from glmix.weights import Loaded
from glmix_cli import main
from studies.official_hub import official_files
from tests.checkpoints import NAMES, segmenter

PRIVATE = {("private", True), ("visibility", "private")}  # by the version of huggingface_hub
TOKEN = "hf_of_the_test"


class Hub(BaseHTTPRequestHandler):
    """The requests of `create_repo` and `create_commit`, for files below the size of LFS."""

    repositories: dict[str, dict[str, Any]]

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made['organization']}/{made['name']}"
            self.repositories.setdefault(name, {"private": PRIVATE & made.items() != set(), "files": {}})
            return self.answer(200, {"url": f"{self.server.url}/{name}"})  # type: ignore[attr-defined]
        if self.path == "/api/validate-yaml":  # the header of README.md
            assert json.loads(body)["content"].startswith("---\n")
            return self.answer(200, {"errors": [], "warnings": []})
        name, _, action = self.path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
        if action == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        assert action == "commit"
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.repositories[name]["files"][line["value"]["path"]] = content
        url = f"{self.server.url}/{name}/commit/1"  # type: ignore[attr-defined]
        return self.answer(200, {"commitUrl": url, "commitOid": "1", "commitMessage": "", "hookOutput": ""})

    def answer(self, code: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Any]]]:
    """Run the server in place of huggingface.co, and return its repositories."""
    repositories: dict[str, dict[str, Any]] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Local", (Hub,), {"repositories": repositories}))
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # type: ignore[attr-defined]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield repositories
    server.shutdown()
    thread.join()
    server.server_close()


def downloaded(repository: dict[str, Any], folder: Path) -> Path:
    """Write the files of a repository to a folder."""
    folder.mkdir()
    for name, content in repository["files"].items():
        (folder / name).write_bytes(content)
    return folder


def test_a_classifier_is_uploaded_with_its_report(hub: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_glnet", num_classes=3, depths=(1, 1, 1, 1)).eval()
    glmix.save_model(model, tmp_path / "model")
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.md").write_text("# Report\n\n## Scores\n\ntop-1: 71.5 %\n")
    (report / "report.html").write_text("<title>Report</title>")
    assert main(["push", str(tmp_path / "model"), "me/mine", "--report", str(report), "--private"]) == 0
    assert capsys.readouterr().out.strip().endswith("/me/mine/commit/1")
    assert set(hub["me/mine"]["files"]) == {"README.md", "config.json", "model.safetensors", "report.html"}
    assert hub["me/mine"]["private"] is True
    card = hub["me/mine"]["files"]["README.md"].decode()
    assert 'timm.create_model("hf-hub:me/mine", pretrained=True)' in card
    assert 'TimmWrapperForImageClassification.from_pretrained("me/mine")' in card
    assert "## Evaluation\n\n### Scores\n\ntop-1: 71.5 %" in card
    assert str(tmp_path) not in card
    again = glmix.load(downloaded(hub["me/mine"], tmp_path / "again")).network
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)


def test_a_segmentation_network_is_uploaded(hub: dict[str, Any], tmp_path: Path) -> None:
    assert push(glmix.load(segmenter(tmp_path)), "me/segmenter").endswith("/me/segmenter/commit/1")
    card = hub["me/segmenter"]["files"]["README.md"].decode()
    assert "hf download me/segmenter --local-dir segmenter" in card
    assert 'glmix.load("segmenter")' in card
    assert glmix.load(downloaded(hub["me/segmenter"], tmp_path / "again")).info["class_names"] == NAMES


def test_refusals_are_explained(hub: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Loaded(timm.create_model("test_glnet", num_classes=3, depths=(1, 1, 1, 1)))
    with pytest.raises(InputError, match="OWNER/NAME"):
        push(loaded, "mine")
    with pytest.raises(InputError, match=r"report\.md"):
        push(loaded, "me/mine", report=tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(InputError, match="hf auth login"):
        push(loaded, "me/mine")
    assert hub == {}


def test_missing_files_of_the_authors_are_named(tmp_path: Path) -> None:
    for name in ("glnet_4g", "glnet_9g"):
        (tmp_path / f"{name}.pth").touch()
    with pytest.raises(InputError, match=r"glnet_16g\.pth") as raised:
        official_files(tmp_path)
    assert "glnet_4g.pth" not in str(raised.value)
