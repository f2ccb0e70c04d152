"""What the trainer makes of a network; `test_exactness` and `test_train` have what it trains."""

import pytest
import torch

from torchcnn.train import train
from torchcnn.training import trainer

FLAGS = {"arch": "mlp", "data": "sample", "device": "cpu", "epochs": 1, "batch_size": 500}


@pytest.mark.parametrize("cuda", [False, True])
def test_whole_batches_are_graphs_where_they_can_be(cuda, monkeypatch, tmp_path):
    captured = []

    def capture(net, shape, amp):
        captured.append((shape, amp))
        return torch.nn.Sequential(net)

    monkeypatch.setattr(trainer, "GraphedNetwork", capture)
    monkeypatch.setattr(trainer, "can_be_graphed", lambda config, batches: cuda)
    result = train(**FLAGS, amp="bf16", out=str(tmp_path / "r"))
    assert captured == [((500, 1, 28, 28), "bf16")] * cuda
    assert result.history[0].train_acc > 0.1


@pytest.mark.usefixtures("real_figures")
def test_a_result_shows_no_tensors_and_its_curves(tmp_path):
    result = train(**FLAGS, out=str(tmp_path / "r"))
    text = f"TrainResult(test_acc={result.test_acc:.4f}, epoch=1, path='{tmp_path / 'r'}')"
    assert repr(result) == text and "tensor" not in repr(result.history)
    loss, accuracy = result.plot().axes
    assert loss.lines[0].get_ydata().tolist() == [result.history[0].train_loss]
    assert accuracy.lines[1].get_ydata().tolist() == [result.history[0].eval_acc]
