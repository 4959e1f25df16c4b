"""Freed memory stays with a process that asked for it."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from pathlib import Path
from glmix.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("another allocator")
torch.set_num_threads(1)

def mib():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() / 2**20

before = mib()
parts = [torch.ones(2**22) for _ in range(12)]  # 16 MiB each
used = mib() - before
del parts
print(used, mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is meant")
def test_kept_memory_stays_with_the_process_and_is_given_back_otherwise() -> None:
    left = {}
    for how in ("keep", "leave"):
        result = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True)
        if result.stderr.strip() == "another allocator":
            pytest.skip("this process has another allocator")
        assert result.returncode == 0, result.stderr
        used, left[how] = map(float, result.stdout.split())
        assert used > 12 * 16 * 0.95
    assert left["keep"] > 12 * 16 * 0.95
    assert left["leave"] < 12 * 16 / 2
