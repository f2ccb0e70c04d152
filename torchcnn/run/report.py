"""What a network got right and wrong: tables by class, the confusion matrix, its worst mistakes."""

from typing import TYPE_CHECKING

from torch import Tensor

from torchcnn.text import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_MISTAKES = 25  # in the picture of them


def by_class(confusion: Tensor, classes: list[str]) -> str:
    """Tabulate images, recall and precision of each class."""
    correct, images, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
    rows = [["class", "images", "recall", "precision"]]
    for i, name in enumerate(classes):
        totals = images[i], predicted[i]
        shares = [f"{int(correct[i]) / int(n):.3f}" if n else "-" for n in totals]
        rows.append([name, f"{int(images[i]):,}", *shares])
    return table(rows, left={0})


def confusion_text(confusion: Tensor, classes: list[str]) -> str:
    """Tabulate a confusion matrix: true classes are rows, predicted ones numbered columns."""
    head = ["true \\ predicted", *(str(i) for i in range(len(classes)))]
    rows = [
        [f"{i} {name}", *(str(n) if n else "." for n in counts)]
        for i, (name, counts) in enumerate(zip(classes, confusion.tolist(), strict=True))
    ]
    return table([head, *rows], left={0})


def plot_mistakes(images: Tensor, logits: Tensor, labels: Tensor, classes: list[str]) -> "Figure":
    """Show the wrong predictions with the highest probability, the highest first."""
    from torchcnn.run.plots import plot_images

    probability, predicted = logits.softmax(1).max(1)
    wrong = (predicted != labels).nonzero()[:, 0]
    order = probability[wrong].argsort(descending=True, stable=True)
    worst = wrong[order][:MAX_MISTAKES].tolist()
    titles = [
        f"{classes[predicted[i]]} {probability[i]:.0%}\n({classes[labels[i]]})" for i in worst
    ]
    heading = f"the surest {len(worst)} of {len(wrong):,} mistakes: predicted (true)"
    return plot_images([images[i] for i in worst], titles, heading)
