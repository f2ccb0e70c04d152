"""The names that flags take, whose meanings need PyTorch, and what a misspelled one may mean.

`--help` shows the names without waiting for PyTorch. A name is entered here and, with what it
stands for, in the table of the same name.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

DATASETS = ["auto", "fashion-mnist", "cifar10", "sample"]  # see `torchcnn.data.datasets`
AUGMENTATIONS = ["crop", "flip", "rotate", "color-jitter", "random-resized-crop", "erase"]
MIXES = ["mixup", "cutmix"]  # both of `torchcnn.data.augment`
OPTIMIZERS = ["adam", "adamw", "sgd"]  # see `torchcnn.training.optim`
RESIZES = ("squeeze", "crop", "crop-232", "crop-256")  # see `torchcnn.data.decode.read_image`
LANGUAGES = ("en", "zh")  # of the page of `torchcnn.walk`


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Ask for the names that a wrong one may mean, three at most; "" if there are none.

    They are those that begin with it, or else those of whose words it is the initials, or else
    those that resemble it.

    >>> did_you_mean("--bs", ["--batch-size", "--lr"])
    'did you mean --batch-size?'
    """
    known, name = list(known), name.lower()
    found = [k for k in known if name and k.startswith(name)]
    found = found or [k for k in known if _initials(k) == name.strip("-")]
    found = found or get_close_matches(name, known)
    *first, last = found[:3] or [""]
    start = f"did you mean {', '.join(first)} or " if first else "did you mean "
    return f"{start}{last}?" if last else ""


def _initials(name: str) -> str:
    """--batch-size -> bs"""
    return "".join(word[0] for word in re.split("[-_]+", name) if word)
