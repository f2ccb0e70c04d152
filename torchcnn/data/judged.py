"""Which pictures of a folder a trained network is judged by."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from torchcnn.data.datasets import ImageData
from torchcnn.data.folder import (
    FolderOptions,
    Passed,
    decode_parts,
    find_named,
    find_pictures,
    split_classes,
)
from torchcnn.data.identity import Part, pictures_of
from torchcnn.data.listing import is_listing, read_listing


def load_judged(
    root: Path, options: FolderOptions, classes: Sequence[str], trained: Tensor | None
) -> tuple[str, ImageData]:
    """Read the pictures to judge a network by, as the test images of a data set.

    They are those in `test/<class>/*`, else in `val/<class>/*`; of a list those with such a split.
    Without these they are all, but if it is they that the network was trained on: then they are the
    fifth that was kept to test on. Some of the classes are enough; they are known by their names.

    Args:
        classes: those of the network.
        trained: the numbers of the pictures that it was trained on, as far as they are known.

    Returns:
        Which part it is, "test", "val" or "all", and the data set.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no pictures, or a class that the network does not know.
    """
    passed = Passed()
    found: Mapping[str, Any] = read_listing(root) if is_listing(root) else find_named(root, passed)
    part = next((name for name in ("test", "val") if name in found), "all")
    pictures, folder = found.get(part) or found.get("") or found["train"], root
    if isinstance(pictures, Path):
        folder, pictures = pictures, find_pictures(pictures, passed)
    if unknown := [name for name in pictures if name not in classes]:
        raise ValueError(
            f"{folder} holds {', '.join(unknown)}; the network was trained on the classes "
            f"{', '.join(classes)}"
        )
    note = f"all in {folder.name}"
    if part == "all" and trained is not None and (kept := kept_to_test(pictures, trained)):
        part, pictures, note = "test", kept, "those that the run kept to test on"
    data = decode_parts(root, {"test": pictures}, classes, options)
    return part, replace(data, note=f"{note}{data.note}{passed}")


def kept_to_test(pictures: Part, trained: Tensor) -> Part:
    """Return what a run on these pictures keeps to test on, if it is they that it was trained on.

    Some may have been added or removed since: most must be the run's, and hardly any of those that
    it trained on may fall to the test part. If they are not the run's, nothing is returned.
    """
    parts, known = split_classes(pictures), set(trained.tolist())
    ids = {name: {picture.id for picture in pictures_of(part)} for name, part in parts.items()}
    train, test = len(ids["train"] & known), len(ids["test"] & known)
    own = train > max(min(len(known), len(ids["train"])) / 2, 10 * test)
    return parts["test"] if own and ids["test"] else {}
