"""Measures peak memory."""

import re
from collections.abc import Callable
from pathlib import Path

import torch

from torchcnn.benchmark.process import own_process


class PeakMemory:
    """The largest memory in use since `restart`, in MiB: GPU memory, or else that of this process.

    It is None if the system does not report it. Worker processes are not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def restart(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.init()  # required before the next line if the device has a number
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self._of_process() is not None:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)

    def read(self) -> float | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return self._of_process()

    @staticmethod
    def _of_process() -> float | None:
        try:
            status = Path("/proc/self/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10  # type: ignore[index]
        except (OSError, TypeError):
            return None


def peak_of(work: Callable[[], object], device: torch.device) -> float | None:
    """Return by how many MiB `work()` increases the peak of the memory in use.

    Memory that the process has freed before is used again without being counted, so the result
    is meaningful only in a new process. See `peak_in_new_process`.
    """

    peak = PeakMemory(device)
    peak.restart()
    before = peak.read()
    work()
    after = peak.read()
    return after - before if after is not None and before is not None else None


def peak_in_new_process(work: Callable[[], object], device: torch.device) -> float | None:
    """Return `peak_of(work, device)` as measured in a new process; `work` must be picklable."""
    with own_process() as call:
        return call(peak_of, work, device)
