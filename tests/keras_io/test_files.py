"""Files of Keras, whole, damaged and hostile, written here by hand: no Keras is needed."""

import io
import json
import pickle
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from torchcnn import create_model
from torchcnn.keras_io import load_keras_weights

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

pytestmark = pytest.mark.filterwarnings(
    "ignore:activations and poolings were not compared:UserWarning"
)
SHAPES = {"dense": [(784, 128), (128,)], "dense_1": [(128, 10), (10,)]}


def layer(kind, name, **config):
    return {"class_name": kind, "module": "keras.layers", "config": {"name": name, **config}}


def sequential(*layers):
    return {"class_name": "Sequential", "config": {"name": "model", "layers": layers}}


def mlp_config(*more):
    return sequential(
        layer("InputLayer", "image", batch_shape=[None, 28, 28, 1]), layer("Flatten", "flatten"),
        layer("Dense", "a", use_bias=True, activation="relu"),
        layer("Dense", "b", use_bias=True, activation="softmax"), *more,
    )  # fmt: skip


def weights(file, shapes=None):
    """As Keras 3 lays out the weights of a sequential model; returns the arrays."""
    rng, arrays = np.random.default_rng(0), {}
    for name, sizes in (shapes or SHAPES).items():
        group = file.create_group(f"layers/{name}/vars")
        for i, size in enumerate(sizes):
            arrays[name, i] = rng.normal(size=size).astype(np.float32)
            group[str(i)] = arrays[name, i]
    return arrays


def write_h5(path, change=None, shapes=None):
    with h5py.File(path, "w") as file:
        weights(file, shapes)
        if change:
            change(file)
    return path


def write_keras(path, config=None, names=("config.json", "model.weights.h5"), shapes=None):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        weights(file, shapes)
    with zipfile.ZipFile(path, "w") as archive:
        content = json.dumps(config or mlp_config()), stream.getvalue()
        for name, data in zip(names, content, strict=True):
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("write", [write_h5, write_keras])
def test_a_file_written_by_hand_loads(write, tmp_path):
    net = create_model("mlp").double()
    load_keras_weights(net, write(tmp_path / "m"))
    with h5py.File(tmp_path / "twin", "w") as file:
        arrays = weights(file)
    x = torch.rand(3, 1, 28, 28).double()
    hidden = np.maximum(x.flatten(1).numpy() @ arrays["dense", 0] + arrays["dense", 1], 0)
    y = hidden @ arrays["dense_1", 0] + arrays["dense_1", 1]
    torch.testing.assert_close(net(x).detach(), torch.from_numpy(y), rtol=0, atol=1e-10)


def test_one_warning_says_that_there_is_no_graph(tmp_path):
    net = create_model("mlp")
    path = write_h5(tmp_path / "m.weights.h5")
    with pytest.warns(UserWarning) as warned:
        load_keras_weights(net, path)
    messages = [str(warning.message) for warning in warned]
    assert messages == [f"activations and poolings were not compared: {path} has no graph"]
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_keras_weights(net, write_keras(tmp_path / "m.keras"))


def test_a_network_deeper_than_the_recursion_limit_loads(tmp_path):
    depth = sys.getrecursionlimit() // 2 + 100  # a dense layer and a ReLU each
    shapes = {f"dense_{i}".removesuffix("_0"): [(4, 4), (4,)] for i in range(depth)}
    layers = [layer("InputLayer", "i", batch_shape=[None, 2, 2, 1]), layer("Flatten", "f")]
    layers += [layer("Dense", name, use_bias=True, activation="relu") for name in shapes]
    net = nn.Sequential(nn.Flatten())
    for _ in range(depth):
        net.extend([nn.Linear(4, 4), nn.ReLU()])
    load_keras_weights(net, write_keras(tmp_path / "m.keras", sequential(*layers), shapes=shapes))
    with h5py.File(tmp_path / "twin", "w") as file:
        assert np.array_equal(net[-2].bias.detach(), weights(file, shapes)[[*shapes][-1], 1])


def test_flatten_is_permuted_from_hwc_to_chw(tmp_path):
    """A weight of 1 at row 1, column 2, channel 0 of an image of 3 channels."""
    net = create_model("softmax_regression", in_channels=3, input_size=4)
    kernel = np.zeros((48, 10), np.float32)
    kernel[(1 * 4 + 2) * 3 + 0, 7] = 1

    def change(file):
        file["layers/dense/vars/0"][...] = kernel
        file["layers/dense/vars/1"][...] = 0

    load_keras_weights(net, write_h5(tmp_path / "m.h5", change, {"dense": [(48, 10), (10,)]}))
    x = torch.rand(1, 3, 4, 4)
    assert net(x)[0, 7] == x[0, 0, 1, 2]


def test_keras_2_files_load(tmp_path):
    """Groups and arrays by name, `kernel:0`; the moving statistics come last, as Keras 2 does."""
    net, arrays = create_model("tf_baseline"), {}
    layers = {
        "conv2d": {"kernel:0": (5, 5, 3, 6), "bias:0": (6,)},
        "batch_normalization": {"gamma:0": (6,), "beta:0": (6,), "moving_mean:0": (6,),
                                "moving_variance:0": (6,)},
        "activation": {}, "dense": {"kernel:0": (1536, 128), "bias:0": (128,)},
        "dense_1": {"kernel:0": (128, 10), "bias:0": (10,)},
    }  # fmt: skip
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name, sizes in layers.items():
            names = [f"{name}/{weight}" for weight in sizes]
            file.create_group(name).attrs["weight_names"] = [n.encode() for n in names]
            for weight, size in sizes.items():
                arrays[name, weight] = np.random.default_rng(0).random(size, np.float32)
                file[f"{name}/{name}/{weight}"] = arrays[name, weight]
    load_keras_weights(net, tmp_path / "m.h5")
    stage, head = net.stage1, net.head
    assert torch.equal(stage[0].weight[4, 2, 1, 3],
                       torch.tensor(arrays["conv2d", "kernel:0"][1, 3, 2, 4]))  # fmt: skip
    assert np.array_equal(stage[1].running_var, arrays["batch_normalization", "moving_variance:0"])
    assert np.array_equal(head[4].weight.detach().T, arrays["dense_1", "kernel:0"])


