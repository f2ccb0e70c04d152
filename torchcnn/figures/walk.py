"""A page on which one walks through a network: each number, what it sees, how it is computed.

The page is one file that asks no other host for anything. `walk.html` beside this module is its
template, which draws and computes; here is the data that it takes: the outputs of all layers for
one picture, the weights, and the order in which they are drawn.
"""

import base64
import copy
import html
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchcnn.files import printable, whole
from torchcnn.models import ModelSpec
from torchcnn.models.attention import Attention, attention
from torchcnn.models.steps import (
    Step,
    convolve,
    counts_padding,
    is_everything,
    kernels,
    norm_numbers,
    steps,
)
from torchcnn.names import LANGUAGES

TEMPLATE = Path(__file__).with_name("walk.html")
MOST_BYTES = 5_600_000  # of numbers, of which base64 makes a third more: the page is below 8 MB
TERMS = 16  # of a dense layer's sum that are shown one by one; the others are one number
FLAT, FLAT_BLOCK = 12, 40  # steps of a chain and of a block that are drawn without groups
HEATS = 3  # classes whose heat map there is
# Layers that compute each channel from the same one of their inputs.
CHANNELWISE = {"norm", "relu", "sigmoid", "tanh", "max", "mean", "add"}
DERIVED = {"relu", "concat"}  # the page takes their outputs from their inputs

Group = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """A walk through a network, which a notebook shows in place."""

    html: str

    def save(self, path: str | Path) -> None:
        """Write it whole or not at all; a browser opens the file without a connection."""
        with whole(Path(path).expanduser()) as temporary:
            temporary.write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        style = "width:100%;height:820px;border:1px solid #8888;border-radius:8px"
        return f'<iframe srcdoc="{html.escape(self.html)}" style="{style}"></iframe>'


def walk(
    net: nn.Module,
    image: Tensor,
    classes: Sequence[str] = (),
    title: str = "",
    language: str = "en",
) -> Page:
    """Return a page with every number of a network for one image.

    It shows any network that `summary` describes. Of a large one it has fewer channels, those with
    the largest mean absolute activation, so that the page stays below 8 MB; what the others add to
    a sum is one exact number.

    Args:
        image: (c, h, w), a uint8 picture, or the floats that the network takes. If the network
            has the attribute `spec` of `load_model`, pictures are prepared by it.
        classes: The names of the outputs; those of the network's `spec`, or else their numbers.
        title: What the picture is, such as the name of its file.
        language: Of the text, "en" or "zh".

    Raises:
        ValueError: As for `summary`, or if the network does not return finite logits.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language: got {language!r}, allowed are {', '.join(LANGUAGES)}")
    spec = getattr(net, "spec", None)
    spec = spec if isinstance(spec, ModelSpec) else None
    x, shown = _prepare(image, spec)
    net = copy.deepcopy(net).cpu().float()
    found = attention(net, x)
    if not found.logits.isfinite().all():
        raise ValueError("the network computes NaN or infinity for the picture")
    order = found.logits.argsort(descending=True).tolist()
    names = list(classes) or (list(spec.classes) if spec else [*map(str, range(len(order)))])
    if len(names) != len(order):
        raise ValueError(f"classes: got {len(names)} names for {len(order)} outputs")
    heats = [found, *(attention(net, x, target) for target in order[1:HEATS])]
    walked = steps(net, x)
    chances = found.logits.softmax(0).view(-1, 1, 1)
    walked.append(Step("softmax", "softmax", "", (), (len(walked) - 1,), chances))
    channels = _choose(walked)
    data = {
        "net": spec.arch if spec else type(net).__name__.replace("Sequential", ""),
        "title": printable(title),
        "language": language,
        "classes": [printable(name) for name in names],
        "shown": shown,
        "parameters": sum(p.numel() for p in net.parameters()),
        "heats": [_heat(found) for found in heats],
        "steps": [_step(walked, i, channels) for i in range(len(walked))],
        "root": _group("", "", _tree(walked, range(len(walked)), 0), walked),
    }
    return Page(_fill(data))


def _prepare(image: Tensor, spec: ModelSpec | None) -> tuple[Tensor, dict[str, list[float]]]:
    """Return what the network takes, and by which scale and shift it is a picture in [0, 1]."""
    if image.dim() != 3:
        raise ValueError(f"walk takes one image (c, h, w), got {tuple(image.shape)}")
    image, is_photo = image.cpu(), image.dtype == torch.uint8
    if is_photo and spec:
        return spec.prepare(image), {"scale": list(spec.std), "shift": list(spec.mean)}
    x = image[None].float() / (255 if is_photo else 1)
    low, high = (0.0, 1.0) if is_photo else (float(x.min()), float(x.max()))
    scale = 1 / ((high - low) or 1.0)
    return x, {"scale": [scale] * len(image), "shift": [-low * scale] * len(image)}


def _heat(found: Attention) -> dict[str, Any]:
    shape, values = tuple(found.heat.shape), _packed(found.heat)
    return {"target": found.target, "method": found.method, "shape": shape, "map": values}


def _fill(data: dict[str, Any]) -> str:
    """Put the data into the template; a < in a name ends no script."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    page = page.replace("{{language}}", data["language"])
    page = page.replace("{{title}}", html.escape(f"{data['net']} {data['title']}".strip()))
    return page.replace("{{data}}", text)


