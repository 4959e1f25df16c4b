"""Distributions: the wheel works when installed, and the source distribution has all files of the repository."""

import email
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "docs", "examples", "studies", ".ci", ".github")
BUILD_TIME = "1700000000"
GENERATED = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pyc")
LINK = re.compile(r"\]\((?!#)([^)]+)\)")


def build(source: Path, kind: str, out: Path) -> Path:
    """Build an sdist or a wheel with the build backend of pyproject.toml, offline."""
    out.mkdir(exist_ok=True)
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    env = {**os.environ, "SOURCE_DATE_EPOCH": BUILD_TIME}
    result = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (built,) = out.iterdir()
    return built


def copy_checkout(folder: Path) -> Path:
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=GENERATED)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = build(copy_checkout(tmp_path_factory.mktemp("checkout")), "sdist", folder / "dist")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    return build(sdist, "wheel", tmp_path_factory.mktemp("wheel") / "dist")


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__"} & set(path.parts) and ".egg-info" not in str(path)
    }


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        return email.message_from_bytes(archive.read(name))


def readme(wheel: Path) -> str:
    return str(metadata(wheel).get_payload(decode=True), "utf-8")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FOLDERS)
def test_sdist_contains_every_file_of_folder(name: str, sdist: Path) -> None:
    assert files_below(ROOT / name) == files_below(sdist / name)


def test_sdist_contains_the_top_level_files(sdist: Path) -> None:
    for name in [".ci/run", *(path.name for path in ROOT.iterdir() if path.is_file() and path.name != ".git")]:
        assert (sdist / name).read_bytes() == (ROOT / name).read_bytes()
    assert os.access(sdist / ".ci" / "run", os.X_OK)


def test_wheel_contains_only_the_packages_and_their_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files_below(ROOT / "src")
    assert "glmix/configs/classification/scenes/single.yaml" in names


def test_readme_on_pypi_has_only_absolute_links(wheel: Path) -> None:
    links = LINK.findall(readme(wheel))
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    urls = metadata(wheel).get_all("Project-URL", [])
    assert [url for url in urls if not url.split(", ")[1].startswith("https://")] == []


def test_repository_setting_makes_all_links_absolute(sdist: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(sdist, source)
    project = source / "pyproject.toml"
    text, count = re.subn(r'(?m)^repository = ".*"$', 'repository = "https://example.org/glmix/"', project.read_text())
    assert count == 1
    project.write_text(text)
    made = build(source, "wheel", tmp_path / "dist")
    ours = [link for link in LINK.findall((ROOT / "README.md").read_text()) if not link.startswith("https://")]
    assert ours
    for link in ours:
        path = link.partition("#")[0]
        assert (ROOT / path).exists(), "the README links to a missing file"
        kind = "raw" if path.endswith((".png", ".jpg", ".svg")) else "blob"
        assert f"](https://example.org/glmix/{kind}/HEAD/{link})" in readme(made)
    assert [link for link in LINK.findall(readme(made)) if not link.startswith("https://")] == []
    urls = dict(url.split(", ") for url in metadata(made).get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert urls["Changelog"] == "https://example.org/glmix/blob/HEAD/CHANGELOG.md"


def test_distributions_are_reproducible_and_accepted_by_pypi(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """The files of a second checkout are newer than those of the first."""
    (first,) = (sdist.parent / "dist").iterdir()
    second = build(copy_checkout(tmp_path / "checkout"), "sdist", tmp_path / "sdist")
    assert second.read_bytes() == first.read_bytes()
    with tarfile.open(second) as tar:
        assert {(info.mtime, info.uid, info.uname) for info in tar} == {(int(BUILD_TIME), 0, "")}
        tar.extractall(tmp_path, filter="data")
    again = build(tmp_path / sdist.name, "wheel", tmp_path / "wheel")
    assert again.read_bytes() == wheel.read_bytes()
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", str(first), str(wheel)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


Installed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run_installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Run a program of an environment with the wheel alone, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env")
    programs = folder / "env" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--no-deps", "--no-index"]
    # with PYTHONPATH=src, pip would take an editable installation of glmix for the wheel
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, env=environment)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    # Python ignores .pth files in these folders, and with them an editable installation of glmix
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(programs / name), *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)

    where = run("python", "-c", "import importlib.util; print(importlib.util.find_spec('glmix').origin)")
    assert str(packages) in where.stdout
    return run


def test_installed_wheel_lists_prints_and_trains_a_recipe(run_installed: Installed, tmp_path: Path) -> None:
    def glmix(*arguments: str) -> str:
        result = run_installed("glmix", *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "train_count: 3000" in glmix("configs", "scenes/single")
    tiny = "--trainer.max_epochs 1 --trainer.limit_train_batches 1 --model.schedule.warmup_epochs 0"
    counts = ["--data.train_count", "8", "--data.val_count", "4", "--data.batch_size", "8", "--data.num_workers", "0"]
    glmix("fit", "--config", "scenes/single", *tiny.split(), *counts, "--trainer.default_root_dir", str(tmp_path))
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.slow
def test_installed_wheel_runs_the_demo_and_the_explorer(run_installed: Installed, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    demo = run_installed("glmix", "demo", str(out), "--epochs", "1", "--scenes", "500", "--at-least", "0")
    assert demo.returncode == 0, demo.stderr
    assert (out / "explorer.html").is_file()
    image, *_ = sorted((out / "images").iterdir())
    model = ["--model", f"local-dir:{out / 'model'}"]
    explain = run_installed("glmix", "explain", str(image), *model, "--html", "-o", str(tmp_path / "slots"))
    assert explain.returncode == 0, explain.stderr
    assert [path.suffix for path in sorted((tmp_path / "slots").iterdir())] == [".html", ".png"]


def test_workflows_use_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        used = re.findall(r"\bmake ([a-z][a-z-]*)", path.read_text())
        assert set(used) <= targets, path.name


def versions(lines: list[str], operator: str) -> dict[str, set[Version]]:
    """Return the versions that requirements state with an operator, by package; requirements on glmix are left out."""
    found: dict[str, set[Version]] = {}
    for requirement in map(Requirement, lines):
        if requirement.name != "glmix":
            stated = {Version(part.version) for part in requirement.specifier if part.operator == operator}
            found.setdefault(canonicalize_name(requirement.name), set()).update(stated)
    return found


def test_lower_bounds_are_the_versions_of_the_ci_job() -> None:
    """The packages that only development needs are the newest there, unless .ci/lowest.txt names them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    development = extras.pop("docs") + extras.pop("dev")
    runtime = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    tested = versions([line for line in lines if line and not line.startswith("#")], "==")
    assert versions(runtime, ">=").keys() <= tested.keys()
    bounds = versions(runtime + development, ">=")
    assert {name: bounds.get(name) for name in tested} == tested
