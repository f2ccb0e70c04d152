"""Match the layers of a PyTorch network with the layers of a Keras model.

Where the model has a graph, both graphs are listed in a canonical order, and the networks are equal
if the lists are. A file without a graph only suggests possible orders of its layers; the match is
accepted if all orders that fit agree.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.configs import MODELS, WITH_WEIGHTS, KerasGraph, input_shape, is_kerass
from torchcnn.keras_io.files import KINDS, KerasFile, KerasLayer, Refused
from torchcnn.keras_io.graphs import Op, flatten, listed
from torchcnn.keras_io.networks import keras_name, torch_ops

Pair = tuple[str, KerasLayer]  # the name of a PyTorch layer, and the Keras layer that it matches
SortKey = Callable[[KerasLayer], int]

PROBABILITIES = {"softmax", "sigmoid"}  # what a Keras model may end in, and a network may lack

NUMBER = re.compile(r"(?:conv2d|dense|batch_normalization)(?:_(\d+))?")  # Keras's default names


def has_graph(file: KerasFile) -> bool:
    """Return whether a file holds the graph of its layers, not their weights alone."""
    config = file.config
    return config is not None and config.get("class_name") in MODELS and is_kerass(config)


def match(net: nn.Module, graph: Graph, file: KerasFile) -> list[Pair]:
    """Return every layer of a network that has weights, with its counterpart in a file.

    Raises:
        Refused: if the networks differ, or the file does not determine which layer is which.
    """
    output = torch_ops(net, graph)
    ours = {op.name: op for op, _ in listed(output) if op.kind in WITH_WEIGHTS.values()}
    theirs = {layer.name: layer for layer in file.layers}
    if file.config and has_graph(file):
        source = _keras_input(len(input_shape(file)), output)
        keras_output = KerasGraph(file).model(file.config, source, "").bare
        if keras_output.kind in PROBABILITIES and keras_output.kind != output.kind:
            (keras_output,) = keras_output.inputs  # networks here return logits
        same = _same(output, keras_output)
        return [(op.name, keras_op.weights) for op, keras_op in same if keras_op.weights]
    for layer in file.layers:
        if not layer.kind:
            known = ", ".join(list(KINDS.values())[:3])
            raise Refused(f"its layer {layer.path} is no {known} with all its weights")
    names = {keras_name(name): name for name in ours}
    if theirs.keys() == names.keys() and len(file.layers) == len(ours) == len(names):
        for name, layer in theirs.items():
            compare(ours[names[name]], layer)
        return [(names[name], layer) for name, layer in theirs.items()]
    return _by_order(net, graph, ours, file)


def _keras_input(axes: int, output: Op) -> Op:
    """Return the input of a Keras model that takes an array of so many axes; 0 are not known.

    Where it takes vectors and the network flattens images, the vectors are those, with one channel.
    """
    for op, _ in listed(output) if axes == 2 else ():
        if op.kind == "flatten" and op.inputs[0].kind == "input":
            features = [user.facts["kernel"][0] for user, _ in listed(output) if op in user.inputs]
            if any(math.isqrt(n) ** 2 != n for n in features):
                raise Refused("its input is a vector, with channels and pixels in an unknown order")
            return flatten("its input", Op("input", "its input"))
    return Op("input", "its input", axes=axes or 4, flat=axes == 2)


def _difference(their_name: str, theirs: str, our_name: str, ours: str) -> Refused:
    return Refused(f"its {their_name} {theirs}, where the network's {our_name} {ours}")


def _a(kind: str) -> str:
    """Return what an error message calls a node of this kind, with its article."""
    noun = KINDS.get(kind, kind)
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _same(ours: Op, theirs: Op) -> Iterator[tuple[Op, Op]]:
    """Yield the nodes of two equal graphs in pairs; raise `Refused` at the first that differ."""
    our_rows, their_rows = listed(ours), listed(theirs)
    for (op, inputs), (keras_op, keras_inputs) in zip(our_rows, their_rows, strict=False):
        if op.kind != keras_op.kind:
            kinds = _a(op.kind), _a(keras_op.kind)
            raise _difference(keras_op.name, f"is {kinds[1]}", op.name, f"is {kinds[0]}")
        for fact, value in op.facts.items():
            keras_value = keras_op.facts[fact]
            if keras_value != value:
                has = f"has {fact} {keras_value}"
                raise _difference(keras_op.name, has, op.name, f"has {value}")
        if inputs != keras_inputs:
            raise Refused(
                f"its {keras_op.name} and the network's {op.name} take the outputs of different "
                "layers"
            )
        yield op, keras_op
    if len(our_rows) != len(their_rows):
        ours_is_longer = len(our_rows) > len(their_rows)
        longer, whose = (our_rows, "the network's") if ours_is_longer else (their_rows, "its")
        first_unmatched, _ = longer[min(len(our_rows), len(their_rows))]
        raise Refused(f"{whose} {first_unmatched.name} has no counterpart")


def compare(op: Op, layer: KerasLayer) -> None:
    """Check that the weights of a Keras layer fit a node, when no Keras graph is available.

    Raises:
        Refused: if the kind of layer, the shape or the presence of a bias differs.
    """
    if op.kind != layer.kind:
        raise _difference(layer.path, f"is {_a(layer.kind)}", op.name, f"is {_a(op.kind)}")
    shape = layer.weights[0].shape
    wanted = (op.facts["features"],) if op.kind == "norm" else op.facts["kernel"]
    if shape != wanted:
        raise _difference(layer.path, f"has the shape {shape}", op.name, f"has {wanted}")
    if op.kind != "norm" and op.facts["bias"] != (len(layer.weights) == 2):
        theirs, ours = ("no bias", "a bias") if op.facts["bias"] else ("a bias", "no bias")
        raise _difference(layer.path, f"has {theirs}", op.name, f"has {ours}")


def _by_order(net: nn.Module, graph: Graph, ours: dict[str, Op], file: KerasFile) -> list[Pair]:
    """Match a file without a graph: weights alone, or a subclassed model, which is code.

    Such a file suggests several orders: the order of creation, given by the numbers in default
    names (conv2d_7), which corresponds to the order in which the PyTorch layers were created; and
    the order in which the file lists its layers, which corresponds either to the order of creation
    or to the order in which Keras lists the layers of a graph. All orders that fit must agree.
    """
    fitting: list[list[Pair]] = []
    first_error: Refused | None = None
    for names, key in _orders(net, graph, ours, file):
        try:
            fitting.append(_in_order([ours[name] for name in names], file.layers, key))
        except Refused as error:
            first_error = first_error or error
    if not fitting:
        raise first_error or Refused("it holds no layers")
    for other in fitting[1:]:
        others = dict(other)
        for name, layer in fitting[0]:
            if layer is not others[name]:
                raise Refused(
                    f"its {layer.path} and {others[name].path} both fit the network's {name}: "
                    "give the model, or its .keras file, which holds the graph"
                )
    return fitting[0]


def _orders(
    net: nn.Module, graph: Graph, ours: dict[str, Op], file: KerasFile
) -> list[tuple[list[str], SortKey | None]]:
    """Return the orders to try: names of PyTorch layers, and a sort key for the Keras layers.

    Without a key, the Keras layers are taken as the file lists them.
    """
    created = [name for name, _ in net.named_modules() if name in ours]
    functional = all(re.fullmatch("layers/[^/]+", layer.path) for layer in file.layers)
    orders: list[tuple[list[str], SortKey | None]] = []
    if all(NUMBER.fullmatch(layer.name) for layer in file.layers):
        orders.append((created, _number))
    if file.legacy or functional:
        for backwards in (False, True):  # the terms of a sum may be written in either order
            as_listed = [name for name in _keras_order(graph, backwards) if name in ours]
            orders.append((as_listed, None))
    if file.legacy or not functional:
        orders.append((created, None))
    return orders


def _number(layer: KerasLayer) -> int:
    """Return how many layers of its kind were created before, from its default name in Keras."""
    found = NUMBER.fullmatch(layer.name)
    return int(found[1] or 0) if found else 0


def _in_order(ours: list[Op], layers: list[KerasLayer], key: SortKey | None) -> list[Pair]:
    """Pair the n-th node of each kind with the n-th Keras layer of that kind."""
    theirs: dict[str, list[KerasLayer]] = {"conv": [], "dense": [], "norm": []}
    for layer in sorted(layers, key=key) if key else layers:
        theirs[layer.kind].append(layer)
    pairs = []
    for op in ours:
        if not theirs[op.kind]:
            raise Refused(f"it has no {KINDS[op.kind]} for the network's {op.name}")
        layer = theirs[op.kind].pop(0)
        compare(op, layer)
        pairs.append((op.name, layer))
    for unmatched in theirs.values():
        if unmatched:
            kind, path = KINDS[unmatched[0].kind], unmatched[0].path
            raise Refused(f"the network has no {kind} for its {path}")
    return pairs


def _keras_order(graph: Graph, backwards: bool) -> list[str]:
    """Return the layers of a graph in the order in which Keras lists them.

    Keras sorts by the length of the longest path to the output, longest first, and ties by the
    order in which a search from the output finds the layers. `backwards` reverses the terms of
    every sum.
    """
    distance: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        distance[node] = max((distance[user] + 1 for user in node.users), default=0)
    found: dict[Node, int] = {}
    stack = [next(iter(reversed(graph.nodes)))]
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = len(found)
            turn = backwards and node.target in (operator.add, torch.add)
            stack += node.all_input_nodes if turn else reversed(node.all_input_nodes)
    order = sorted(found, key=lambda node: (-distance[node], found[node]))
    return [str(node.target) for node in order]
