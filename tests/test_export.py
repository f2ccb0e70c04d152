"""What `torchcnn.export` writes, loaded as its users load it."""

import json
import zipfile

import pytest
import torch
from small_networks import describe, write_checkpoint

from torchcnn import create_model, list_models
from torchcnn.export import FORMATS, main
from torchcnn.formats import torch_export

# Keras's own.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = [f"class {i}" for i in range(10)]
FAMILIES = {  # one network a family: in_channels, input_size, small_input
    "mlp": (1, 28, False), "lenet": (1, 28, False), "googlenet": (1, 28, True),
    "resnet18": (1, 28, True), "densenet": (1, 28, True), "tf_baseline": (3, 31, False),
    "tf_inception10": (3, 32, False),
}  # fmt: skip
PACKAGES = {"keras": "keras", "onnx": "onnxruntime"}  # pip's extra


def checkpoint(path, arch, **changes):
    """A run's checkpoint, with weights and moving statistics that are not those of the start."""
    channels, size, small = FAMILIES[arch]
    spec = describe(arch, CLASSES, in_channels=channels, input_size=size, small_input=small,
                    **changes)  # fmt: skip
    torch.manual_seed(0)
    net = spec.build().train()
    with torch.no_grad():
        net(torch.rand(8, *spec.shape))
    write_checkpoint(path, net)
    return net.eval()


def options(about):
    """What `create_model` takes of what a file says."""
    small = {"small_input": True} if about["small_input"] else {}
    sizes = {name: about[name] for name in ("input_size", "in_channels")}
    return sizes | small | {"num_classes": len(about["classes"])}


def load(to, path, net):
    """The file in the runtime that it is for: (images -> logits, what it says of itself)."""
    if to == "keras":
        import keras

        about = json.loads(zipfile.ZipFile(path).read("torchcnn.json"))
        model = keras.models.load_model(path)
        return lambda x: torch.tensor(model.predict_on_batch(x.movedim(1, -1).numpy())), about
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        about = json.loads(session.get_modelmeta().custom_metadata_map["torchcnn"])
        return lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0]), about
    if to == "torch-export":
        extra = {"torchcnn.json": ""}
        program = torch.export.load(path, extra_files=extra)
        return program.module(), json.loads(extra["torchcnn.json"])
    if to == "txt":
        first, *lines = path.read_text().split("\n")
        about, weights = json.loads(first[2:]), {}
        twin = create_model(about["arch"], **options(about))
        for name, tensor in twin.state_dict().items():
            assert lines.pop(0) == name and lines.pop(0) == str(tuple(tensor.shape))
            end = lines.index("")
            numbers = " ".join(lines[:end]).replace("[", " ").replace("]", " ").split()
            lines = lines[end + 1 :]
            values = [float(number) for number in numbers]
            weights[name] = torch.tensor(values, dtype=tensor.dtype).view(tensor.shape)
    else:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
            about = json.loads(file.metadata()["torchcnn"])
        twin = create_model(about["arch"], **options(about))
    twin.load_state_dict(weights)
    return twin.eval(), about


def exported(to, arch, folder):
    pytest.importorskip(PACKAGES.get(to, "torch"), reason=f"pip install .[{to}]")
    channels = FAMILIES[arch][0]
    net = checkpoint(folder / "best.pt", arch, mean=(0.25,) * channels, std=(0.5,) * channels)
    path = folder / f"{arch}{FORMATS[to].suffix}"
    main(["--checkpoint", str(folder / "best.pt"), "--to", to, "--out", str(path)])
    return net, path


@torch.no_grad()
def check(to, arch, folder):
    net, path = exported(to, arch, folder)
    channels, size, _ = FAMILIES[arch]
    run, about = load(to, path, net)
    for n in (1, 3):
        x = torch.rand(n, channels, size, size)
        given = (x - 0.25) / 0.5 if to in ("safetensors", "txt") else x
        torch.testing.assert_close(run(given), net((x - 0.25) / 0.5), rtol=0, atol=1e-5)
    assert about["classes"] == CLASSES and about["arch"] == arch and about["input_size"] == size
    # What computes logits has the normalization in it; the weights alone are said to need it.
    alone = to in ("safetensors", "txt")
    assert about["mean"] == [0.25 if alone else 0.0] * channels
    assert about["std"] == [0.5 if alone else 1.0] * channels
    assert sorted(p.name for p in folder.iterdir()) == sorted(["best.pt", path.name])


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_loads_where_it_is_for(to, tmp_path):
    check(to, "lenet", tmp_path)


# That every network goes through torch.export and to Keras and back is tested with the networks.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "to"),
    [(arch, "onnx") for arch in ("googlenet", "resnet18", "tf_baseline", "tf_inception10")]
    + [("densenet", to) for to in FORMATS],
)
def test_networks_of_several_families(arch, to, tmp_path):
    assert arch in list_models()
    check(to, arch, tmp_path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to", "onnx", "--out", "m.pt"], "--to onnx writes a file *.onnx, got --out m.pt"),
        (["--to", "tflite", "--out", "m.tflite"], "got tflite, allowed are keras, onnx"),
        (["--to", "torch-export", "--out", "best.pt2"], "--out best.pt2 exists already"),
        (["--to", "torch-export", "--out", "none/m.pt2"], "none is no folder"),
        (["--to", "torch-export"], "required: --out"),
        (["--to", "torch-export", "--out", "m.pt2", "--checkpoint", "no.pt"], "no checkpoint"),
        (["--to", "torch-export", "--out", "m.pt2", "--checkpoint", "best.pt2"], "damaged"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "best.pt", "mlp")
    (tmp_path / "best.pt2").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["--checkpoint", "best.pt", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert (tmp_path / "best.pt2").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "best.pt2"]


def test_a_file_that_computes_something_else_does_not_appear(tmp_path, monkeypatch):
    """The check after writing: what was written is loaded, and must give the same logits."""
    right = torch_export.load

    def load(path):
        run, spec = right(path)
        return (lambda x: run(x) + 1e-3), spec

    monkeypatch.setattr(torch_export, "load", load)
    checkpoint(tmp_path / "best.pt", "mlp")
    with pytest.raises(RuntimeError, match="logits for 1 images differ"):
        main(["--checkpoint", str(tmp_path / "best.pt"), "--to", "torch-export",
              "--out", str(tmp_path / "m.pt2")])  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]
