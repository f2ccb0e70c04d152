"""Graphs of a network's layers in one form for both frameworks, so that they can be compared.

Dropout, flattening and other layers that change no value in inference are no nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchcnn.keras_io.files import KerasLayer

Facts = dict[str, Any]  # properties that must agree, under the names that error messages use
Zeros = tuple[int, ...]  # a padding: (top, bottom, left, right)
NO_ZEROS: Zeros = (0, 0, 0, 0)


@dataclass(eq=False)
class Op:
    """A node of a reduced graph."""

    kind: str  # a key of `files.KINDS`, or the name of an activation in small letters
    name: str
    facts: Facts = field(default_factory=dict)
    inputs: list["Op"] = field(default_factory=list)
    depth: int = 0  # number of nodes on the longest path from the input
    signature: int = 0  # equal for nodes whose subgraphs are equal
    weights: KerasLayer | None = None  # set for nodes of a Keras model

    def __post_init__(self) -> None:
        self.depth = 1 + max((op.depth for op in self.inputs), default=0)
        input_signatures = [op.signature for op in self.inputs]
        if self.kind == "add":  # a sum does not depend on the order of its terms
            input_signatures = sorted(input_signatures)
        self.signature = hash((self.kind, repr(self.facts), tuple(input_signatures)))


def listed(output: Op) -> list[tuple[Op, list[int]]]:
    """List every node after its inputs, with the positions of these inputs in the list.

    Equal graphs give equal lists. The terms of a sum are visited in a fixed order, the longest
    branch first, so that the order in which they are written does not matter.
    """
    position: dict[Op, int] = {}
    rows: list[tuple[Op, list[int]]] = []
    stack = [output]  # not a recursion, because networks may be deeper than Python's limit
    while stack:
        op = stack[-1]
        inputs = op.inputs
        if op.kind == "add":
            inputs = sorted(inputs, key=lambda i: (-i.depth, i.signature))
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

# The options of activations: the fact, the names in PyTorch and Keras, and Keras's default.
OPTIONS: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "leakyrelu": ("slope", ("negative_slope", "alpha"), 0.2),
    "elu": ("alpha", ("alpha",), 1.0),
    "gelu": ("approximate", ("approximate",), False),
}
ALIASES = {"swish": "silu", "hardsilu": "hardswish"}
MONOTONIC = {"relu", "leakyrelu", "sigmoid", "tanh"}


def activation(function: str, options: Mapping[str, Any], name: str, source: Op) -> Op:
    """Return the node of an activation.

    Args:
        function: its name in PyTorch or Keras, such as `LeakyReLU` or `leaky_relu`.
        options: what may contain its options, such as `negative_slope`.
    """
    kind = function.lower().replace("_", "")
    kind = ALIASES.get(kind, kind)
    facts: Facts = {}
    if kind in OPTIONS:
        fact, keys, default = OPTIONS[kind]
        value = next((options[key] for key in keys if key in options), default)
        # Keras 2 writes the float32 that is nearest to 0.1 with all its digits.
        facts[fact] = float(f"{value:.6g}") if isinstance(value, float | int) else value
    if facts.get("slope", 0) < 0 or kind not in MONOTONIC:
        return Op(kind, name, facts, [source])
    # Before or after a max pooling, a monotonic function gives the same: here it always is before.
    pools = []
    while source.kind == "max_pool":
        pools.append(source)
        (source,) = source.inputs
    op = Op(kind, name, facts, [source])
    for pool in reversed(pools):
        op = Op("max_pool", pool.name, pool.facts, [op])
    return op


def pooling(kind: str, name: str, facts: Facts, source: Op) -> Op:
    """Return the node of a max or average pooling, whose facts are those of `pool_facts`."""
    if facts["window"] != (1, 1):
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
