"""Build Keras models from networks, with the same layers, layer names and weights."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchcnn.keras_io.graphs import OF_IMAGES, Op, ordered
from torchcnn.keras_io.networks import keras_views, read_channels, torch_ops
from torchcnn.keras_io.table import JOINS, KINDS, keras_name
from torchcnn.models.analysis import layer_graph

LAST = {"data_format": "channels_last"}  # given, because a user's keras.json may set another one


def to_keras(net: nn.Module, input_size: tuple[int, int, int] | None = None) -> Any:
    """Build a functional Keras model that computes what the network computes, with its weights.

    The model takes images (n, h, w, c) and returns logits. Its layers have the names of the
    PyTorch modules with underscores for dots, `stage1_0` for `stage1.0`. A layer without a single
    equivalent in Keras becomes several: the explicit zeros in front of a convolution, for example,
    are a layer `<name>_pad`. What changes nothing, such as the flattening of one pixel, is left
    out. Training differs in two respects: outside the `tf_` networks, Keras's batch norm tracks the
    biased variance, PyTorch's the unbiased one; and a frozen norm's gamma and beta stay, too.

    Args:
        net: the network to convert.
        input_size: (channels, height, width). With None the height and width stay undefined, and
            the model accepts every size that the network accepts.

    Raises:
        ValueError: if a layer has no counterpart in Keras, or Keras is not installed.
    """
    try:
        import keras
    except ImportError as error:
        raise ValueError("Keras is not installed: pip install 'torchcnn[keras]'") from error
    output = torch_ops(net, layer_graph(net))
    ops = ordered(output)
    views = keras_views(net, output, input_size[0] if input_size else None)
    channels, height, width = input_size or (read_channels(ops), None, None)
    builder = _Builder(keras, net, ops)
    tensors: dict[Op, Any] = {}
    for op in ops:
        if op.kind == "input":
            tensors[op] = image = keras.Input((height, width, channels), dtype=builder.dtype)
        else:
            tensors[op] = builder.layer(op, [tensors[source] for source in op.inputs])
    model = keras.Model(image, tensors[output])
    for name, weights in views.items():
        layer = model.get_layer(keras_name(name))
        for variable, view in zip(layer.weights, weights.values(), strict=True):
            if view.dtype == torch.bfloat16:  # NumPy does not have it
                view = view.float()
            variable.assign(view.cpu().reshape(tuple(variable.shape)).numpy())
    return model


def save_keras_weights(net: nn.Module, path: str | Path) -> None:
    """Save the weights of `to_keras(net)` in the format that `keras.Model.load_weights` reads.

    The file can be loaded into that model, and into others with the same layers in the same order.

    Raises:
        ValueError: if the name does not end in `.weights.h5`, or as for `to_keras`.
        OSError: if the file cannot be written; an existing file is then left unchanged.
    """
    path = Path(path)
    if not path.name.endswith(".weights.h5"):
        raise ValueError(f"the name of the file must end in .weights.h5 for Keras, got {path}")
    temporary = path.with_name(f"{path.name.removesuffix('.weights.h5')}.tmp.weights.h5")
    try:
        to_keras(net).save_weights(temporary, overwrite=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Builder:
    """Calls Keras layers, with the options of a graph's nodes, on symbolic tensors."""

    def __init__(self, keras: Any, net: nn.Module, ops: list[Op]) -> None:
        self.keras = keras
        self.calls: Counter[str] = Counter()  # a ReLU that is called twice becomes two Keras layers
        first = next(net.parameters(), torch.empty(0))
        self.dtype = str(first.dtype).removeprefix("torch.")
        dense = [op for op in ops if op.kind == "dense layer"]
        self.features = {op.sources[0]: op.facts["kernel"][0] for op in dense}  # that they take

    def make(self, kind: str, x: Any, name: str, **options: Any) -> Any:
        """Create a Keras layer of the class `kind` and call it on `x`."""
        return getattr(self.keras.layers, kind)(name=name, dtype=self.dtype, **options)(x)

    def zero_pad(self, x: Any, name: str, zeros: tuple[int, ...]) -> Any:
        """Add zeros at (top, bottom, left, right)."""
        padding = (zeros[:2], zeros[2:])
        return self.make("ZeroPadding2D", x, name, padding=padding, **LAST)

    def layer(self, op: Op, inputs: list[Any]) -> Any:
        """Apply the counterpart of a node."""
        row, name, make, x = KINDS.get(op.kind), keras_name(op.name), self.make, inputs[0]
        self.calls[name] += 1
        if (call := self.calls[name]) > 1:
            name = f"{name}_{call}"
        if row is None:
            # Channels of zeros: Keras pads rows and columns only, so the channels take the place of
            # the columns.
            x = make("Permute", x, f"{name}_in", dims=(1, 3, 2))
            x = self.zero_pad(x, name, (0, 0, *op.facts["zeros"]))
            return make("Permute", x, f"{name}_out", dims=(1, 3, 2))
        if op.kind == "padding":
            return self.zero_pad(x, name, op.facts["zeros"])
        if op.kind == "flattening" and None in x.shape[1:]:
            return make("Reshape", x, name, target_shape=(self.features[op],))
        options = op.facts | op.training | row.options(op)
        for shown in ("kernel", "features"):  # by the weights, not by an option of Keras's
            options.pop(shown, None)
        if op.kind in (*OF_IMAGES, "flattening"):
            options |= LAST
        if not (padding := op.facts.get("padding")):
            return make(row.keras, inputs if op.kind in JOINS else x, name, **options)
        options["padding"] = "same" if padding == "same" else "valid"
        zeros = padding != "same" and any(padding)
        if zeros and op.kind == "convolution":
            x = self.zero_pad(x, f"{name}_pad", padding)
        elif zeros:
            # Only at stride 1 is "same" the symmetric padding of a pooling, so another pooling,
            # with a window of one pixel, applies the stride.
            x = make(row.keras, x, name, **options | {"strides": 1, "padding": "same"})
            name, options = f"{name}_stride", options | {"pool_size": 1}
        return make(row.keras, x, name, **options)
