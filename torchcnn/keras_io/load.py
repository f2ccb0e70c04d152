"""Weights from Keras."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchcnn.keras_io.configs import input_channels
from torchcnn.keras_io.files import Refused, open_keras
from torchcnn.keras_io.layout import keras_views
from torchcnn.keras_io.match import match
from torchcnn.models.analysis import layer_graph


def load_keras_weights(net: nn.Module, source: Any) -> None:
    """Put the weights of a Keras model into a network, in place.

    Kernels (h, w, in, out) become (out, in, h, w); behind a flatten the rows of a dense layer, in
    the order h, w, c, become columns in the order c, h, w; a norm takes gamma, beta and its moving
    statistics. Files are read with h5py alone: neither Keras nor anything in the file is executed.

    Where the model has a graph (functional, sequential) the two graphs must be the same, with
    their strides, paddings and epsilons; activations and poolings, which have no weights, are not
    compared. What has no graph (subclassed models, files of weights) is matched by the order in
    which its layers were made and are listed, and refused where these leave a choice. A dense layer
    on the image itself takes it for a square of 1 or 3 channels, unless the file says what it is.

    Args:
        source: a Keras model, or the path of a `.keras`, `.weights.h5` or legacy `.h5` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or another network; the message names the first layer that
            differs, and what it has in both. The network is as it was.
    """
    graph = layer_graph(net)
    name = str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"
    try:
        with open_keras(source, sum(p.numel() for p in net.parameters())) as file:
            pairs = match(net, graph, file)
            views = keras_views(net, graph, input_channels(file))
            new = [
                (view, _values(array, key, view, layer.path))
                for torch_name, layer in pairs
                for (key, view), array in zip(views[torch_name].items(), layer.weights, strict=True)
            ]
    except FileNotFoundError:
        raise
    except Refused as error:
        raise ValueError(f"{name} cannot be loaded: {str(error)[:1000]}") from error
    except Exception as error:  # whatever a damaged or hostile file provokes in its readers
        what = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        kind = "is damaged, or not a file of Keras"
        kind = kind if isinstance(source, str | Path) else "cannot be read; was it built?"
        raise ValueError(f"{name} {kind} ({what})") from error
    for view, values in new:
        view.copy_(values)


def _values(array: Any, key: str, view: Tensor, path: str) -> Tensor:
    """Read an array of a file, once it is known to have the right shape."""
    shape = (math.prod(view.shape[:2]), view.shape[2]) if view.dim() == 3 else tuple(view.shape)
    if array.shape != shape:
        raise Refused(f"its {path} has a {key} of the shape {array.shape}, allowed is {shape}")
    if array.dtype.kind != "f":
        raise Refused(f"its {path} has a {key} of {array.dtype}, not of floating-point numbers")
    return torch.from_numpy(array[()]).view(view.shape)
