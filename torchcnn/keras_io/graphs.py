"""Graphs of a network's layers in one form for both frameworks, so that they can be compared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torchcnn.keras_io.files import KerasLayer, Refused

Facts = dict[str, Any]
NO_ZEROS = (0, 0, 0, 0)
POOLINGS = ("max pooling", "average pooling")
# What takes images. A dense layer takes vectors only, everything else both.
OF_IMAGES = (*POOLINGS, "global average pooling", "convolution", "padding", "padding of channels")


@dataclass(eq=False)
class Op:
    """A node of a graph."""

    kind: str  # as error messages call it; most are kinds of `table.LAYERS`
    name: str
    facts: Facts = field(default_factory=dict)  # what must agree, under the names of messages
    inputs: list["Op"] = field(default_factory=list)
    weights: KerasLayer | None = None  # set for nodes of a Keras model
    training: Facts = field(default_factory=dict)  # options of Keras's layer that count only there
    axes: int = 4  # of what it returns: 4 for images, 2 for vectors
    depth: int = 0  # number of nodes on the longest path from the input
    signature: int = 0  # equal for nodes whose subgraphs are equal

    def __post_init__(self) -> None:
        if len({op.axes for op in self.inputs}) > 1:
            raise Refused(f"{self.name} joins images and vectors")  # each broadcasts them otherwise
        if self.inputs:
            vectors = self.kind in ("flattening", "dense layer")
            self.axes = 2 if vectors else self.inputs[0].axes
        sources = self.sources
        flat = [op.name for op in sources if op.kind == "flattening"]
        if flat and self.kind not in ("dense layer", "dropout"):
            raise Refused(
                f"{self.name} takes the images that {flat[0]} flattens, which Keras does in "
                "another order: only dense layers may"
            )
        self.depth = 1 + max((op.depth for op in sources), default=0)
        signatures = [op.signature for op in sources]
        if self.kind == "sum":  # it does not depend on the order of its terms
            signatures.sort()
        self.signature = hash((self.kind, repr(self.facts), tuple(signatures)))

    @property
    def bare(self) -> "Op":
        """The node itself, or the one in front if it only counts in training."""
        return self.inputs[0].bare if self.kind == "dropout" else self

    @property
    def sources(self) -> list["Op"]:
        """The nodes whose values the node takes in inference; those of a sum in a fixed order."""
        sources = [op.bare for op in self.inputs]
        if self.kind == "sum":
            sources.sort(key=lambda op: (-op.depth, op.signature))
        return sources


def ordered(output: Op, inputs: Callable[[Op], list[Op]] = lambda op: op.inputs) -> list[Op]:
    """Return every node that an output depends on, after its inputs."""
    found: dict[Op, None] = {}
    stack = [output]  # not a recursion, because networks may be deeper than Python's limit
    while stack:
        op = stack[-1]
        new = next((i for i in inputs(op) if i not in found), None)
        if new is not None:
            stack.append(new)
        else:
            found[stack.pop()] = None
    return list(found)


def listed(output: Op) -> list[tuple[Op, list[int]]]:
    """List every node that counts in inference, with the positions of its inputs in the list.

    Equal graphs give equal lists, whatever the order in which the terms of a sum are written.
    """
    ops = ordered(output.bare, lambda op: op.sources)
    position = {op: i for i, op in enumerate(ops)}
    return [(op, [position[source] for source in op.sources]) for op in ops]


def layer(kind: str, name: str, facts: Facts, source: Op, **more: Any) -> Op:
    """Return the node of a layer with one input; `more` are other fields of the node."""
    if kind in OF_IMAGES and source.axes != 4:
        raise Refused(f"{name} takes images, here vectors")
    if kind == "padding" and min(facts["zeros"]) < 0:
        raise Refused(f"{name} cuts pixels off, which Keras's padding does not")
    if kind == "dense layer" and source.axes != 2:
        raise Refused(f"{name} is a dense layer that takes images, not vectors")
    if kind == "flattening":
        return flatten(name, source)
    if facts.get("padding") == "valid":
        facts = facts | {"padding": NO_ZEROS}
    if kind == "padding of channels" and not any(facts["zeros"]):
        return source
    if kind == "convolution":
        source, padding = _conv_padding(source, **facts)
        facts = facts | {"padding": padding}
    if kind in POOLINGS:
        return _pooling(kind, name, facts, source)
    return Op(kind, name, facts, [source], **more)


def flatten(name: str, source: Op) -> Op:
    """Return the node of a flattening."""
    if source.axes == 2:
        return source
    if source.kind == "global average pooling":  # Keras's returns a vector by itself
        vector = Op(source.kind, source.name, source.facts, source.inputs)
        vector.axes = 2
        return vector
    return Op("flattening", name, inputs=[source])


def _half(window: tuple[int, int]) -> tuple[int, ...] | None:
    """Return the zeros that "same" adds at stride 1, if it adds as many at both sides."""
    h, w = (k // 2 for k in window)
    return (h, h, w, w) if window == (2 * h + 1, 2 * w + 1) else None


def _conv_padding(source: Op, kernel: Any, strides: Any, padding: Any, **_: Any) -> Any:
    """Return the input and the padding of a convolution, to which a layer of zeros in front counts.

    Symmetric zeros that keep the size at stride 1 are "same", and "same" never pads a 1×1 kernel.
    """
    window = kernel[:2]
    if padding == "same" and window != (1, 1):
        return source, padding
    zeros = NO_ZEROS if padding == "same" else padding
    if source.kind == "padding":
        zeros = tuple(a + b for a, b in zip(zeros, source.facts["zeros"], strict=True))
        (source,) = source.inputs
    return source, "same" if strides == (1, 1) and zeros == _half(window) else zeros


def _pooling(kind: str, name: str, facts: Facts, source: Op) -> Op:
    """Return the node of a pooling."""
    window, strides, padding = facts["pool_size"], facts["strides"], facts["padding"]
    half = _half(window)
    if padding not in ("same", NO_ZEROS) and (kind != "max pooling" or padding != half):
        raise Refused(f"{name} has a padding of {padding}, which Keras's pooling layers lack")
    if window == (1, 1):  # it only takes some of the pixels
        if strides == (1, 1):
            return source
        padding, before = NO_ZEROS, source.facts
        plain = source.kind == kind and (before["strides"], before["padding"]) == ((1, 1), "same")
        if plain and (half := _half(before["pool_size"])):
            # Behind a pooling, that is a larger stride. `to_keras` writes a pooling with symmetric
            # padding in this way.
            own = {"strides": strides, "padding": half}
            return Op(kind, source.name, before | own, source.inputs)
    elif padding == half and strides == (1, 1):
        padding = "same"
    return Op(kind, name, facts | {"padding": padding}, [source])
