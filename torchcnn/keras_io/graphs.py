"""Graphs of a network's layers in one form for both frameworks, so that they can be compared.

Dropout and other layers that change no value in inference are no nodes, and neither is the step
from an image of one pixel to a vector or back. Any other flattening is one.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchcnn.keras_io.files import KerasLayer, Refused

Facts = dict[str, Any]  # properties that must agree, under the names that error messages use
Zeros = tuple[int, ...]  # a padding: (top, bottom, left, right)
NO_ZEROS: Zeros = (0, 0, 0, 0)


# Kinds that only wrap a node to say that its values now form a vector, or an image of one pixel.
WRAPPERS = ("vector", "pixel")
VECTORS = ("vector", "flatten", "dense")  # what these return has two axes
IMAGES = ("conv", "global_avg", "global_max")  # and what these return has four
SPATIAL = ("flatten", "pad", "after", "swapped", "max_pool", "avg_pool")


@dataclass(eq=False)
class Op:
    """A node of a reduced graph."""

    kind: str  # a key of `files.KINDS`, or the name of an activation in small letters
    name: str
    facts: Facts = field(default_factory=dict)
    inputs: list["Op"] = field(default_factory=list)
    axes: int = 4  # of what it returns; to be given for inputs and pixels only
    flat: bool = False  # whether that has one value a channel: both frameworks agree on the order
    depth: int = 0  # number of nodes on the longest path from the input
    signature: int = 0  # equal for nodes whose subgraphs are equal
    weights: KerasLayer | None = None  # set for nodes of a Keras model

    def __post_init__(self) -> None:
        kind, given = self.kind, self.inputs
        if kind in VECTORS + IMAGES:
            self.axes = 2 if kind in VECTORS else 4
        elif given and kind != "pixel":
            self.axes = given[0].axes
        wide = kind == "conv" and (self.facts["kernel"][:2], self.facts["padding"]) != POINT
        if kind in (*WRAPPERS, "dense", "global_avg", "global_max"):
            self.flat = True
        elif given:
            self.flat = all(op.flat for op in given) and kind not in SPATIAL and not wide
        self.inputs = [op.bare for op in given]
        self.depth = 1 + max((op.depth for op in self.inputs), default=0)
        input_signatures = [op.signature for op in self.inputs]
        if self.kind == "add":  # a sum does not depend on the order of its terms
            input_signatures = sorted(input_signatures)
        self.signature = hash((self.kind, repr(self.facts), tuple(input_signatures)))

    @property
    def bare(self) -> "Op":
        """The node itself, without wrappers."""
        return self.inputs[0] if self.kind in WRAPPERS else self


POINT = (1, 1), NO_ZEROS  # the window and the padding of a convolution of single pixels


def join(kind: str, name: str, inputs: list[Op]) -> Op:
    """Return the node of a sum or a concatenation.

    Raises:
        Refused: if it joins images and vectors, which the frameworks broadcast differently.
    """
    if len({op.axes for op in inputs}) > 1:
        raise Refused(f"{name} joins images and vectors")
    return Op(kind, name, inputs=inputs)


def flatten(name: str, source: Op) -> Op:
    """Return the node of a flattening."""
    if source.axes == 2:
        return source
    return Op("vector" if source.flat else "flatten", name, inputs=[source])


def _uses(output: Op) -> dict[Op, int]:
    """Return a number for what becomes of every node's output; it is equal in equal graphs."""
    uses: dict[Op, list[int]] = defaultdict(list, {output: []})
    numbers: dict[Op, int] = {}
    waiting = {output.depth: [output]}
    for depth in range(output.depth, 0, -1):  # a node is deeper than its inputs
        for op in waiting.get(depth, ()):
            numbers[op] = hash(tuple(sorted(uses[op])))
            for place, source in enumerate(op.inputs):
                if source not in uses:
                    waiting.setdefault(source.depth, []).append(source)
                place = 0 if op.kind == "add" else place
                uses[source].append(hash((numbers[op], op.signature, place)))
    return numbers


def listed(output: Op) -> list[tuple[Op, list[int]]]:
    """List every node after its inputs, with the positions of these inputs in the list.

    Equal graphs give equal lists. The terms of a sum are visited in a fixed order, the longest
    branch first, so that the order in which they are written does not matter.
    """
    output = output.bare
    uses = _uses(output)
    position: dict[Op, int] = {}
    rows: list[tuple[Op, list[int]]] = []
    stack = [output]  # not a recursion, because networks may be deeper than Python's limit
    while stack:
        op = stack[-1]
        inputs = op.inputs
        if op.kind == "add":
            inputs = sorted(inputs, key=lambda i: (-i.depth, i.signature, uses[i]))
        new = next((i for i in inputs if i not in position), None)
        if new is not None:
            stack.append(new)
            continue
        stack.pop()
        position[op] = len(rows)
        rows.append((op, [position[i] for i in inputs]))
    return rows


# --- paddings -----------------------------------------------------------------------------------


def padding_name(padding: str, kernel: Any, stride: Any, dilation: Any, zeros: Zeros) -> Any:
    """Return one description for all paddings with the same effect.

    Symmetric zeros that keep the size at stride 1 are "same", and "same" never pads a 1×1 kernel.
    """
    window = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if not any(window):
        return zeros
    if padding == "same":
        return "same" if not any(zeros) else (*zeros, "same")
    half = (window[0] / 2, window[0] / 2, window[1] / 2, window[1] / 2)
    return "same" if tuple(stride) == (1, 1) and zeros == half else zeros


