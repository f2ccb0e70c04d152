"""Write the embedded sample: `python -m torchcnn.data.sample.make_sample FOLDER`.

FOLDER holds the four files of Fashion-MNIST.
"""

import gzip
import struct
import sys
from pathlib import Path

import torch
from torch import Tensor

from torchcnn.data.datasets import FASHION_MNIST_MD5, load_idx

PER_CLASS = {"train": 500, "t10k": 100}


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """The indices of the first `count` examples of every class, in their original order."""
    return torch.cat([(labels == c).nonzero()[:count, 0] for c in labels.unique()]).sort().values


def write_idx(path: Path, values: Tensor) -> None:
    """A uint8 tensor as a gzip IDX file, the same bytes on every day (no name, no time)."""
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    path.write_bytes(gzip.compress(header + values.numpy().tobytes(), 9, mtime=0))


def main(source: Path, target: Path = Path(__file__).parent) -> None:
    arrays = load_idx(source, FASHION_MNIST_MD5)
    for (split, count), images, labels in zip(
        PER_CLASS.items(), arrays[::2], arrays[1::2], strict=True
    ):
        chosen = first_of_each_class(labels, count)
        write_idx(target / f"{split}-images-idx3-ubyte.gz", images[chosen])
        write_idx(target / f"{split}-labels-idx1-ubyte.gz", labels[chosen])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
