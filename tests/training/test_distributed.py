"""Several ranks do what one does: the same batch, dealt out."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import two_ranks
from comparing import check_same
from torch import nn

from torchcnn import BatchNorm, create_model, train
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.layers import KerasBatchNorm2d
from torchcnn.training.config import Config
from torchcnn.training.distributed import (
    World,
    _may_read_buffers,
    device_of_rank,
    with_signal,
)
from torchcnn.training.loaders import make_loaders, split
from torchcnn.training.plan import check_batches, make_spec
from torchcnn.training.signals import StopRequest
from torchcnn.training.sync_batch_norm import SyncBatchNorm, sync_batch_norm

NETWORKS = ["mlp", "lenet+"]  # +: with --sync-bn
ALONE = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


def torchrun(*argv, ranks=2):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc_per_node={ranks}", *map(str, argv)]  # fmt: skip


def environment():
    # The store of addresses anew for each restart, or a rank may find a dead one's in it.
    return ALONE | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
                    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # fmt: skip


@pytest.fixture(scope="session")
def two(once):
    def run(path):
        script = Path(two_ranks.__file__)
        done = subprocess.run(torchrun(script, *NETWORKS, "lenet"), capture_output=True, text=True,
                              env=environment(), timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        path.write_text(done.stdout)

    return json.loads(once("two", run).read_text())


@pytest.mark.parametrize("name", NETWORKS)
def test_two_ranks_and_one_with_the_same_batch_have_the_same_losses(name, two):
    """In float64, five steps of momentum; with batch norm its layers see the batch of both."""
    one = two_ranks.train(name.rstrip("+"), "+" in name, World())
    for key in ("losses", "weights", "statistics"):
        assert two[name][key] == pytest.approx(one[key], rel=1e-9, abs=1e-9), key
    assert two[name]["correct"] == one["correct"] and two[name]["images"] == [20] * 5


def test_parts_of_a_batch_are_averaged_once_and_are_the_same_step(two):
    """In float64, four parts; the last batch, of five images a rank, is cut into only three."""
    one = two_ranks.train("mlp", False, World(), parts=4, batch=110, n=450)
    for key in ("losses", "weights"):
        assert two["accumulated"][key] == pytest.approx(one[key], rel=1e-9, abs=1e-9), key
    assert two["accumulated"]["images"] == [110] * 4 + [10]


def test_a_step_has_one_exchange_of_gradients_and_one_of_signals(two):
    """Five steps of four parts, with batch norm; and what is once: a last question whether to stop,
    and two broadcasts by which DDP lays out its buckets."""
    assert two["exchanges"] == {"gloo:all_reduce": 5 + 5 + 1, "gloo:broadcast": 2}


@pytest.mark.parametrize("make", [nn.BatchNorm2d, BatchNorm, KerasBatchNorm2d])
def test_norms_read_no_buffers_in_training(make):
    """So that ranks do not exchange them in each step; of your own modules nothing is known."""
    norm, x = make(2), torch.rand(4, 2, 3, 3)
    y = norm(x)
    for statistic in norm.buffers():
        statistic.add_(1)
    assert torch.equal(norm(x), y) and not _may_read_buffers(norm)
    assert _may_read_buffers(type("Own", (make,), {})(2))


def test_a_signal_to_one_rank_stops_both_after_the_next_step(two):
    """In the last step but one, or in the last, of nine, the epoch is over first."""
    assert two["stops"] == {"1": [2, 2], "4": [5, 5], "8": [9, 9], "9": [9, 9]}


def test_every_exchange_of_signals_is_waited_for():
    """Also the one that was begun before there turned out to be no further step."""
    pending, waited = [], []

    class Ranks(World):
        def ask_max(self, number):
            pending.append(len(pending))
            return lambda asked=pending[-1]: waited.append(asked) or 0

    assert len(list(with_signal("abc", StopRequest(patience=True), Ranks(0, 2)))) == 3
    assert waited == pending == [0, 1, 2, 3]


def test_what_the_first_rank_has_all_have_and_all_agree(two):
    """But without --sync-bn, batch norm sees the share alone."""
    assert two["copied"] is True and two["largest"] == 6
    one = two_ranks.train("lenet", False, World())
    assert two["lenet"]["losses"][0] != pytest.approx(one["losses"][0], rel=1e-6)


@pytest.mark.parametrize(("ranks", "sizes"), [(2, [3, 3, 3, 1]), (3, [2, 2, 2])])
def test_shares_are_equal_and_make_the_batch(ranks, sizes):
    """Of 20 images in batches of 6: the 2 images of the last cannot be shared by 3 ranks."""
    images, labels = torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.arange(20)
    whole = [y for _, y in Batches(images, labels, 6, shuffle=True)]
    every = [Batches(images, labels, 6, shuffle=True, share=(r, ranks)) for r in range(ranks)]
    shares = [[y for _, y in batches] for batches in every]
    assert [len(batches) for batches in every] == [len(sizes)] * ranks
    for i, size in enumerate(sizes):
        parts = [share[i] for share in shares]
        assert {len(part) for part in parts} == {size}
        assert sorted(torch.cat(parts).tolist()) == sorted(whole[i].tolist())


CONFIG = Config(epochs=1, batch_size=9, lr=0.1, optimizer="sgd", input_size=28)
SPEC = make_spec(CONFIG, 1, tuple("0123456789"))


def share(dataset, rank):
    """The batches of one of three ranks."""
    parts = split(CONFIG, dataset)
    return make_loaders(CONFIG, SPEC, parts, torch.device("cpu"), World(rank, 3))


def test_each_image_to_evaluate_is_on_one_rank():
    numbered = replace(load_data("sample"), test_labels=torch.arange(1000))
    shares = [share(numbered, rank).test for rank in range(3)]
    labels = torch.cat([y for batches in shares for _, y in batches])
    assert sorted(labels.tolist()) == list(range(1000))


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="2 ranks cannot share a batch of 9 equally"):
        Batches(torch.zeros(9, 1, 2, 2, dtype=torch.uint8), torch.arange(9), 9, share=(0, 2))
    with pytest.raises(ValueError, match="--batch-size 9 cannot be shared by 2 ranks"):
        check_batches(CONFIG, SPEC, 2)
    with pytest.raises(ValueError, match="no batch norm of torch's kind"):
        sync_batch_norm(create_model("mlp"), 2)
    data = load_data("sample")
    few = replace(data, test_images=data.test_images[:2], test_labels=data.test_labels[:2])
    with pytest.raises(ValueError, match="3 ranks cannot share 2 images to evaluate"):
        share(few, 2)


def test_every_rank_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of_rank("cuda:1") == "cuda:1"  # alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    for name, expected in (("cpu", "cpu"), ("auto", "cpu"), ("cuda", "cuda:1")):
        assert device_of_rank(name) == expected
    for shared in ("cuda:1", "mps"):
        with pytest.raises(ValueError, match=f"--device {shared} is not for several ranks"):
            device_of_rank(shared)


@pytest.mark.slow
def test_ranks_with_other_flags_do_not_begin(tmp_path):
    """The last has another seed, and so other images to train on."""
    (tmp_path / "main.py").write_text(
        "import os, sys; from torchcnn import train; "
        "train.main([*sys.argv[1:], '--seed', '001'[int(os.environ['RANK'])]])"
    )
    done = subprocess.run(
        torchrun(tmp_path / "main.py", *FLAGS[2:], "--out", tmp_path / "r", ranks=3),
        capture_output=True, text=True, env=environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the ranks have found different images or flags" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["main.py"]


def test_all_norms_are_replaced_and_the_names_of_the_weights_stay():
    """Also a norm that is in several places of a network."""
    net = create_model("tf_inception10")
    names = list(net.state_dict())
    assert list(sync_batch_norm(net, 2).state_dict()) == names
    assert not any(type(m) is nn.BatchNorm2d for m in net.modules())
    norm = nn.BatchNorm2d(1)
    net = nn.Sequential(norm, nn.Sequential(nn.ReLU(), norm), norm)
    sync_batch_norm(net, 2)
    assert isinstance(net[0], SyncBatchNorm) and net[0] is net[1][1] is net[2]
    assert len(list(net.state_dict())) == 15


def test_a_norm_that_does_more_than_its_class_is_not_replaced():
    hooked = nn.BatchNorm2d(1)
    hooked.register_forward_hook(lambda *args: 2 * args[2])
    with pytest.raises(ValueError, match="Norm2d has hooks or a forward pass of"):
        sync_batch_norm(nn.Sequential(hooked), 2)


@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
)
def test_alone_a_synchronised_norm_is_torchs(options):
    """Outputs, gradients and statistics, in a group of one process."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        results = []
        for replaced in (False, True):
            norm = nn.BatchNorm2d(3, **options).double()
            norm = SyncBatchNorm(norm, 1) if replaced else norm
            for seed in range(3):
                torch.manual_seed(seed)
                x = torch.randn(4, 3, 5, 5, dtype=torch.double, requires_grad=True)
                y = norm(x)
                (y * torch.rand_like(y)).sum().backward()
            results.append([y, x.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
        torch.testing.assert_close(*results)
    finally:
        torch.distributed.destroy_process_group()


FLAGS = ["-m", "torchcnn.train", "--arch", "tf_baseline", "--input-size", "16", "--epochs", "3",
         "--val-fraction", "0.8", "--batch-size", "99", "--augment", "crop,flip", "--mix",
         "cutmix", "--ema", "0.9", "--accumulate", "2",
         "--data", "sample", "--device", "cpu", "--checkpoint-every", "7"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three ranks that nothing befell: of three numbers, other than of two, the order matters."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    subprocess.run(torchrun(*FLAGS, "--out", folder, ranks=3), check=True, env=environment(),
                   capture_output=True, timeout=120)  # fmt: skip
    return folder


def children(process):
    """The ranks: the processes that torchrun started."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in found.split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_rank_that_dies_ends_all_and_a_restart_goes_on(whole, tmp_path):
    """Dropout, augmentation and moving average: to the bits of ranks that nothing befell."""
    folder, text = tmp_path / "r", ""
    with subprocess.Popen(
        torchrun("--max-restarts=1", *FLAGS, "--out", folder, ranks=3), text=True,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        for line in process.stdout:
            text += line
            if line.startswith("epoch 1,"):
                time.sleep(0.2)
                os.kill(children(process)[1], signal.SIGKILL)
    assert process.returncode == 0
    assert re.search(r"resuming (after epoch 1|in epoch 2, after step \d+)\n", text)
    check_same(whole, folder)


def two_machines(tmp_path, *flags):
    """Let an agent of each of two machines train, in a folder of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    agents = []
    for node in (0, 1):
        place = tmp_path / f"machine{node}"
        place.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2",
                   f"--node_rank={node}", "--master_addr=127.0.0.1",
                   f"--master_port={port}"]  # fmt: skip
        agents.append(
            subprocess.Popen([*command, "-m", "torchcnn.train", *flags], cwd=place,
                             env=environment(), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        )  # fmt: skip
    assert [agent.wait(timeout=100) for agent in agents] == [0, 0]


@pytest.mark.slow
def test_two_machines_train_and_resume_what_the_first_one_has(tmp_path):
    """To the bits of a run that was not stopped; the second machine never has a run."""
    machine = tmp_path / "machine0"
    train.main([*FLAGS[2:], "--epochs", "1", "--out", str(machine / "first")])
    flags = [*FLAGS[2:], "--batch-size", "100", "--init", "first", "--recipe", "source"]
    two_machines(tmp_path, *flags, "--out", "whole")
    two_machines(tmp_path, *flags, "--epochs", "1", "--out", "r")
    two_machines(tmp_path, "--resume", "r", "--epochs", "3")
    check_same(machine / "whole", machine / "r")
    assert not list((tmp_path / "machine1").iterdir())
