"""Fine-tuning on few images: weights of five classes of Fashion-MNIST go on with the other five.

python runs/reference/finetune.py held-out   # what the recipe was chosen by
python runs/reference/finetune.py test       # the table in README.md
"""

import contextlib
import io
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchcnn.data.datasets import DATASETS, ImageData, load_data
from torchcnn.train import train

SEEDS = range(5)
NETWORKS = ("lenet", "resnet20")
COUNTS = (20, 100)  # images of a class
BODY = {"lenet": ("stage1", "stage2"), "resnet20": ("stem", "stage1", "stage2", "stage3")}
FLIP: dict[str, Any] = {"augment": "flip"}
WAYS: dict[str, dict[str, Any]] = {
    "anew": {"recipe": "fast"},
    "head first, then all": FLIP | {"body_lr": 0.01},
    "finetune, body_lr 1": FLIP | {"body_lr": 1.0},
    "finetune, body_lr 0.1": FLIP | {"body_lr": 0.1},
    "finetune, body_lr 0.01": FLIP | {"body_lr": 0.01},
    "finetune, body_lr 0.1, crops": {"body_lr": 0.1},
    "finetune, body_lr 1, crops": {"body_lr": 1.0},
    "finetune, body_lr 0.3, lr 3e-3": FLIP | {"body_lr": 0.3, "lr": 3e-3},
}


def of_classes(
    data: ImageData, first: int, judged: str, count: int = 0, seed: int = 0
) -> ImageData:
    """Five classes from `first` on; of each `count` images to train on, drawn by the seed."""
    chosen = []
    for label in range(first, first + 5):
        found = (data.train_labels[:50_000] == label).nonzero()[:, 0]
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
        chosen.append(found[order][: count or None])
    kept = torch.cat(chosen)
    x, y = data.test_images, data.test_labels
    if judged == "held-out":  # images that are never trained on
        x, y = data.train_images[50_000:], data.train_labels[50_000:]
    mine = (y >= first) & (y < first + 5)
    return replace(
        data,
        classes=data.classes[first : first + 5],
        train_images=data.train_images[kept],
        train_labels=data.train_labels[kept] - first,
        test_images=x[mine],
        test_labels=y[mine] - first,
    )


def run(**flags: Any) -> Any:
    """Train without a word."""
    with contextlib.redirect_stdout(io.StringIO()):
        return train(device="cpu", **flags)


def main(judged: str) -> None:
    data = load_data("fashion-mnist")
    with tempfile.TemporaryDirectory() as folder:
        for arch in NETWORKS:
            DATASETS["first five"] = lambda root: of_classes(data, 0, judged)
            source = Path(folder) / arch
            run(arch=arch, data="first five", recipe="fast", epochs=2, out=source)
            for count in COUNTS:
                for way, flags in WAYS.items():
                    accuracies = []
                    for seed in SEEDS:
                        few = of_classes(data, 5, judged, count, seed)
                        DATASETS["other five"] = lambda root, few=few: few
                        common = {"arch": arch, "data": "other five", "seed": seed}
                        common |= {"val_fraction": 0.2}
                        out = Path(folder) / f"{arch}-{count}-{way}-{seed}"
                        epochs = 30 if count == 20 else 40  # as many steps for all
                        if way == "anew":
                            batch = 8 if count == 20 else 32
                            result = run(
                                **common, **flags, batch_size=batch, epochs=epochs, out=out
                            )
                        else:
                            start = source
                            if "head first" in way:
                                start = out.with_name(f"{out.name}-head")
                                run(**common, init=source, freeze=",".join(BODY[arch]), epochs=1,
                                    augment="flip", out=start)  # fmt: skip
                            result = run(**common, **flags, init=start, epochs=epochs, out=out)
                        accuracies.append(result.test_acc)
                    mean, std = statistics.mean(accuracies), statistics.stdev(accuracies)
                    print(f"{arch} | {count} | {way} | {mean:.3f} ± {std:.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
