"""Match the layers of a PyTorch network with the layers of a Keras model.

Where the model has a graph, both graphs are listed in a canonical order, and the networks are equal
if the lists are. A file without a graph only suggests possible orders of its layers; the match is
accepted if all orders that fit agree.
"""

import math
import re
from collections.abc import Iterator
from itertools import zip_longest

from torch import nn

from torchcnn.keras_io.configs import KerasGraph, has_graph, input_shape
from torchcnn.keras_io.files import KerasFile, KerasLayer, Refused
from torchcnn.keras_io.graphs import Op, flatten, listed, ordered
from torchcnn.keras_io.table import WITH_WEIGHTS, keras_name

Pairs = dict[str, KerasLayer]  # the Keras layer for each name of a PyTorch layer

PROBABILITIES = {"softmax", "sigmoid"}  # what a Keras model may end in, and a network may lack

NUMBER = re.compile(r"(?:conv2d|dense|batch_normalization)(?:_(\d+))?")  # Keras's default names


def match(net: nn.Module, output: Op, file: KerasFile) -> Pairs:
    """Return the counterpart in a file of every layer with weights of a network with this graph."""
    if file.config and has_graph(file):
        keras_output = KerasGraph(file).model(file.config, _keras_input(file), "")
        if keras_output.kind in PROBABILITIES and keras_output.kind != output.bare.kind:
            (keras_output,) = keras_output.inputs  # networks here return logits
        same = _same(output, keras_output)
        return {op.name: keras_op.weights for op, keras_op in same if keras_op.weights}
    for layer in file.layers:
        if not layer.kind:
            raise Refused(f"its layer {layer.path} is no {', '.join(WITH_WEIGHTS)}")
    ours = {op.name: op for op in ordered(output) if op.kind in WITH_WEIGHTS}
    theirs = {layer.name: layer for layer in file.layers}
    names = {keras_name(name): name for name in ours}
    if theirs.keys() == names.keys() and len(file.layers) == len(ours) == len(names):
        pairs = {names[name]: layer for name, layer in theirs.items()}
        for name, layer in pairs.items():
            _compare(ours[name], Op(layer.kind, layer.path, layer.facts))
        return pairs
    return _by_order(net, output, ours, file)


def _keras_input(file: KerasFile) -> Op:
    """Return the input node of a Keras model.

    If it takes vectors, they are images of one channel that were flattened before.
    """
    shape, image = input_shape(file), Op("input", "its input")
    if len(shape) != 2:
        return image
    if shape[1] is None or math.isqrt(shape[1]) ** 2 != shape[1]:
        raise Refused("its input is a vector, with channels and pixels in an unknown order")
    return flatten("its input", image)


def _same(ours: Op, theirs: Op) -> Iterator[tuple[Op, Op]]:
    """Yield the nodes of two equal graphs in pairs; raise `Refused` at the first that differ."""
    our_rows, their_rows = listed(ours), listed(theirs)
    for (op, inputs), (keras_op, keras_inputs) in zip(our_rows, their_rows, strict=False):
        _compare(op, keras_op)
        if inputs != keras_inputs:
            raise Refused(f"its {keras_op.name} and the network's {op.name} have different inputs")
        yield op, keras_op
    for op, _ in our_rows[len(their_rows) :]:
        raise Refused(f"the network's {op.name} has no counterpart")
    for op, _ in their_rows[len(our_rows) :]:
        raise Refused(f"its {op.name} has no counterpart")


def _compare(op: Op, keras_op: Op) -> None:
    """Check that a node of a network and one of a Keras model are of one kind, with equal facts."""
    theirs, ours = f"its {keras_op.name}", f"where the network's {op.name}"
    if op.kind != keras_op.kind:
        raise Refused(f"{theirs} is {_a(keras_op.kind)}, {ours} is {_a(op.kind)}")
    for fact, value in keras_op.facts.items():
        if op.facts.get(fact, value) != value:
            raise Refused(f"{theirs} has {fact} {value}, {ours} has {op.facts[fact]}")


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _by_order(net: nn.Module, output: Op, ours: dict[str, Op], file: KerasFile) -> Pairs:
    """Match a file without a graph: weights alone, or a subclassed model, which is code.

    Such a file suggests several orders: the order of creation, given by the numbers in default
    names (conv2d_7), which corresponds to the order in which the PyTorch layers were created; and
    the order in which the file lists its layers, which corresponds either to the order of creation
    or to the order in which Keras lists the layers of a graph. All orders that fit must agree.
    """
    layers = file.layers
    created = [name for name, _ in net.named_modules() if name in ours]
    functional = all(re.fullmatch("layers/[^/]+", layer.path) for layer in layers)
    orders = []
    if all(NUMBER.fullmatch(layer.name) for layer in layers):
        by_number = sorted(layers, key=lambda layer: int(NUMBER.sub(r"\1", layer.name) or 0))
        orders.append((created, by_number))
    if file.legacy or functional:  # the terms of a sum may be written in either order
        orders += [(_keras_order(output, backwards), layers) for backwards in (False, True)]
    if file.legacy or not functional:
        orders.append((created, layers))
    fitting: list[Pairs] = []
    first_error: Refused | None = None
    for names, listed_layers in orders:
        try:
            fitting.append(_in_order([ours[name] for name in names if name in ours], listed_layers))
        except Refused as error:
            first_error = first_error or error
    if not fitting:
        raise first_error or Refused("it holds no layers")
    for others in fitting[1:]:
        for name, layer in fitting[0].items():
            if layer is not others[name]:
                raise Refused(
                    f"its {layer.path} and {others[name].path} both fit the network's {name}: "
                    "give the model, or its .keras file, which holds the graph"
                )
    return fitting[0]


def _in_order(ours: list[Op], layers: list[KerasLayer]) -> Pairs:
    """Pair the n-th node of each kind with the n-th Keras layer of that kind."""
    pairs = {}
    for kind in WITH_WEIGHTS:
        mine = [op for op in ours if op.kind == kind]
        theirs = [layer for layer in layers if layer.kind == kind]
        for op, layer in zip_longest(mine, theirs):
            if layer is None:
                raise Refused(f"it has no {kind} for the network's {op.name}")
            if op is None:
                raise Refused(f"the network has no {kind} for its {layer.path}")
            _compare(op, Op(kind, layer.path, layer.facts))
            pairs[op.name] = layer
    return pairs


def _keras_order(output: Op, backwards: bool) -> list[str]:
    """Return the layers of a graph in the order in which Keras lists them.

    Keras sorts by the length of the longest path to the output, longest first, and ties by the
    order in which a search from the output finds the layers. `backwards` reverses the terms of
    every sum.
    """
    distance: dict[Op, int] = {output: 0}
    for op in reversed(ordered(output)):
        for source in op.inputs:
            distance[source] = max(distance.get(source, 0), distance[op] + 1)
    found: dict[Op, int] = {}
    stack = [output]
    while stack:
        op = stack.pop()
        if op not in found:
            found[op] = len(found)
            turn = backwards and op.kind == "sum"
            stack += op.inputs if turn else reversed(op.inputs)
    return [op.name for op in sorted(found, key=lambda op: (-distance[op], found[op]))]
