"""How long a large photo takes to become a small square, against Pillow's own ways."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from torchcnn.data.decode import read_image
from torchcnn.text import table

WIDTH, HEIGHT, SIZE = 4000, 3000, 96


def make_photo(path: Path) -> None:
    """Write a JPEG with shades, edges and noise, of some megabytes, as a camera does."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH))
    shades = [x / WIDTH * 255, y / HEIGHT * 255, (np.sin(x / 40) + np.sin(y / 90) + 2) * 63]
    pixels = np.stack([shade + noise for shade in shades], 2).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


def by_pillow(path: Path, draft: bool) -> Image.Image:
    with Image.open(path) as image:
        if draft:
            image.draft(None, (SIZE, SIZE))  # decodes at the least size that is enough
        return image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def compare(rounds: int) -> str:
    """Time each way in every round, after one to warm up, and tabulate the medians and ratios."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        make_photo(path)
        megabytes = path.stat().st_size / 1e6
        ways: dict[str, Callable[[], object]] = {
            "torchcnn": lambda: read_image(path, 3, SIZE),
            "Pillow": lambda: by_pillow(path, draft=False),
            "Pillow, draft": lambda: by_pillow(path, draft=True),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for i in range(rounds + 1):
            for way, decode in ways.items():
                began = time.perf_counter()
                decode()
                if i:
                    seconds[way].append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    rows = [["", "ms", "torchcnn takes, of it"]]
    for way, times in seconds.items():
        ratios = [ours / its for ours, its in zip(seconds["torchcnn"], times, strict=True)]
        median, low, high = statistics.median(ratios), min(ratios), max(ratios)
        spread = f"{median:.2f} ({low:.2f} to {high:.2f})"
        rows.append([way, f"{statistics.median(times) * 1e3:.1f}", spread])
    head = f"a JPEG of {WIDTH}×{HEIGHT} pixels and {megabytes:.1f} MB to {SIZE}×{SIZE}, one thread"
    return f"{head}, n = {rounds}\n\n{table(rows, left={0})}"
