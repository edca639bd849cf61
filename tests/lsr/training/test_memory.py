"""lsr/training/memory.py against the process's own resident set."""

import os
import platform
from pathlib import Path

import pytest
from transformers import TrainerState

from lsr.training.memory import STEPS, ReturnFreed


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_what_was_freed_is_given_back():
    def resident_mib():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    before = resident_mib()
    blocks = [b"x" * 100_000 for _ in range(3000)]
    blocks = blocks[::30]  # holes between them, which keep the heap as long as it is
    assert resident_mib() - before > 200
    ReturnFreed().on_step_end(None, TrainerState(global_step=STEPS), None)
    assert resident_mib() - before < 60
    assert len(blocks) == 100
