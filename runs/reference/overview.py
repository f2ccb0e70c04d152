"""The picture at the top of the README: heat maps, mistakes, and DenseNet's block.

    python runs/reference/overview.py

It takes ResNet-20's weights that are in the package, and the test images of Fashion-MNIST.
"""

import io
from pathlib import Path
from typing import Any

from PIL import Image

import torchcnn
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.figures.inside import heat_map
from torchcnn.figures.network import plot_block
from torchcnn.figures.tiles import Tile, plot_tiles
from torchcnn.models.attention import attention
from torchcnn.training.loop import predict_logits

SEEN = (0, 18, 13, 8, 19, 2)  # of the test images
WIDTH, GAP = 1600, 24


def draw(figure: Any) -> Image.Image:
    """Draw a figure as wide as the picture."""
    with io.BytesIO() as file:
        figure.savefig(file, dpi=250, format="png")
        image = Image.open(file).convert("RGB")
    return image.resize((WIDTH, round(image.height * WIDTH / image.width)))


def main() -> None:
    net: Any = torchcnn.create_model("resnet20", pretrained=True).eval()
    spec, data = net.spec, load_data("fashion-mnist")
    images, labels = data.test_images, data.test_labels
    normalization = spec.mean, spec.std
    batches = Batches(images, labels, 500, size=spec.input_size, normalization=normalization)
    probability, predicted = predict_logits(net, batches)[0].softmax(1).max(1)
    seen = []
    for i in SEEN:
        one = Batches(images[i : i + 1], labels[i : i + 1], 1, size=spec.input_size,
                      normalization=normalization)  # fmt: skip
        heat = attention(net, next(iter(one))[0]).heat
        answer = f"{spec.classes[predicted[i]]} {probability[i]:.1%}"
        seen.append(Tile(heat_map(images[i], heat), [answer]))
    wrong = (predicted != labels).nonzero()[:, 0]
    worst = wrong[probability[wrong].argsort(descending=True)][: len(SEEN)].tolist()
    mistakes = [
        Tile(
            images[i],
            [
                f"{spec.classes[predicted[i]]} {probability[i]:.1%}",
                f"true: {spec.classes[labels[i]]}",
            ],
            wrong=True,
        )
        for i in worst
    ]
    n = f"{len(wrong):,} of {len(labels):,}"
    columns = len(SEEN)
    parts = [
        draw(plot_tiles(seen, "Where ResNet-20 looks: what each place adds to the logit", columns)),
        draw(plot_tiles(mistakes, f"What it gets wrong, the surest of {n}", columns)),
        draw(plot_block(torchcnn.DenseBlock(3, 64, 32), (64, 24, 24))),
    ]
    height = sum(part.height for part in parts) + GAP * (len(parts) + 1)
    whole = Image.new("RGB", (WIDTH + 2 * GAP, height), "white")
    top = GAP
    for part in parts:
        whole.paste(part, (GAP, top))
        top += part.height + GAP
    whole.save(Path(__file__).with_name("overview.png"), optimize=True)


if __name__ == "__main__":
    main()
