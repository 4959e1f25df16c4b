"""`glmix completion`, in real shells."""

import shutil
import subprocess
from pathlib import Path

import pytest

from glmix.configs import config_names
from tests.cli.conftest import Run

pytest.importorskip("shtab", reason="the extra `completion` is not installed")


def completions(script: Path, *words: str) -> list[str]:
    """Return what bash suggests for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    code = f"source '{script}'; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; $(complete -p glmix | "
    code += "sed 's/.*-F \\([^ ]*\\).*/\\1/') glmix; printf '%s\\n' \"${COMPREPLY[@]}\""
    result = subprocess.run(["bash", "--norc", "-c", code], cwd=script.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def test_bash_completes_commands_options_recipes_and_files(glmix: Run, tmp_path: Path) -> None:
    script = tmp_path / "glmix.bash"
    script.write_text(glmix("completion", "bash").stdout)
    (tmp_path / "best.ckpt").touch()
    assert completions(script, "glmix", "ex") == ["explain", "export"]
    assert completions(script, "glmix", "predict", "--topk") == ["--topk"]
    assert "--calibrate" in completions(script, "glmix", "export", "--c")
    assert completions(script, "glmix", "export", "--format", "o") == ["onnx", "openvino"]
    assert completions(script, "glmix", "slots", "sc") == ["score"]
    assert completions(script, "glmix", "predict", "--checkpoint", "be") == ["best.ckpt"]
    found = completions(script, "glmix", "fit", "--config", "classification/sc")
    assert found == [name for name in config_names() if name.startswith("classification/sc")]
    assert completions(script, "glmix", "configs", "token_labelling/s") == ["token_labelling/scenes/token_label"]


def test_zsh_completes_commands_and_options(glmix: Run, tmp_path: Path) -> None:
    pexpect = pytest.importorskip("pexpect")
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    (tmp_path / "_glmix").write_text(glmix("completion", "zsh").stdout)
    shell = pexpect.spawn("zsh", ["-f", "-i"], cwd=str(tmp_path), encoding="utf-8", timeout=30, dimensions=(40, 200))
    shell.sendline(f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; PS1=; echo rea''dy")
    shell.expect("ready\r\n")
    shell.send("glmix predi\t")
    shell.expect("glmix predict")
    shell.send("--che\t")
    shell.expect("ckpoint")
    shell.close(force=True)


def test_other_shells_are_refused(glmix: Run) -> None:
    result = glmix("completion", "fish")
    assert result.returncode == 2
    assert "bash" in result.stderr
