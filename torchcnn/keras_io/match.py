"""Which layer of a Keras model is which of a torch network: by their graphs, never by luck.

Both graphs are written down from the output backwards, a branch after the other; equal lists are
equal networks. A file without a graph says less: there every order that it suggests must agree.
"""

import operator
import re
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.fx import Graph, Node

from torchcnn.keras_io.configs import MODELS, KerasGraph
from torchcnn.keras_io.files import KINDS, KerasFile, KerasLayer, Refused
from torchcnn.keras_io.graphs import Op, keras_name, listed, torch_ops

Pair = tuple[str, KerasLayer]  # a layer of the torch network, and its weights


def match(net: nn.Module, graph: Graph, file: KerasFile) -> list[Pair]:
    """Every layer of a network that has weights, with its counterpart in a file.

    Raises:
        Refused: the networks differ, or the file does not say enough to tell layers apart.
    """
    output = torch_ops(net, graph)
    ours = {op.name: op for op, _ in listed(output) if op.facts and op.kind != "pad"}
    theirs = {layer.name: layer for layer in file.layers}
    if file.config and file.config.get("class_name") in MODELS:
        reader = KerasGraph(file)
        other = reader.model(file.config, Op("input", "its input"), "")
        return [(op.name, twin.weights) for op, twin in _same(output, other) if twin.weights]
    for layer in file.layers:
        if not layer.kind:
            raise Refused(f"its layer {layer.path} is no {', '.join(list(KINDS.values())[:3])} "
                          "with all its weights")  # fmt: skip
    names = {keras_name(name): name for name in ours}
    if theirs.keys() == names.keys() and len(file.layers) == len(ours) == len(names):
        for name, layer in theirs.items():
            compare(ours[names[name]], layer)
        return [(names[name], layer) for name, layer in theirs.items()]
    return _by_order(net, graph, ours, file)


def _same(ours: Op, theirs: Op) -> Iterator[tuple[Op, Op]]:
    """The nodes of two equal graphs, pair by pair; the first that differ are the error."""
    a, b = listed(ours), listed(theirs)
    for (op, inputs), (twin, twin_inputs) in zip(a, b, strict=False):
        if op.kind != twin.kind:
            raise Refused(
                f"its {twin.name} is a {KINDS[twin.kind]}, "
                f"where the network's {op.name} is a {KINDS[op.kind]}"
            )
        for fact, value in op.facts.items():
            if twin.facts[fact] != value:
                raise Refused(f"its {twin.name} has {fact} {twin.facts[fact]}, "
                                 f"where the network's {op.name} has {value}")  # fmt: skip
        if inputs != twin_inputs:
            raise Refused(f"its {twin.name} and the network's {op.name} take other inputs")
        yield op, twin
    if len(a) != len(b):
        rest, whose = (a, "the network's") if len(a) > len(b) else (b, "its")
        raise Refused(f"{whose} {rest[min(len(a), len(b))][0].name} has no counterpart")


def compare(op: Op, layer: KerasLayer) -> None:
    """Hold a layer against weights whose model is not known.

    Raises:
        Refused: another kind or another shape.
    """
    if op.kind != layer.kind:
        raise Refused(f"its {layer.path} is a {KINDS[layer.kind]}, "
                         f"where the network's {op.name} is a {KINDS[op.kind]}")  # fmt: skip
    shape = layer.weights[0].shape
    wanted = (op.facts["features"],) if op.kind == "norm" else op.facts["kernel"]
    if shape != wanted:
        raise Refused(f"its {layer.path} has the shape {shape}, "
                         f"where the network's {op.name} has {wanted}")  # fmt: skip
    if op.kind != "norm" and op.facts["bias"] != (len(layer.weights) == 2):
        have = ("no bias", "a bias") if op.facts["bias"] else ("a bias", "no bias")
        raise Refused(f"its {layer.path} has {have[0]}, "
                         f"where the network's {op.name} has {have[1]}")  # fmt: skip


def _by_order(net: nn.Module, graph: Graph, ours: dict[str, Op], file: KerasFile) -> list[Pair]:
    """A file without a graph: weights alone, or a model that is code.

    It suggests several orders: as its layers were made, which their numbers tell (conv2d_7),
    against the order in which ours were; and as they are listed, against ours, and against the
    order in which Keras lists the layers of a graph. Those that fit must agree.
    """
    made = [name for name, _ in net.named_modules() if name in ours]
    functional = all(re.fullmatch("layers/[^/]+", layer.path) for layer in file.layers)
    orders: list[tuple[list[str], Callable[[KerasLayer], int] | None]] = []
    if all(NUMBER.fullmatch(layer.name) for layer in file.layers):
        orders.append((made, _number))
    if file.legacy or functional:
        for backwards in (False, True):  # a sum may be written either way
            listed_so = [name for name in _keras_order(graph, backwards) if name in ours]
            orders.append((listed_so, None))
    if file.legacy or not functional:
        orders.append((made, None))
    fitting: list[list[Pair]] = []
    first_error: Refused | None = None
    for names, key in orders:
        try:
            fitting.append(_in_order([ours[name] for name in names], file.layers, key))
        except Refused as error:
            first_error = first_error or error
    if not fitting:
        raise first_error or Refused("it holds no layers")
    for other in fitting[1:]:
        others = dict(other)
        for name, layer in fitting[0]:
            twin = others[name]
            if layer is not twin:
                raise Refused(
                    f"its {layer.path} and {twin.path} both fit the network's {name}: give the "
                    "model, or its .keras file, which holds the graph"
                )
    return fitting[0]


NUMBER = re.compile(r"(?:conv2d|dense|batch_normalization)(?:_(\d+))?")


def _number(layer: KerasLayer) -> int:
    """How many layers of its kind were made before it, as Keras's own names count them."""
    found = NUMBER.fullmatch(layer.name)
    return int(found[1] or 0) if found else 0


def _in_order(
    ours: list[Op], layers: list[KerasLayer], key: Callable[[KerasLayer], int] | None
) -> list[Pair]:
    """Pair the layers of each kind in order, the first of ours with the first of theirs."""
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
    for rest in theirs.values():
        if rest:
            raise Refused(f"the network has no {KINDS[rest[0].kind]} for its {rest[0].path}")
    return pairs


def _keras_order(graph: Graph, backwards: bool) -> list[str]:
    """Layers as Keras lists those of a graph: by steps to the output, then as met from there.

    `backwards` takes the terms of all sums the other way round.
    """
    steps: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        steps[node] = max((steps[user] + 1 for user in node.users), default=0)
    met: dict[Node, int] = {}
    waiting = [next(iter(reversed(graph.nodes)))]
    while waiting:
        node = waiting.pop()
        if node not in met:
            met[node] = len(met)
            turn = backwards and node.target in (operator.add, torch.add)
            waiting += node.all_input_nodes if turn else reversed(node.all_input_nodes)
    order = sorted(met, key=lambda node: (-steps[node], met[node]))
    return [str(node.target) for node in order]
