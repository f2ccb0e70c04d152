"""On a GPU graphs compute what networks do, and the commands run; skipped where there is none."""

import copy
import csv
import json

import pytest
import torch
from PIL import Image
from small_networks import ONE_OF_EACH, small
from torch import nn

from torchcnn import evaluate, predict, train
from torchcnn.benchmark import __main__ as benchmark
from torchcnn.benchmark.ways import WAYS
from torchcnn.data.datasets import load_data
from torchcnn.run.checkpoint import load_checkpoint
from torchcnn.training.loop import predict_logits
from torchcnn.training.speed import GraphedNetwork

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
FLAGS = ["--arch", "tf_baseline", "--data", "sample", "--device", "cuda", "--epochs", "2"]


def gradients(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a pass in training mode gives: the logits, every gradient and every buffer."""
    logits = net(x)
    logits.square().sum().backward()
    grads = {f"gradient of {name}": p.grad for name, p in net.named_parameters()}
    return {"logits": logits.detach()} | grads | dict(net.named_buffers())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_graphs_of_every_network_compute_what_it_does(name):
    """Of whole batches, one after another, of a smaller one, and in eval mode."""
    net, x = small(name)
    for layer in net.cuda().modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # which each draws for itself
    twin = copy.deepcopy(net)
    graphed = GraphedNetwork(twin, x.shape)
    for images in (x.cuda(), 2 * x.cuda(), x[:2].cuda()):
        ours, theirs = gradients(graphed, images), gradients(net, images)
        ours = {key.replace("net.", "", 1): value for key, value in ours.items()}
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        graphed.zero_grad()
        net.zero_grad()
    torch.testing.assert_close(graphed.eval()(x.cuda()), net.eval()(x.cuda()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "flags",
    ["", "--recipe fast", "--freeze stage1", "--compile", "--compile --accumulate 2 --clip 1",
     "--layers scratch", "--compile --amp bf16 --channels-last --ema 0.9",
     "--amp fp16 --augment crop,flip"],
)  # fmt: skip
@pytest.mark.filterwarnings("default")  # of Inductor
def test_the_commands_train_evaluate_and_predict(flags, tmp_path, capsys):
    path = tmp_path / "run"
    train.main([*FLAGS, *flags.split(), "--out", str(path)])
    result = json.loads((path / "result.json").read_text())
    assert result["test_acc"] > 0.5  # a tenth by chance
    pixels = load_data("sample").test_images[0, 0].numpy()
    Image.fromarray(pixels).save(tmp_path / "one.png")
    predict.main([str(tmp_path / "one.png"), "--checkpoint", str(path)])
    for device in ("cuda", "cpu"):
        capsys.readouterr()
        evaluate.main(["--checkpoint", str(path / "last.pt"), "--device", device, "--json"])
        acc = json.loads(capsys.readouterr().out)["accuracy"]
        assert acc == pytest.approx(result["test_acc"], abs=0.02)  # TF32 and bf16 round


def test_a_run_of_a_gpu_resumes_on_a_cpu_and_back(tmp_path, capsys):
    path = tmp_path / "run"
    train.main([*FLAGS, "--out", str(path)])
    for epochs, device in ((3, "cpu"), (4, "cuda:0")):
        train.main(["--resume", str(path), "--epochs", str(epochs), "--device", device])
    weights = load_checkpoint(path / "last.pt").state.weights.values()
    assert {weight.device.type for weight in weights} == {"cpu"}
    with (path / "history.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)


@pytest.mark.filterwarnings("default")  # of Inductor
def test_logits_of_a_compiled_network_are_those_of_each_batch():
    """Its graphs write each batch's logits to the same place."""
    torch.compiler.reset()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).cuda()
    images = load_data("sample").test_images[:400].float().cuda() / 255
    batches = [(x, torch.zeros(100, dtype=torch.int64)) for x in images.split(100)]
    expected, _ = predict_logits(net, batches)
    net.compile(dynamic=False, mode="reduce-overhead")
    for _ in range(3):  # the first two passes warm up and record
        logits, _ = predict_logits(net, batches)
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def test_the_benchmark_compares_with_and_without_graphs(capsys):
    flags = ["--data", "sample", "--device", "cuda", "--images", "512", "--rounds", "1", "--json"]
    benchmark.main(flags)
    network = json.loads(capsys.readouterr().out)["networks"]["lenet"]
    assert list(network["images_per_second"]) == list(WAYS["cuda"])