# --- which channels are shown -------------------------------------------------------------------


def _choose(walked: list[Step]) -> list[list[int]]:
    """Return the channels of each step that are in the page, the strongest first.

    All of them, if that is not too much; else fewer the larger the maps are, as many as fit.
    """
    groups = _groups(walked)
    orders = {group: _by_strength(walked, group) for group in groups}
    budget = 1e6
    while _bytes(walked, sets := _sets(walked, groups, orders, budget)) > MOST_BYTES and budget > 1:
        budget /= 1.2
    return [[c for c in orders[groups[i]] if c in sets[i]] for i in range(len(walked))]


def _groups(walked: list[Step]) -> list[int]:
    """Return for each step the last one whose channels are the same, such as a norm's and ReLU's.

    They are shown together, so that each number is beside the one that it is computed from.
    """
    last = list(range(len(walked)))
    for i in reversed(range(len(walked))):
        step = walked[i]
        for source in step.inputs:
            value = walked[source].value
            same = value is not None and step.value is not None and len(value) == len(step.value)
            if step.op in CHANNELWISE and same:
                old, new = last[source], last[i]
                last = [max(old, new) if group in (old, new) else group for group in last]
    return last


def _by_strength(walked: list[Step], group: int) -> list[int]:
    value = walked[group].value
    if value is None:
        return []
    strength = value.mean((1, 2)) if _is_end(walked, group) else value.abs().mean((1, 2))
    return strength.argsort(descending=True, stable=True).tolist()


def _is_end(walked: list[Step], group: int) -> bool:
    """Whether these are the logits or the probabilities, of which all are shown by their size."""
    return group >= len(walked) - 2


def _sets(
    walked: list[Step], groups: list[int], orders: dict[int, list[int]], budget: float
) -> list[set[int]]:
    """Return the channels that are shown: a concatenation has those of its inputs."""
    areas = dict.fromkeys(groups, 1)
    for step, group in zip(walked, groups, strict=True):
        if step.value is not None:
            areas[group] = max(areas[group], step.value[0].numel())
    joins = [i for i, step in enumerate(walked) if step.op == "concat"]
    chosen: dict[int, set[int]] = {}
    for group, order in orders.items():
        whole = _is_end(walked, group) or (group == groups[0] and len(order) <= 4)
        count = len(order) if whole else max(1, int(budget / math.sqrt(areas[group])))
        chosen[group] = set(order[:count])
    chosen |= {groups[i]: set() for i in joins}
    before = -1
    while before != (before := sum(map(len, chosen.values()))):
        for i in joins:
            first, joined = 0, chosen[groups[i]]
            for source in walked[i].inputs:
                value, inner = walked[source].value, chosen[groups[source]]
                count = 0 if value is None else len(value)
                inner |= {c - first for c in joined if first <= c < first + count}
                joined |= {c + first for c in inner}
                first += count
    return [chosen[group] for group in groups]


def _bytes(walked: list[Step], sets: list[set[int]]) -> int:
    """Return about how many bytes of numbers the page would have."""
    total = 0
    for step, taken in zip(walked, sets, strict=True):
        if step.value is None:
            continue
        maps = 4 * len(taken) * step.value[0].numel()
        total += 24 * len(taken)  # its number, a bias, and what a norm has
        total += 0 if step.op in DERIVED else maps
        if step.op == "take":
            total += maps
        elif step.op == "conv":
            inputs = sets[step.inputs[0]]
            total += 4 * len(taken) * len(inputs) * step.layer.weight[0, 0].numel()
            total += maps if len(inputs) < step.layer.in_channels else 0
        elif step.op == "dense":
            total += 12 * TERMS * len(taken)
    return total


# --- the numbers --------------------------------------------------------------------------------


def _step(walked: list[Step], i: int, channels: list[list[int]]) -> dict[str, Any]:
    """Return a step as the page takes it."""
    step, taken = walked[i], channels[i]
    op = step.op
    if op == "mean" and is_everything(step.window):
        op = "global"
    elif op == "take" and step.value is not None and step.value[0].numel() == 1:
        op = "flatten"
    gaps = np.broadcast_to(getattr(step.layer, "dilation", 1), 2).tolist()
    data: dict[str, Any] = {
        "name": step.name,
        "op": op,
        "kind": step.kind,
        "inputs": step.inputs,
        "parameters": step.parameters,
        "window": [
            None if math.isinf(axis.field) else [axis.stride, int(axis.first), int(axis.last), gap]
            for axis, gap in zip(step.window, gaps, strict=True)
        ],
    }
    if step.value is None:
        return data
    data |= {"shape": tuple(step.value.shape), "channels": taken}
    finite = step.value[step.value.isfinite()]
    data["range"] = [float(finite.min()), float(finite.max())] if len(finite) else [0.0, 0.0]
    if step.op not in DERIVED:
        data["values"] = _packed(step.value[taken])
    return data | _operands(walked, i, channels)


