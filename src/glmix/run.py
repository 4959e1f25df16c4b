"""Run a Python script or module of another project with the models registered with timm.

    python -m glmix.run SCRIPT ARGS...
    python -m glmix.run -m MODULE ARGS...

The script runs as `__main__` with the same arguments, import path, exit code and traceback as with
`python SCRIPT ARGS...`. The models are also registered in processes that it starts with multiprocessing.
"""

import importlib.machinery
import os
import runpy
import sys
import types
from types import TracebackType
from typing import NoReturn

from .compat import inherit_in_child_processes
from .models import GLNet

__all__ = ["main"]

USAGE = "usage: python -m glmix.run SCRIPT [ARGS...]\n       python -m glmix.run -m MODULE [ARGS...]\n"


def main() -> None:
    """Run the script or module that the command line names."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(f"{USAGE}\nRun a script or module with the GLNet models registered with timm.\n")
        return
    as_module = arguments[:1] == ["-m"]
    target, *rest = arguments[as_module:] or [""]
    if not target or (target.startswith("-") and not as_module):
        sys.stderr.write(USAGE)
        sys.exit(2)
    _register_in_child_processes()
    sys.excepthook = _print_own_frames_removed
    if as_module:
        sys.argv = ["-m", *rest]  # run_module replaces "-m" by the file of the module
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [target, *rest]
        _run_script(target)


def _run_script(path: str) -> None:
    """Run a file like `python PATH`: with an absolute `__file__` and its folder first on the import path."""
    file = os.path.abspath(path)
    loader = importlib.machinery.SourceFileLoader("__main__", file)
    try:
        source = loader.get_data(file)
    except OSError as error:
        _fail(f"can't open file {file!r}: [Errno {error.errno}] {error.strerror}")
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(file))
    module = types.ModuleType("__main__")
    module.__file__, module.__loader__, module.__package__ = file, loader, None
    sys.modules["__main__"] = module
    exec(compile(source, file, "exec", dont_inherit=True), vars(module))


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"glmix.run: {message}\n")
    sys.exit(2)


def _register_in_child_processes() -> None:
    """Make every process that multiprocessing starts import this package, with every start method.

    A child process gets a copy of the configuration of its parent. Unpickling the class in it imports this package,
    which registers the models.
    """
    inherit_in_child_processes("glmix", GLNet)


def _print_own_frames_removed(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Exception hook that removes the frames of this module and of runpy from the traceback."""
    own = (__file__, runpy.__file__, "<frozen runpy>")
    while traceback is not None and traceback.tb_frame.f_code.co_filename in own:
        traceback = traceback.tb_next
    sys.__excepthook__(kind, error.with_traceback(traceback), traceback)


if __name__ == "__main__":
    main()
