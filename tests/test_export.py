"""What `torchcnn.export` writes, loaded as its users load it."""

import json
import zipfile
from ast import literal_eval

import pytest
import torch
from small_networks import describe, write_checkpoint

from torchcnn import create_model
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


def load(to, path):
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
        first, text = path.read_text().split("\n", 1)
        about, weights = json.loads(first[2:]), {}
        for name, shape, *rows in (block.split("\n") for block in text.strip().split("\n\n")):
            numbers = [float(number) for row in rows for number in row.strip("[]").split()]
            weights[name] = torch.tensor(numbers).view(literal_eval(shape))
    else:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
            about = json.loads(file.metadata()["torchcnn"])
    sizes = {name: about[name] for name in ("input_size", "in_channels")}
    small = {"small_input": True} if about["small_input"] else {}
    twin = create_model(about["arch"], num_classes=len(about["classes"]), **sizes, **small)
    twin.load_state_dict(weights)
    return twin.eval(), about


@torch.no_grad()
def check(to, arch, folder):
    pytest.importorskip(PACKAGES.get(to, "torch"), reason=f"pip install .[{to}]")
    channels, size, _ = FAMILIES[arch]
    net = checkpoint(folder / "best.pt", arch, mean=(0.25,) * channels, std=(0.5,) * channels)
    path = folder / f"{arch}{FORMATS[to].suffix}"
    main(["--checkpoint", str(folder / "best.pt"), "--to", to, "--out", str(path)])
    run, about = load(to, path)
    # What computes logits has the normalization in it; the weights alone are said to need it.
    alone = to in ("safetensors", "txt")
    for n in (1, 3):
        x = torch.rand(n, channels, size, size)
        given = (x - 0.25) / 0.5 if alone else x
        torch.testing.assert_close(run(given), net((x - 0.25) / 0.5), rtol=0, atol=1e-5)
    assert about["classes"] == CLASSES and about["arch"] == arch and about["input_size"] == size
    assert about["mean"] == [0.25 if alone else 0.0] * channels
    assert about["std"] == [0.5 if alone else 1.0] * channels
    assert sorted(p.name for p in folder.iterdir()) == sorted(["best.pt", path.name])


@pytest.mark.parametrize(
    "to", [pytest.param(to, marks=[pytest.mark.extra] * (to in PACKAGES)) for to in FORMATS]
)
def test_a_file_loads_where_it_is_for(to, tmp_path):
    check(to, "lenet", tmp_path)


# That every network goes through torch.export and to Keras and back is tested with the networks.
@pytest.mark.slow
@pytest.mark.parametrize(
    "arch", ["googlenet", "resnet18", "densenet", "tf_baseline", "tf_inception10"]
)
def test_a_network_of_several_families_is_computed_by_onnx(arch, tmp_path):
    check("onnx", arch, tmp_path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to", "onnx", "--out", "m.pt"], "--to onnx writes a file *.onnx, got --out m.pt"),
        (["--to", "torch-export", "--out", "best.pt2"], "--out best.pt2 exists already"),
        (["--to", "torch-export", "--out", "none/m.pt2"], "none is no folder"),
        (["--to", "torch-export"], "required: --out"),
    ],
)
def test_what_cannot_be_exported_is_refused(arguments, message, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "best.pt", "mlp")
    (tmp_path / "best.pt2").write_text("mine")
    assert message in refused(main, "--checkpoint", "best.pt", *arguments)


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
