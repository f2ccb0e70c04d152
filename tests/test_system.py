"""What is free on the machine, in each way that Linux tells it."""

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
