"""What is free on the machine, in each way that Linux tells it."""

import subprocess
import sys

import pytest
import torch

from torchcnn import system


@pytest.mark.parametrize(
    ("limit", "used", "ranks", "expected"),
    [
        ("max", 0, 1, 8_000 * 2**10),  # no limit: what the machine has
        ("5000000", 4_000_000, 1, 1_000_000 + 700_000),  # what is only cached can be had
        ("5000000", 4_000_000, 2, 850_000),
        ("5000000", 6_000_000, 1, 0),
        (None, 0, 4, 2_000 * 2**10),  # no such file
    ],
)
def test_the_memory_that_is_free(limit, used, ranks, expected, tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000 kB\nMemAvailable:    8000 kB\n")
    monkeypatch.setattr(system, "MEMINFO", meminfo)
    monkeypatch.setattr(system, "CGROUP", tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    if limit:
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 700000\nactive_file 9\n")
    assert system.free_memory(torch.device("cpu")) == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept():
    """Tensors take the pages of those before them: the kernel gives hardly any new ones."""
    code = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from torchcnn.system import keep_freed_memory
    keep_freed_memory()
x = torch.ones(10 * 2**20)
for _ in range(10):
    x = x * x + x
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    x = x * x + x
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        word: int(subprocess.run([sys.executable, "-c", code, word], capture_output=True).stdout)
        for word in ("keep", "plain")
    }
    if faults["plain"] < 1_000:
        pytest.skip("this system does not give pages back, or has huge ones")
    assert faults["keep"] < faults["plain"] / 10
