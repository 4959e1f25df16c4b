"""`keep_freed_memory` keeps freed memory in the process."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from pathlib import Path
from glmix.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not glibc")
torch.set_num_threads(1)

def mib():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() / 2**20

before = mib()
parts = [torch.ones(2**22) for _ in range(12)]  # 16 MiB each
used = mib() - before
del parts
print(used, mib() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only for the allocator of glibc")
def test_freed_memory_stays_in_the_process_only_with_keep_freed_memory() -> None:
    left = {}
    for how in ("keep", "leave"):
        result = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True)
        if result.stderr.strip() == "not glibc":
            pytest.skip("this process does not use the allocator of glibc")
        assert result.returncode == 0, result.stderr
        used, left[how] = map(float, result.stdout.split())
        assert used > 12 * 16 * 0.95
    assert left["keep"] > 12 * 16 * 0.95
    assert left["leave"] < 12 * 16 / 2
