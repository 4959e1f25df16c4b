"""Freed memory stays with a process that asked for it."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from glmix.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)

def work():
    parts = [torch.ones(2**22) for _ in range(6)]  # 16 MiB each
    del parts

for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is meant")
def test_kept_memory_is_not_fetched_page_by_page_again() -> None:
    faults = {}
    for how in ("keep", "leave"):
        result = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True)
        if "assert keep_freed_memory" in result.stderr:
            pytest.skip("this process has another allocator")
        assert result.returncode == 0, result.stderr
        faults[how] = int(result.stdout)
    pages = 5 * 6 * 2**24 // 4096
    assert faults["keep"] < pages / 20
    assert faults["leave"] > pages / 4