# --- what is refused ----------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return print, ("EXECUTED",)


def replace(name, data=None, **options):
    def change(file):
        del file[name]
        if options:
            file.create_dataset(name, **options)
        else:
            file[name] = data

    return change


def virtual(file):
    del file[BIAS]
    layout = h5py.VirtualLayout((10,), np.float32)
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (10,))
    file["layers/dense_1/vars"].create_virtual_dataset("1", layout)


KERNEL, BIAS = "layers/dense_1/vars/0", "layers/dense_1/vars/1"
HOSTILE_H5 = {
    "a terabyte": (replace(KERNEL, shape=(2**30, 256), dtype="f4", chunks=(1024, 256)),
                   r"dense_1 has kernel \(1073741824, 256\), .* head has \(128, 10\)"),
    "a wrong bias": (replace(BIAS, np.zeros(11, "f4")), r"\(11,\), allowed is"),
    "a missing layer": (lambda f: f.pop("layers/dense_1"), "no dense layer for the network's head"),
    "a missing array": (lambda f: f.pop(KERNEL), "0 is missing"),
    "a missing bias": (lambda f: f.pop(BIAS), "has use_bias False"),
    "a layer too many": (lambda f: f.copy("layers/dense_1", "layers/dense_2"),
                         "no dense layer for its layers/dense_2"),
    "an unknown layer": (lambda f: f.create_dataset("layers/gru/vars/0", (3, 3, 3), "f4"),
                         "layers/gru is no convolution, dense layer, batch norm"),
    "one byte of no type": (replace(KERNEL, np.zeros((128, 10), "V1")),
                            r"a kernel of \|V1, not of a floating-point dtype"),
    "whole numbers": (replace(KERNEL, np.zeros((128, 10), "i4")), "of int32"),
    "an external link": (replace("layers/dense_1", h5py.ExternalLink("/etc/passwd", "/layers")),
                         "a link to another place"),
    "a soft link": (replace(BIAS, h5py.SoftLink("/layers/dense/vars/1")), "link to another place"),
    "another file's bytes": (replace(BIAS, shape=(10,), dtype="f4", external=[
        ("/etc/hostname", 0, 40)]), "from another file"),
    "another file's array": (virtual, "from another file"),
    "a cycle": (lambda f: f["layers"].__setitem__("again", f["layers"]), "stands in it twice"),
}  # fmt: skip


def refused(net, path, match, capfd):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=match) as error:
        load_keras_weights(net, path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert "EXECUTED" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("case", HOSTILE_H5)
def test_hostile_h5_files(case, tmp_path, capfd):
    change, match = HOSTILE_H5[case]
    refused(create_model("mlp"), write_h5(tmp_path / "m.weights.h5", change), match, capfd)


HOSTILE_KERAS = {
    "a lambda": ({"config": mlp_config(layer("Lambda", "evil", function=["4wAAAAA=", None, None]))},
                 "its layer evil is a Lambda"),
    "no weights for it": ({"shapes": {"dense": SHAPES["dense"]}}, "no weights of a dense .* b"),
    "another size": ({"shapes": SHAPES | {"dense_1": [(128, 12), (12,)]}},
                     r"its b has kernel \(128, 12\), where the network's head has"),
    "a traversal": ({"names": ("../config.json", "model.weights.h5")}, "leads out of the archive"),
    "an absolute path": ({"names": ("config.json", "/model.weights.h5")}, "leads out"),
    "no weights": ({"names": ("config.json", "other.h5")}, "has no model.weights.h5"),
    "no config": ({"names": ("other.json", "model.weights.h5")}, "has no config.json"),
    "a list": ({"config": [1]}, "describes no model"),
    "a cycle": ({"config": mlp_config(layer("Dense", "c") | {"inbound_nodes": [[["c", 0, 0]]]})},
                "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE_KERAS)
def test_hostile_keras_files(case, tmp_path, capfd):
    settings, match = HOSTILE_KERAS[case]
    refused(create_model("mlp"), write_keras(tmp_path / "m.keras", **settings), match, capfd)
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]


def test_an_archive_that_unpacks_to_gigabytes_is_refused_unread(tmp_path, capfd):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(mlp_config()))
        with archive.open("model.weights.h5", "w") as member:
            for _ in range(80):
                member.write(bytes(2**20))
    refused(create_model("mlp"), path, "has 83,886,080 bytes, at most", capfd)


@pytest.mark.parametrize("write", [write_h5, write_keras])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_truncated_files(write, share, tmp_path, capfd):
    path = write(tmp_path / "m")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(create_model("mlp"), path, "damaged|cannot be loaded", capfd)


def test_other_files(tmp_path, capfd):
    path = tmp_path / "m.keras"
    path.write_bytes(pickle.dumps(Evil()))
    refused(create_model("mlp"), path, "damaged, or not a file of Keras", capfd)
    torch.save({"x": torch.ones(3)}, path)
    refused(create_model("mlp"), path, "has no config.json: it is not a .keras file", capfd)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_keras_weights(create_model("mlp"), tmp_path)
    with pytest.raises(ValueError, match="neither a Keras model nor the path"):
        load_keras_weights(create_model("mlp"), 7)
