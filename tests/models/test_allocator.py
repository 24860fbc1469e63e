"""What is allocated again and again must not cost fresh pages each time."""

import platform
import subprocess
import sys

import pytest

_FAULTS_OF_REPEATED_ALLOCATIONS = """
import resource
import torch
from hf_seqrl.models.allocator import keep_freed_memory

assert keep_freed_memory() and keep_freed_memory()

def allocate():
    held = [torch.zeros(2**21) for _ in range(8)]  # 8 times 8 MB

allocate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    allocate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    output = subprocess.run(
        [sys.executable, "-c", _FAULTS_OF_REPEATED_ALLOCATIONS], capture_output=True, text=True, check=True
    )
    pages_touched = 10 * 8 * 2**23 // 4096
    assert int(output.stdout) < pages_touched / 50
