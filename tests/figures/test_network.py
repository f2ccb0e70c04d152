"""The picture of a block has the layers and arrows that it has on paper, and can be read."""

import itertools

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from small_networks import EVERY
from torch import nn

import torchcnn
from torchcnn.figures.network import (
    arrange,
    block_graph,
    layer_label,
    parts,
    plot_block,
    plot_network,
)
from torchcnn.layers import FlattenLayer
from torchcnn.models import DenseBlock, Inception, Residual

BLOCKS = {
    "lenet": (lambda: torchcnn.create_model("lenet").stage1, (1, 28, 28)),
    "inception": (lambda: Inception(192, 64, (96, 128), (16, 32), 32), (192, 12, 12)),
    "residual": (lambda: Residual(64, 128, use_1x1conv=True, stride=2), (64, 56, 56)),
    "identity": (lambda: Residual(64, 64), (64, 56, 56)),
    "dense": (lambda: DenseBlock(3, 64, 32), (64, 24, 24)),
}


def drawn(name):
    """Labels, with the labels of what their arrows come from."""
    block, shape = BLOCKS[name]
    boxes = block_graph(block(), shape)
    return [(box.label, [boxes[i].label for i in box.inputs]) for box in boxes], boxes


def test_residual_adds_the_second_norm_and_the_1x1_convolution():
    labels, boxes = drawn("residual")
    first, second, short = "3×3 conv, 128\nstride 2", "3×3 conv, 128", "1×1 conv, 128\nstride 2"
    assert labels == [
        ("input", []),
        (first, ["input"]),
        ("norm", [first]),
        ("ReLU", ["norm"]),
        (second, ["ReLU"]),
        ("norm", [second]),
        (short, ["input"]),
        ("+", ["norm", short]),
        ("ReLU", ["+"]),
    ]
    assert boxes[7].inputs == (5, 6)  # the second norm
    assert {box.shape for box in boxes[1:]} == {(128, 28, 28)}
    _, boxes = drawn("identity")
    assert boxes[6].label == "+" and boxes[6].inputs == (5, 0)


def test_inception_concatenates_four_paths():
    labels, boxes = drawn("inception")
    join = boxes[-1]
    assert join.label == "concat" and len(join.inputs) == 4
    assert [boxes[i].shape[0] for i in join.inputs] == [64, 128, 32, 32]
    assert join.shape == (256, 12, 12)
    starts = [label for label, sources in labels if sources == ["input"]]
    assert starts == ["1×1 conv, 64", "1×1 conv, 96", "1×1 conv, 16", "3×3 max pool"]
    assert ("3×3 conv, 128", ["ReLU"]) in labels and ("5×5 conv, 32", ["ReLU"]) in labels
    assert ("1×1 conv, 32", ["3×3 max pool"]) in labels
    assert {len(column) for column in arrange(boxes)[1:-1]} == {4}


def test_each_layer_of_a_dense_block_is_concatenated_with_its_input():
    _, boxes = drawn("dense")
    joins = [i for i, box in enumerate(boxes) if box.label == "concat"]
    assert [boxes[i].shape[0] for i in joins] == [96, 128, 160]
    for before, join in itertools.pairwise([0, *joins]):
        x, new = boxes[join].inputs
        assert x == before and boxes[new].label == "3×3 conv, 32"
        norm = boxes[boxes[boxes[new].inputs[0]].inputs[0]]
        assert norm.label == "norm" and norm.inputs == (before,)


@pytest.mark.parametrize("name", BLOCKS)
def test_nothing_overlaps(name):
    block, shape = BLOCKS[name]
    boxes = block_graph(block(), shape)
    figure = plot_block(block(), shape)
    renderer = FigureCanvasAgg(figure).get_renderer()
    (axes,) = figure.axes
    frames = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
    arrows = [p for p in axes.patches if isinstance(p, FancyArrowPatch)]
    assert [text.get_text() for text in axes.texts] == [box.text for box in boxes]
    assert len(arrows) == sum(len(box.inputs) for box in boxes)
    places = [frame.get_window_extent(renderer) for frame in frames]
    for text, place in zip(axes.texts, places, strict=True):
        extent = text.get_window_extent(renderer)
        assert place.x0 < extent.x0 and extent.x1 < place.x1
        assert place.y0 < extent.y0 and extent.y1 < place.y1
        assert axes.bbox.x0 <= place.x0 and place.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= place.y0 and place.y1 <= axes.bbox.y1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(places, 2))
    for arrow in arrows:  # none runs through a box
        path = axes.transData.transform_path(arrow.get_path())
        for points in path.to_polygons(closed_only=False):
            assert not any(Path(points).intersects_bbox(p.padded(-2), filled=False) for p in places)


def test_a_layer_of_any_kind_has_a_label():
    assert layer_label(nn.Linear(3, 4)) == "dense, 4"
    assert layer_label(nn.Conv2d(8, 8, (1, 3), (1, 2), groups=8)) == (
        "1×3 conv, 8\nstride 1×2\n8 groups"
    )
    assert layer_label(nn.AvgPool2d(2)) == "2×2 average pool\nstride 2"
    assert layer_label(nn.AdaptiveAvgPool2d(1)) == "global\naverage pool"
    layers = nn.Sigmoid, nn.ReLU, nn.Dropout, nn.GELU, FlattenLayer
    assert [layer_label(x()) for x in layers] == ["sigmoid", "ReLU", "dropout", "GELU", "flatten"]


def test_a_network_is_drawn_by_its_stages():
    """A layer between blocks, and one that takes a vector, are drawn as in a block."""
    stages = ["stem", "stage1.0 × 3", "stage2.0", "stage2.1 × 3", "stage3.0", "stage3.1 × 5",
              "stage4.0", "stage4.1 × 2", "pool", "head"]  # fmt: skip
    for arch, titles, label in (
        ("lenet", ["stage1", "stage2", "head"], "dense, 10\n10"),
        ("resnet34", stages, "global\naverage pool\n512×1×1"),
        ("mlp", ["flatten", "hidden", "head"], "dense, 128\n128"),
    ):
        net = torchcnn.create_model(arch)
        texts = plot_network(net, torchcnn.models.MODELS[arch].input).axes[0].texts
        assert [text.get_text() for text in texts if text.get_weight() == "bold"] == titles
        assert label in [text.get_text() for text in texts]
        drawn = sum(len(list(part.parameters())) for _, part in parts(net))
        assert drawn == len(list(net.parameters()))


@pytest.mark.parametrize("arch", EVERY)
def test_every_network_can_be_drawn(arch):
    """At most 40 inches wide, and as high as a few screens."""
    with torch.device("meta"):
        net = torchcnn.create_model(arch)
    width, height = plot_network(net, torchcnn.models.MODELS[arch].input).get_size_inches()
    assert width < 40 and height < 40
