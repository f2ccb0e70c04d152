"""Where a network looks in pictures, and the figures that show it, as `explain` draws them."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from torchcnn.data.decode import open_image, read_image
from torchcnn.data.pixels import prepare, square_in
from torchcnn.figures.inside import (
    Box,
    heat_map,
    plot_attention,
    plot_attention_sheet,
    plot_features,
    plot_filters,
)
from torchcnn.figures.tiles import Tile
from torchcnn.models.attention import (
    CAM,
    GRAD_CAM,
    GRADIENT,
    Attention,
    attention,
    first_weights,
    stage_outputs,
)
from torchcnn.pictures import true_class

SAID = {
    CAM: "class activation map, what each place adds to the logit",
    GRAD_CAM: "Grad-CAM, where feature maps speak for the class",
    GRADIENT: "gradient × input, since the network has no convolutions",
}
LARGE, SMALL = 1000, 360  # pixels of the longer side of a photo, by itself and on a sheet


class Look(NamedTuple):
    """A picture, and where the network looks in it for one class or several."""

    file: str
    truth: str | None  # the class that its folder names
    maps: list[Attention]


def find_class(classes: Sequence[str], name: str, count: int) -> int | None:
    """Return the number of a class, or None, which is the most probable one, if none is named.

    Raises:
        ValueError: there is no such class, or several are asked for beside it.
    """
    if not name:
        return None
    if name not in classes:
        raise ValueError(f"--target: got {name}, allowed are {', '.join(classes)}")
    if count > 1:
        raise ValueError("either --target or --classes says whose evidence is shown")
    return classes.index(name)


def look(net: Any, file: str, target: int | None, layer: str = "", classes: int = 1) -> Look:
    """Read a picture, and find out where the network looks in it.

    Args:
        target: the class that the map is of; None is the most probable one.
        layer: of which a map is made, if not of the one that `attention` chooses.
        classes: how many of the most probable classes have a map.

    Raises:
        ValueError, FileNotFoundError: it cannot be read, or the network returns no finite numbers.
    """
    x = net.spec.prepare(read_square(net.spec, file))
    maps = [attention(net, x, target, layer or None)]
    count = min(classes, net.spec.num_classes)
    for runner_up in maps[0].logits.topk(count).indices[1:].tolist():
        maps.append(attention(net, x, runner_up, layer or None))
    if not all(m.logits.isfinite().all() and m.heat.isfinite().all() for m in maps):
        raise ValueError(f"the network computes NaN or infinity for {file}")
    return Look(file, true_class(file, net.spec.classes), maps)


def read_square(spec: Any, file: str) -> Tensor:
    """Read a picture as the network takes it."""
    return read_image(Path(file).expanduser(), spec.in_channels, spec.input_size, spec.resize)


def read_photo(spec: Any, file: str, longest: int) -> tuple[Tensor, Box]:
    """Read a picture in colour as it is, or smaller, and say which part of it the network sees."""

    def shrink(opened: Any) -> Any:
        opened.draft(None, (longest, longest))
        image = prepare(opened, 3, None, spec.resize)
        image.thumbnail((longest, longest))
        return image

    image = open_image(Path(file).expanduser(), shrink)
    photo = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return photo, square_in(image.size, spec.input_size, spec.resize)


def plan(net: Any, looks: Sequence[Look], has_maps: bool) -> dict[str, Callable[[], Figure]]:
    """Return what draws each figure, by its file's name; say which ones there cannot be."""
    figures: dict[str, Callable[[], Figure]] = {}
    weights = first_weights(net, net.spec.shape)
    if weights is None:
        print("note: no filters.png, since no layer's weights are images", file=sys.stderr)
    else:
        figures["filters.png"] = partial(plot_filters, weights, "weights of the first layer")
    if len(looks) > 1:
        return figures | {"attention.png": partial(draw_sheet, net, looks)}
    name = Path(looks[0].file).stem
    if has_maps:
        figures[f"{name}-features.png"] = partial(draw_features, net, looks[0])
    else:
        print("note: no features.png, since no stage returns feature maps", file=sys.stderr)
    return figures | {f"{name}-attention.png": partial(draw_attention, net, looks[0])}


def draw_features(net: Any, seen: Look) -> Figure:
    """Draw a picture's feature maps; they are computed only now, because they are large."""
    image = read_square(net.spec, seen.file)
    outputs = stage_outputs(net, net.spec.prepare(image))
    return plot_features(image, outputs, Path(seen.file).name)


def draw_attention(net: Any, seen: Look) -> Figure:
    """Draw where the network looks in a picture, with the answer and the truth."""
    photo, box = read_photo(net.spec, seen.file, LARGE)
    heats = {f"evidence for {share(net, found, found.target)}": found.heat for found in seen.maps}
    truth = f", true: {seen.truth}" if is_wrong(net, seen) else ""
    heading = f"{Path(seen.file).name}: {answer(net, seen)}{truth}\n{method(seen.maps)}"
    return plot_attention(photo, heats, heading, box)


def draw_sheet(net: Any, looks: Sequence[Look]) -> Figure:
    """Draw where the network looks in many pictures; the maps of one are beside each other."""
    tiles = []
    for seen in looks:
        photo, box = read_photo(net.spec, seen.file, SMALL)
        truth = [f"true: {seen.truth}"] if is_wrong(net, seen) else []
        for i, found in enumerate(seen.maps):
            of_class = f"for {share(net, found, found.target)}"
            lines = [answer(net, seen), *truth, Path(seen.file).name] if i == 0 else []
            if i > 0 or found.target != found.logits.argmax():
                lines.append(of_class)
            lines.append(f"{found.heat.min():.2g} to {found.heat.max():.2g}".replace("-", "−"))
            tiles.append(Tile(heat_map(photo, found.heat, box), lines, i == 0 and bool(truth)))
    known = [seen for seen in looks if seen.truth is not None]
    right = sum(not is_wrong(net, seen) for seen in known)
    score = f", {right} of {len(known)} right" if known else ""
    heading = f"{len(looks)} pictures{score}\n{method(looks[0].maps)}"
    count = len(looks[0].maps)
    return plot_attention_sheet(tiles, heading, count * max(1, 6 // count) if count > 1 else 0)


def method(maps: Sequence[Attention]) -> str:
    """Say how maps were made, of which layer, and how large they are."""
    found = maps[0]
    where = f" ({found.layer}, {'×'.join(map(str, found.heat.shape))})" if found.layer else ""
    nothing = "" if any(m.heat.any() for m in maps) else ": 0 everywhere"
    return f"{SAID[found.method]}{where}{nothing}"


def share(net: Any, found: Attention, number: int) -> str:
    """A class with its probability."""
    return f"{net.spec.classes[number]} {float(found.logits.softmax(0)[number]):.1%}"


def answer(net: Any, seen: Look) -> str:
    """The most probable class with its probability, and whether it is right, if that is known."""
    found = seen.maps[0]
    mark = "" if seen.truth is None else "✗ " if is_wrong(net, seen) else "✓ "
    return mark + share(net, found, int(found.logits.argmax()))


def is_wrong(net: Any, seen: Look) -> bool:
    best = int(seen.maps[0].logits.argmax())
    return seen.truth is not None and net.spec.classes[best] != seen.truth
