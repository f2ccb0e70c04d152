"""How much memory something takes at most."""

import re
from pathlib import Path

import torch


class PeakMemory:
    """The most memory in use since `restart`, in MiB: of the GPU, or else of this process.

    None where nothing tells. Worker processes are not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def restart(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.init()  # which a numbered device does not do by itself
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self._of_process() is not None:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: proc(5)

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
