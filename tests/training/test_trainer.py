"""What the trainer makes of a network; `test_exactness` and `test_train` have what it trains."""

from types import SimpleNamespace

import pytest
import torch

from torchcnn.train import train
from torchcnn.training import trainer
from torchcnn.training.trainer import Trainer

FLAGS = {"arch": "mlp", "data": "sample", "device": "cpu", "epochs": 1, "batch_size": 500}


@pytest.fixture
def asked(monkeypatch):
    """What is asked of `nn.Module.compile`, and the shape and precision of what is captured."""
    asked = SimpleNamespace(compiled=[], captured=[])

    def capture(net, shape, amp):
        asked.captured.append((shape, amp))
        return torch.nn.Sequential(net)

    monkeypatch.setattr(torch.nn.Module, "compile", lambda _, **way: asked.compiled.append(way))
    monkeypatch.setattr(trainer, "GraphedNetwork", capture)
    return asked


@pytest.mark.parametrize("cuda", [False, True])
def test_whole_batches_are_graphs_where_they_can_be(cuda, asked, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "can_be_graphed", lambda config, batches: cuda)
    result = train(**FLAGS, amp="bf16", out=str(tmp_path / "r"))
    assert asked.captured == [((500, 1, 28, 28), "bf16")] * cuda and not asked.compiled
    assert result.history[0].train_acc > 0.1


@pytest.mark.usefixtures("real_figures")
def test_a_result_shows_no_tensors_and_its_curves(tmp_path):
    result = train(**FLAGS, out=str(tmp_path / "r"))
    text = f"TrainResult(test_acc={result.test_acc:.4f}, epoch=1, path='{tmp_path / 'r'}')"
    assert repr(result) == text and "tensor" not in repr(result.history)
    loss, accuracy = result.plot().axes
    assert loss.lines[0].get_ydata().tolist() == [result.history[0].train_loss]
    assert accuracy.lines[1].get_ydata().tolist() == [result.history[0].eval_acc]


@pytest.mark.parametrize(
    ("device", "accumulate", "ranks", "mode"),
    [
        ("cpu", 1, 1, None),
        ("cuda", 1, 1, "reduce-overhead"),
        ("cuda", 2, 1, None),  # the graph of the second part would overwrite the first's gradients
        ("cuda", 1, 2, None),  # not measured with several
    ],
)
def test_a_compiled_network_has_graphs_of_its_own(
    device, accumulate, ranks, mode, asked, monkeypatch, tmp_path
):
    monkeypatch.setattr(trainer, "can_be_graphed", lambda config, batches: True)

    def prepare(self):
        self.device = torch.device(device)
        self.world = SimpleNamespace(world_size=ranks, data_parallel=lambda net, x: net)
        Trainer._prepare_net(self)
        raise KeyboardInterrupt

    class OnDevice(Trainer):
        _prepare_net = prepare

    monkeypatch.setattr("torchcnn.training.trainer.Trainer", OnDevice)
    with pytest.raises(KeyboardInterrupt):
        train(**FLAGS, compile=True, accumulate=accumulate, out=str(tmp_path / "r"))
    assert asked.compiled == [{"dynamic": False, "mode": mode}] and not asked.captured
