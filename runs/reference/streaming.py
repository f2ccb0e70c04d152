"""A pass over photos that do not fit into memory: this package and torchvision's `ImageFolder`.

    python runs/reference/streaming.py

Both decode JPEGs of 1000×750 pixels in as many worker processes as there are cores, and give
batches of 32 images of 224 pixels that are cropped and flipped at random. torchvision crops the
photo, this package the square of 224 pixels that it becomes, whose crops are less sharp. They take
turns, each in a process of its own, whose memory is that of all its processes together.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PHOTOS, ROUNDS, BATCH, SIZE = 400, 3, 32, 224


def write_photos(folder: Path) -> None:
    """Smooth shapes and some noise, which compress as photographs do: about 150 kB each."""
    for i in range(PHOTOS):
        rng = np.random.default_rng(i)
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        photo = np.asarray(small.resize((1000, 750), Image.Resampling.BICUBIC), dtype=np.float32)
        photo = photo + rng.normal(0, 8, photo.shape)
        place = folder / f"class{i % 4}" / f"{i}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(place, quality=85)


def ours(folder: Path):
    from torchcnn.data.augment import flip, random_resized_crop
    from torchcnn.data.folder import FolderOptions, load_folder
    from torchcnn.data.loader import Batches

    data = load_folder(folder, FolderOptions(SIZE, max_bytes=0))
    crops = (random_resized_crop, flip)
    return Batches(data.train_images, data.train_labels, BATCH, shuffle=True, augment=crops)


def theirs(folder: Path):
    from torchvision import datasets, transforms

    steps = [transforms.RandomResizedCrop(SIZE, (0.35, 1)), transforms.RandomHorizontalFlip()]
    data = datasets.ImageFolder(folder, transforms.Compose([*steps, transforms.ToTensor()]))
    return torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=os.cpu_count() or 1)


def memory() -> int:
    """Bytes of this process and its children that no other process shares (Linux)."""
    pids = [os.getpid()]
    for pid in pids:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        pids += [int(child) for task in tasks for child in task.read_text().split()]
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def one_pass(way: str, folder: Path) -> None:
    """Print images/s of a second pass, which nothing is read for from a cold disk, and MiB."""
    batches, peak, over = {"ours": ours, "theirs": theirs}[way](folder), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            peak = max(peak, memory())

    threading.Thread(target=watch, daemon=True).start()
    for _ in range(2):
        began, images = time.perf_counter(), 0
        for x, _ in batches:
            images += len(x)
        speed = images / (time.perf_counter() - began)
    over.set()
    print(f"{speed} {peak / 2**20}")


def main() -> None:
    speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder))
        for i in range(ROUNDS):
            for way in ("ours", "theirs") if i % 2 == 0 else ("theirs", "ours"):
                command = [sys.executable, __file__, way, folder]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                speed, mib = map(float, out.split())
                speeds[way].append(speed)
                print(f"{way}: {speed:.0f} images/s, {mib:.0f} MiB", flush=True)
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["theirs"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one_pass(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
