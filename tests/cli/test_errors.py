"""User errors print one message and exit with code 2; bugs keep their traceback."""

import pytest

import glmix_cli
from glmix.errors import InputError, MissingExtraError, is_file_error, needs_extra
from tests.processes import Command


def with_command(monkeypatch, error):
    def run(args):
        raise error

    monkeypatch.setattr(glmix_cli.models, "run", run)


@pytest.mark.parametrize(
    "error",
    [
        InputError("size must be at least 32, got 3"),
        MissingExtraError("pip install 'glmix[train]'"),
        FileNotFoundError("no such file"),
        OSError(28, "No space left on device"),
    ],
)
def test_user_errors_print_one_line_and_exit_with_2(monkeypatch, capsys, error):
    with_command(monkeypatch, error)
    assert glmix_cli.main(["models"]) == 2
    assert capsys.readouterr().err == f"glmix models: {error}\n"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("zip() argument 2 is shorter than argument 1"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ImportError("cannot import name 'x'"),
        ConnectionResetError(104, "Connection reset by peer"),
        KeyError("weight"),
    ],
)
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    with_command(monkeypatch, error)
    with pytest.raises(type(error)) as raised:
        glmix_cli.main(["models"])
    assert raised.value is error


@pytest.mark.parametrize("argv", [["--debug", "models"], ["models", "--debug"]])
def test_debug_shows_the_traceback_of_every_error(monkeypatch, argv):
    with_command(monkeypatch, InputError("size must be at least 32, got 3"))
    with pytest.raises(InputError):
        glmix_cli.main(argv)


def test_a_bug_in_a_process_prints_its_traceback_and_exits_with_1():
    process = Command("models", code="import glmix_cli; glmix_cli.models.run = lambda args: [][1]")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "Traceback" in errors
    assert "IndexError" in errors


def test_a_closed_pipe_ends_a_command_silently():
    process = Command("configs", "--json")
    process.stdout.close()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (141, "")


def test_errors_are_subclasses_of_the_usual_ones():
    assert issubclass(InputError, ValueError)
    assert issubclass(MissingExtraError, ImportError)
    assert is_file_error(PermissionError(13, "Permission denied"))
    assert not is_file_error(OSError("no errno"))


def test_a_missing_library_is_reported_with_its_extra():
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'glmix\[slots\]'") as caught,
        needs_extra("slots", "figures"),
    ):
        import no_such_library  # noqa: F401
    assert "no_such_library" in str(caught.value)
    with pytest.raises(ValueError, match="other"), needs_extra("slots", "figures"):
        raise ValueError("other")
