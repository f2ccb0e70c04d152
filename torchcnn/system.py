"""The machine: free memory, cores, and what torchrun says of the processes on it."""

import os
import re
from pathlib import Path

import torch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # where Linux tells what is free


def free_memory(device: torch.device) -> int:
    """Bytes that are free for each rank: on the device or the machine, whichever are fewer."""
    free = [2**33]  # where nothing tells, as on Windows and macOS
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text())
        free = [int(found[1]) * 2**10] if found else free
        limit, used = (int((CGROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)", (CGROUP / "memory.stat").read_text(), re.M)
        free.append(max(0, limit - used + (int(cached[1]) if cached else 0)))
    except (OSError, ValueError):  # no Linux, or no limit
        pass
    share = [bytes // ranks_here() for bytes in free]
    return min([*share, *(torch.cuda.mem_get_info(device)[:1] if device.type == "cuda" else ())])


def cores() -> int:
    """How many of the machine's processors each of its ranks has."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // ranks_here())


def ranks_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched() -> bool:
    """Whether torchrun has started this process, perhaps anew, after a rank had died."""
    return "TORCHELASTIC_RUN_ID" in os.environ