def _packed(values: Tensor) -> dict[str, str]:
    """Return numbers as float32 in base64."""
    array = values.detach().float().cpu().numpy().astype("<f4")
    return {"floats": base64.b64encode(array.tobytes()).decode()}


def _operands(walked: list[Step], i: int, channels: list[list[int]]) -> dict[str, Any]:
    """Return the numbers with which a step computes, beside the maps before it.

    What the page does not have of a sum is one number for each unit, the rest.
    """
    step, taken, layer = walked[i], channels[i], walked[i].layer
    has_bias = step.op in ("conv", "dense") and layer.bias is not None
    bias = layer.bias.detach()[taken].tolist() if has_bias else None
    x = walked[step.inputs[0]].value if step.inputs else None
    if step.op == "conv" and x is not None:
        inputs, weight = channels[step.inputs[0]], kernels(layer, taken).double()
        groups = [layer.in_channels // layer.groups, layer.out_channels // layer.groups]
        data = {"groups": groups, "weight": _packed(weight[:, inputs]), "bias": bias}
        if len(inputs) < layer.in_channels:
            weight[:, inputs] = 0
            data["rest"] = _packed(convolve(step, x.double(), weight))
        return data
    if step.op == "dense" and x is not None:  # the largest terms of each unit's sum
        weight = layer.weight.detach()[taken]
        products = weight.double() * x.flatten().double()
        largest = products.abs().argsort(dim=1, descending=True)[:, :TERMS]
        return {
            "terms": largest.tolist(),
            "x": _packed(x.flatten()[largest]),
            "weight": _packed(weight.gather(1, largest)),
            "rest": (products.sum(1) - products.gather(1, largest).sum(1)).tolist(),
            "bias": bias,
        }
    if step.op == "norm":
        numbers = norm_numbers(layer)
        return {name: _packed(t[taken]) for name, t in numbers.items()} | {"eps": layer.eps}
    if step.op == "mean":
        return {"counts_padding": counts_padding(layer)}
    return {} if step.source is None else {"source": step.source[taken].flatten().tolist()}


# --- the order in which it is drawn -------------------------------------------------------------


def _tree(walked: list[Step], run: Sequence[int], depth: int) -> list[int | Group]:
    """Return the steps of a module in order; those of a module inside of it are a group."""
    items: list[int | Group] = []
    shown = [i for i in run if walked[i].value is not None]

    def module(i: int) -> tuple[str, str] | None:
        return walked[i].path[depth] if len(walked[i].path) > depth else None

    for key, same in itertools.groupby(shown, key=module):
        inner = list(same)
        if key is None or len(inner) == 1:
            items += inner
            continue
        flat = len(inner) <= (FLAT if key[1] == "Sequential" else FLAT_BLOCK)
        parts: list[int | Group] = [*inner] if flat else _tree(walked, inner, depth + 1)
        items += parts if len(parts) == 1 else [_group(*key, parts, walked)]
    return items


def _members(item: int | Group) -> list[int]:
    if isinstance(item, int):
        return [item]
    return [i for part in item["items"] for i in _members(part)]


def _group(name: str, kind: str, items: list[int | Group], walked: list[Step]) -> Group:
    """Lay a group's items out in columns: parallel paths stand below each other.

    The first of `columns` may have the group's input, "in", if it has several ways from there. An
    arrow that skips a column has a place in it, null.
    """
    from torchcnn.figures.network import Box, arrange, way  # Matplotlib is slow to import

    owner = {i: place for place, item in enumerate(items) for i in _members(item)}
    sources = [
        sorted({owner.get(j, -1) for i in _members(item) for j in _visible(walked, i)} - {place})
        for place, item in enumerate(items)
    ]
    parts = sum(-1 in found for found in sources) > 1
    boxes = [Box("in", (), (), 0)] if parts else []
    for found in sources:
        inputs = tuple(place + parts for place in found if parts or place >= 0)
        column = 1 + max((boxes[place].column for place in inputs), default=-1)
        boxes.append(Box("", (), inputs, column))
    columns = arrange(boxes)
    names: list[int | str] = ["in", *range(len(items))] if parts else [*range(len(items))]
    place = {stop: (i, column.index(stop)) for i, column in enumerate(columns) for stop in column}
    arrows = [(source, target) for target, box in enumerate(boxes) for source in box.inputs]
    return {
        "name": name,
        "kind": kind,
        "items": items,
        "columns": [
            [names[stop.box] if stop.source is None else None for stop in column]
            for column in columns
        ],
        "arrows": [[place[stop] for stop in way(boxes, *arrow)] for arrow in arrows],
    }


def _visible(walked: list[Step], i: int) -> set[int]:
    """Return the steps before a step that are drawn."""
    found = set()
    for source in walked[i].inputs:
        hidden = walked[source].value is None
        found |= _visible(walked, source) if hidden else {source}
    return found
