"""`keep_freed_memory` keeps freed memory in the process."""

import sys

import pytest

from tests.processes import Command

CODE = """
import resource, sys, torch
from pathlib import Path
from glmix.memory import keep_freed_memory

def mib():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() / 2**20

def measure():
    before = mib()
    parts = [torch.ones(2**22) for _ in range(12)]  # 16 MiB each
    used = mib() - before
    del parts
    print(used, mib() - before)

measure()
if not keep_freed_memory():
    sys.exit("not glibc")
measure()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only for the allocator of glibc")
def test_freed_memory_stays_in_the_process_only_with_keep_freed_memory() -> None:
    process = Command(code=CODE)
    output, errors = process.communicate()
    if errors.strip() == "not glibc":
        pytest.skip("this process does not use the allocator of glibc")
    assert process.returncode == 0, errors
    (used, left), (used_again, kept) = (map(float, line.split()) for line in output.splitlines())
    assert min(used, used_again) > 12 * 16 * 0.95
    assert left < 12 * 16 / 2
    assert kept > 12 * 16 * 0.95
