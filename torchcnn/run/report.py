"""What a network got right and wrong, as text: tables by class, the confusion matrix."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchcnn.files import table


def classes_as_json(confusion: Tensor, classes: list[str]) -> list[dict[str, Any]]:
    """Return images, recall and precision of each class; None where there is nothing to divide."""
    correct, images, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
    return [
        {
            "class": name,
            "images": int(images[i]),
            "recall": int(correct[i]) / int(images[i]) if images[i] else None,
            "precision": int(correct[i]) / int(predicted[i]) if predicted[i] else None,
        }
        for i, name in enumerate(classes)
    ]


def confused(confusion: Tensor, classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return the pairs of classes that are mistaken most often: true, predicted, how many."""
    wrong = confusion - confusion.diag().diag()
    counts, places = wrong.flatten().sort(descending=True, stable=True)
    return [
        (classes[place // len(classes)], classes[place % len(classes)], count)
        for count, place in zip(counts[:3].tolist(), places[:3].tolist(), strict=True)
        if count
    ]


def confused_text(confusion: Tensor, classes: Sequence[str]) -> str:
    """Say which classes are mistaken most often, or nothing if none is."""
    pairs = [f"{n} of {true} as {other}" for true, other, n in confused(confusion, classes)]
    return f"most often mistaken: {', '.join(pairs)}" if pairs else ""


def by_class(confusion: Tensor, classes: list[str]) -> str:
    """Tabulate images, recall and precision of each class."""
    rows = [["class", "images", "recall", "precision"]]
    for about in classes_as_json(confusion, classes):
        shares = (about["recall"], about["precision"])
        cells = ["-" if share is None else f"{share:.3f}" for share in shares]
        rows.append([about["class"], f"{about['images']:,}", *cells])
    return table(rows, left={0})


def confusion_text(confusion: Tensor, classes: list[str]) -> str:
    """Tabulate a confusion matrix: true classes are rows, predicted ones numbered columns."""
    head = ["true \\ predicted", *(str(i) for i in range(len(classes)))]
    rows = [
        [f"{i} {name}", *(str(n) if n else "." for n in counts)]
        for i, (name, counts) in enumerate(zip(classes, confusion.tolist(), strict=True))
    ]
    return table([head, *rows], left={0})