def unpadded(source: Op) -> tuple[Op, Zeros]:
    """Return the input of a padding node and the zeros that it adds; other nodes add none."""
    if source.kind == "pad":
        return source.inputs[0], source.facts["zeros"]
    return source, NO_ZEROS


def through(name: str, source: Op) -> Op:
    """Skip a layer without weights, unless it separates a padding from its convolution."""
    return Op("after", name, inputs=[source]) if source.kind == "pad" else source


def new_channels(name: str, zeros: tuple[int, int], source: Op) -> Op:
    """Return the node that adds channels of zeros before and after the existing ones."""
    return Op("channels", name, {"zeros": zeros}, [source]) if any(zeros) else source


# --- activations and poolings -------------------------------------------------------------------

ALPHA = ("alpha", ("alpha",), 1.0)
LAMBDA = ("lambd", ("lambd",), 0.5)
# The activations that are equal in both frameworks if all of their options are: the fact, the names
# in PyTorch and Keras, and Keras's default. Not `hard_sigmoid`: Keras 2 has another one.
ACTIVATIONS: dict[str, tuple[tuple[str, tuple[str, ...], Any], ...]] = {
    **{kind: () for kind in ("relu", "relu6", "sigmoid", "tanh", "silu", "mish", "selu")},
    **{kind: () for kind in ("softsign", "logsigmoid", "tanhshrink", "hardswish")},
    **{kind: () for kind in ("softmax", "logsoftmax")},  # along the channels
    "leakyrelu": (("slope", ("negative_slope", "alpha"), 0.2),),
    "elu": (ALPHA,),
    "celu": (ALPHA,),
    "gelu": (("approximate", ("approximate",), False),),
    "softplus": (("beta", ("beta",), 1.0), ("threshold", ("threshold",), 20.0)),
    "hardtanh": (("min_val", ("min_val",), -1.0), ("max_val", ("max_val",), 1.0)),
    "softshrink": (LAMBDA,),
    "hardshrink": (LAMBDA,),
}
ALIASES = {"swish": "silu", "hardsilu": "hardswish"}
MONOTONIC = {"relu", "leakyrelu", "sigmoid", "tanh"}


def activation(function: str, options: Mapping[str, Any], name: str, source: Op) -> Op:
    """Return the node of an activation.

    Args:
        function: its name in PyTorch or Keras, such as `LeakyReLU` or `leaky_relu`.
        options: what may contain its options, such as `negative_slope`.

    Raises:
        Refused: if it is not known to be equal in the other framework.
    """
    kind = function.lower().replace("_", "")
    kind = ALIASES.get(kind, kind)
    if kind not in ACTIVATIONS:
        raise Refused(
            f"{name} is a {function}, which is not known to be equal in PyTorch and Keras"
        )
    facts: Facts = {}
    for fact, keys, default in ACTIVATIONS[kind]:
        value = next((options[key] for key in keys if key in options), default)
        # Keras 2 writes the float32 that is nearest to 0.1 with all its digits.
        facts[fact] = float(str(np.float32(value))) if isinstance(value, float | int) else value
    crossed = {"flatten"} if "softmax" not in kind else set()
    if kind in MONOTONIC and facts.get("slope", 0) >= 0:
        crossed.add("max_pool")
    # Before or after a flattening, and for a monotonic function before or after a max pooling, it
    # gives the same: here it always is before.
    later = []
    while source.kind in crossed:
        later.append(source)
        (source,) = source.inputs
    op = Op(kind, name, facts, [source])
    for other in reversed(later):
        op = Op(other.kind, other.name, other.facts, [op])
    return op


def pooling(kind: str, name: str, facts: Facts, source: Op) -> Op:
    """Return the node of a max or average pooling, whose facts are those of `pool_facts`."""
    if facts["window"] != (1, 1) or facts["divisor_override"] is not None:
        return Op(kind, name, facts, [source])
    strides, padding = facts["strides"], facts["padding"]
    if strides == (1, 1) and padding == NO_ZEROS:
        return through(name, source)
    before = source.facts
    # A window of one pixel only takes some of the pixels. Behind a pooling, it is a larger stride:
    # `to_keras` writes a pooling with symmetric padding in this way.
    if source.kind in ("max_pool", "avg_pool") and padding == NO_ZEROS:
        window, zeros = before["window"], before["padding"]
        if zeros == "same" and before["strides"] == (1, 1):
            sides = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in window]
            zeros = (*sides[0], *sides[1])
        if zeros != "same" and not before["ceil_mode"]:
            strides = tuple(a * b for a, b in zip(before["strides"], strides, strict=True))
            merged = before | {"strides": strides, "padding": zeros}
            return Op(source.kind, source.name, merged, source.inputs)
    return Op("max_pool", name, facts, [source])


def pool_facts(
    window: Any, strides: Any, padding: str, zeros: Zeros = NO_ZEROS, **others: Any
) -> Facts:
    """Return what describes a pooling; `others` are options that only PyTorch's layers have."""
    return {
        "window": window,
        "strides": strides,
        "padding": padding_name(padding, window, strides, (1, 1), zeros),
        "dilation": (1, 1),
        "ceil_mode": False,
        "divisor_override": None,
    } | others
