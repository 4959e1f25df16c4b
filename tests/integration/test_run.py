"""`python -m glmix.run` runs scripts of other projects like Python, with the GLNets registered in timm."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glmix import run as module
from tests.processes import Command

# What timm's validate.py does with its arguments, and what a script can see of how it was started.
SCRIPT = """
import argparse, json, multiprocessing, os, sys
import helper

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--start")
parser.add_argument("--fail")
args = parser.parse_args()

def create():
    import timm
    model = timm.create_model(args.model, num_classes=3)
    # One write, so that two processes cannot mix their characters.
    sys.stdout.write(f"{type(model).__name__} {os.environ.get('RANK')}\\n")
    sys.stdout.flush()

def main():
    print(json.dumps([__name__, __file__, __package__, sys.argv[0], sys.path[0], args.fail]), flush=True)
    if args.model:
        create()
    if args.start:
        process = multiprocessing.get_context(args.start).Process(target=create)
        process.start()
        process.join()
    if args.fail == "error":
        raise KeyError("no such weight")
    if args.fail == "exit":
        sys.exit(7)
    if args.fail == "interrupt":
        raise KeyboardInterrupt
    if args.fail == "signal":
        os.kill(os.getpid(), 15)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()
    (tmp_path / "tools" / "helper.py").touch()
    (tmp_path / "tools" / "validate.py").write_text(SCRIPT)
    (tmp_path / "tools" / "relative.py").write_text(SCRIPT.replace("import helper", "from . import helper"))
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, timeout=300)


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_a_script_and_its_processes_can_create_the_models_and_fail_as_with_python(folder, method):
    plain = python(folder, "tools/validate.py", "--fail", "error")
    arguments = ["--model", "test_glnet", "--start", method, "--fail", "error"]
    ours = python(folder, "-m", "glmix.run", "tools/validate.py", *arguments)
    said, *created = ours.stdout.splitlines()
    assert said == plain.stdout.strip()
    assert json.loads(said)[1:5] == [
        str(folder / "tools" / "validate.py"), None, "tools/validate.py", str(folder / "tools"),
    ]  # fmt: skip
    assert created == ["GLNet None"] * 2
    assert ours.returncode == plain.returncode == 1
    assert "KeyError" in plain.stderr
    assert ours.stderr == plain.stderr


# test_the_end_of_a_script_is_left_to_python has the exceptions in this process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("fail", "code"), [("exit", 7), ("interrupt", -signal.SIGINT), ("signal", -signal.SIGTERM), (None, 0)]
)
def test_exit_codes_tracebacks_and_signals_are_those_of_the_script(folder, fail, code):
    arguments = ["--fail", fail] if fail else []
    plain = python(folder, "tools/validate.py", *arguments)
    ours = python(folder, "-m", "glmix.run", "tools/validate.py", *arguments)
    assert ours.returncode == plain.returncode == code
    assert ours.stderr == plain.stderr
    assert ours.stdout == plain.stdout


@pytest.mark.parametrize(("fail", "error"), [("exit", SystemExit), ("interrupt", KeyboardInterrupt)])
def test_the_end_of_a_script_is_left_to_python(folder, fail, error, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run.py", str(folder / "tools" / "validate.py"), "--fail", fail])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(module, "_register_in_child_processes", lambda: None)
    with pytest.raises(error) as stopped:
        module.main()
    assert getattr(stopped.value, "code", 7) == 7


def test_a_module_is_run_with_its_relative_imports(folder):
    plain = python(folder, "-m", "tools.relative")
    # as `python -m glmix.run -m tools.relative`, but in a process that has imported torch
    code = (
        "import runpy, sys\n"
        f"sys.path[0], sys.argv = {str(folder)!r}, ['-m', '-m', 'tools.relative', '--model', 'test_glnet']\n"
        "runpy.run_module('glmix.run', run_name='__main__', alter_sys=True)"
    )
    process = Command(cwd=folder, code=code)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert printed.splitlines() == [plain.stdout.strip(), "GLNet None"]


@pytest.mark.slow  # the first test has the models in a script that Python starts
def test_torchrun_starts_it(folder):
    arguments = (
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "glmix.run",
        "tools/validate.py",
        "--model",
        "test_glnet",
    )
    result = python(folder, "-m", "torch.distributed.run", *arguments)
    assert result.returncode == 0, result.stderr
    assert sorted(re.findall(r"GLNet \d", result.stdout)) == ["GLNet 0", "GLNet 1"]


@pytest.mark.parametrize("arguments", [[], ["-m"], ["--model", "x"], ["absent.py"]])
def test_wrong_arguments_raise_an_error(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "glmix.run" in said
    assert os.path.abspath("absent.py") in said or arguments != ["absent.py"]
