"""The trainer: epoch after epoch it trains, evaluates, logs and saves; at the end it tests."""

import copy
import hashlib
import math
import re
import shlex
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchcnn.data.loader import Batches, mix_seed
from torchcnn.files import plural
from torchcnn.models.spec import ModelSpec
from torchcnn.run.checkpoint import Checkpoint, EpochProgress, EpochRecord, load_checkpoint
from torchcnn.run.report import confused_text
from torchcnn.run.run import Run, plot_history
from torchcnn.training.device import seed_generators
from torchcnn.training.distributed import World, gather_steps, with_signal
from torchcnn.training.loop import (
    EpochResult,
    Step,
    StepOptions,
    accuracy,
    epoch_line,
    epoch_result,
    eval_mode,
    evaluate,
    progress_bar,
    stack_steps,
    train_steps,
    unstack_steps,
)
from torchcnn.training.plan import Plan, is_over
from torchcnn.training.schedule import learning_rate
from torchcnn.training.signals import Stopped, StopRequest
from torchcnn.training.speed import GraphedNetwork, autocast, can_be_graphed, compile_network
from torchcnn.training.statistics import LAG, estimate_statistics, lag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INPUTS = 25  # in the picture of them


class TrainResult(NamedTuple):
    """What a run reached."""

    history: list[EpochRecord]
    test_acc: float | None  # None if there is no test part; the history has the validation's
    test_loss: float | None
    epoch: int  # whose weights were tested
    checkpoint: str  # that holds them: best.pt or last.pt
    path: Path  # of the run folder

    def __repr__(self) -> str:
        tested = "" if self.test_acc is None else f"test_acc={self.test_acc:.4f}, "
        return f"TrainResult({tested}epoch={self.epoch}, path={str(self.path)!r})"

    def plot(self) -> "Figure":
        """Plot loss and accuracy by epoch, as `curves.png` does."""
        return plot_history(self.history, self.path.name)


class Trainer:
    """Does what a plan says, and writes what happens into the run."""

    def __init__(self, plan: Plan, run: Run, world: World) -> None:
        self.plan, self.run, self.world = plan, run, world
        self.config, self.state, self.loaders = plan.config, plan.state, plan.loaders
        self.device = plan.device
        self.net = plan.state.net  # `fit` wraps it if there are several ranks
        self.stop = StopRequest(patience=world.world_size > 1)

    def train(self) -> TrainResult:
        """Train, epoch after epoch, and test.

        Raises:
            FloatingPointError: a loss became infinite or NaN.
            Stopped: a signal asked for it; `last.pt` is written.
        """
        history, last = self.run.history, self.run.path / "last.pt"
        try:
            if self.plan.resumed:
                self._print_resumed(self.plan.resumed)
            self.fit()
            return self.test()
        except KeyboardInterrupt:
            epoch = min(len(history) + 1, self.config.epochs)
            if last.exists():
                print(f"stopped in epoch {epoch}; resume with --resume {self.run.path}", flush=True)
            raise
        except FloatingPointError as error:
            raise FloatingPointError(
                f"epoch {len(history) + 1}: {error}; {last} holds the last weights that were "
                f"saved; start anew with a smaller --lr than {self.config.lr}"
            ) from error

    def fit(self) -> None:
        """Train the epochs that are left."""
        progress = self.plan.resumed.progress if self.plan.resumed else None
        if not progress:
            self.save()
        self._prepare_net()
        with self.stop:
            while not is_over(self.run.history, self.config):
                epoch = len(self.run.history) + 1
                began = time.perf_counter()
                result = self.train_epoch(epoch, progress)
                progress = None
                self._settle_statistics(result)
                eval_loss, confusion = self.evaluate(self.loaders.val)
                record = self._record(epoch, result, eval_loss, accuracy(confusion))
                self.run.add_epoch(record)
                self.save()
                seconds = time.perf_counter() - began
                line = epoch_line(epoch, result, record.split, record.eval_acc, seconds)
                print(line + ", best so far" * (self.run.best_epoch() == epoch), flush=True)
                if signum := self.world.all_reduce_max(self.stop.signum):
                    raise Stopped(signum)

    def save(self, progress: EpochProgress | None = None) -> None:
        """Write the state into the run; `progress` is that of an epoch that is not over."""
        plan = self.plan
        checkpoint = Checkpoint(
            spec=plan.spec,
            config=self.run.config,
            sources=plan.sources,
            images=len(plan.dataset.train_labels),
            digests=plan.dataset.digests,
            trained=plan.parts.ids.get("train"),
            history=self.run.history,
            progress=progress,
            state=self.state.stored(),
        )
        self.run.save(checkpoint)

    def _print_resumed(self, resumed: Checkpoint) -> None:
        """Say where the run is resumed, and if the learning rate jumps."""
        progress, epochs_before = resumed.progress, resumed.config["epochs"]
        done, steps = len(self.run.history), len(self.loaders.train)
        made = len(progress.images) if progress else 0
        where = f"in epoch {done + 1}, after step {made}" if progress else f"after epoch {done}"
        print(f"resuming {where}", flush=True)
        config, last = self.config, float(self.state.optimizer.param_groups[0]["lr"])
        is_longer = config.epochs > max(done, epochs_before)
        if is_longer and (rate := self._rate(done * steps + made)) > 1.01 * last:
            print(
                f"the learning rate goes from {last:.2g} up to {rate:.2g}, since the schedule "
                f"{config.schedule} is now one of {plural(config.epochs, 'epoch')}; "
                f"--schedule stay keeps {last:.2g}",
                flush=True,
            )

    def _rate(self, step: int) -> float:
        """The learning rate of a step of the run."""
        config, total = self.config, len(self.loaders.train) * self.config.epochs
        return learning_rate(config.schedule, config.lr, step, total, config.warmup)

    def train_epoch(self, epoch: int, progress: EpochProgress | None = None) -> EpochResult:
        """Train an epoch, or the rest of one; write `last.pt` when it is due or a signal came."""
        seed = mix_seed(self.config.seed, epoch, 1, self.world.rank)
        seed_generators(seed, self.device)  # for dropout
        steps, before = ([], 0.0) if progress is None else self._restore(progress)
        done, loader = len(steps), self.loaders.train
        loader.epoch, loader.start = epoch - 1, done  # the loader counts epochs from 0
        began = time.perf_counter() - before
        new: list[Step] = []  # of this rank alone
        options = self._options(epoch, done)
        taken: Iterator[Step] = iter(())
        if done < len(loader):  # with more ranks than before, an epoch may have a step less
            taken = train_steps(self.net, loader, self.state.optimizer, self.device, options)
        title = f"epoch {epoch}/{self.config.epochs}"
        bar = progress_bar(taken, loader, title, done, hidden=not self.world.is_main)
        signalled = with_signal(bar, self.stop, self.world)
        for i, (step, signum) in enumerate(signalled, start=done + 1):
            new.append(step)
            due = self.config.checkpoint_every and i % self.config.checkpoint_every == 0
            if (due or signum) and i < len(loader):  # `fit` saves after the last step
                steps, new = steps + gather_steps(new, self.world), []
                if not torch.stack([step.loss for step in steps]).isfinite().all():
                    break  # `epoch_result` raises an error; what came of this loss is not saved
                self.save(self._progress(steps, time.perf_counter() - began))
                if signum:
                    raise Stopped(signum)
        return epoch_result(steps + gather_steps(new, self.world), began, len(loader))

    def evaluate(self, loader: Batches) -> tuple[float, Tensor]:
        """Return the mean loss and the confusion matrix over the images of all ranks."""
        with autocast(self.config.amp, self.device):
            parts = evaluate(self.state.eval_net, loader)
        loss, confusion = map(self.world.all_reduce, parts)
        return float(loss) / int(confusion.sum()), confusion

    def test(self) -> TrainResult:
        """Evaluate the selected weights on the test images; without validation images, the last.

        The result is written and printed first; whatever fails after it costs no result.
        """
        name, epoch = "last.pt", len(self.run.history)
        net = self.state.eval_net
        if best := self.run.best_epoch():
            name, epoch = "best.pt", best
            if self.world.is_main:
                net.load_state_dict(load_checkpoint(self.run.path / name).trained_weights)
            self.world.broadcast(net)
        split = "test" if self.loaders.test else "val"
        loss, confusion = self.evaluate(self.loaders.test or self.loaders.val)
        acc, plan = accuracy(confusion), self.plan
        result: dict[str, Any] = {
            "checkpoint": name,
            "epoch": epoch,
            f"{split}_loss": loss,
            f"{split}_acc": acc,
            **{f"{part}_images_in_training": n for part, n in plan.parts.copies().items()},
            **{name: getattr(self.config, name) for name in ("arch", "data", "recipe", "seed")},
            "epochs": len(self.run.history),
            "parameters": sum(p.numel() for p in net.parameters()),
            "network": about_network(plan.spec, self.state.net),
            "decided": plan.decided,
            "digests": plan.dataset.digests,
            "seconds": sum(record.seconds for record in self.run.history),  # of training
        }
        self.run.write_result(result)
        hint = "" if self.loaders.test else "; there are no test images"
        self._say(
            f"{split} acc {acc:.4f}, loss {loss:.4f} ({name}, epoch {epoch}){hint}", confusion
        )
        self.run.log_result(confusion, list(self.plan.spec.classes), result)
        test_acc, test_loss = result.get("test_acc"), result.get("test_loss")
        return TrainResult(self.run.history, test_acc, test_loss, epoch, name, self.run.path)

    def _say(self, tested: str, confusion: Tensor) -> None:
        """Say what the run reached, what makes it uncertain, and what can be looked at next."""
        history, path = self.run.history, self.run.path
        share = lag(self.state.net, history[: self.run.best_epoch()], self.config.accumulate)
        if share > LAG and self.config.recipe == "source":
            print(
                f"{share:.1%} of the norms' moving statistics is still what they began with, so "
                "that the accuracy may be far too low; more epochs help, and all recipes but "
                "source evaluate without it"
            )
        if len(history) < self.config.epochs:
            print(
                f"the validation accuracy has not risen for {plural(self.config.patience, 'epoch')}"
            )
        print(f"{tested}; the run is in {path}", flush=True)
        if said := confused_text(confusion, self.plan.spec.classes):
            print(said, flush=True)
        if names := self.plan.dataset.names.get("test"):  # pictures of your own
            data = Path(self.plan.dataset.name)
            picture = (data.parent if data.is_file() else data) / names[0]
            for command, rest in (
                ("evaluate", ["--out", str(path / "judged")]),
                ("explain", [str(picture), "--out", str(path / "inside")]),
            ):
                words = ["--checkpoint", str(path), *rest]
                print(f"python -m torchcnn.{command} {shlex.join(words)}", flush=True)

    def _prepare_net(self) -> None:
        x = next(iter(self.loaders.val))[0]
        self._show_inputs()
        with eval_mode(self.state.net):
            self.run.log_graph(self.state.net, x[:1])
        self.net = self.world.data_parallel(self.state.net, x[:1])
        if self.config.compile:
            # Graphs overwrite gradients that are to be accumulated, and are not tried with ranks.
            graphs = self.device.type == "cuda" and self.config.accumulate == 1
            compile_network(self.state.net, graphs and self.world.world_size == 1)
        elif can_be_graphed(self.config, self.loaders.train):
            shape = (self.config.batch_size, *x.shape[1:])
            self.net = GraphedNetwork(self.state.net, shape, self.config.amp)

    def _show_inputs(self) -> None:
        """Draw the first images, as the network sees them, with their classes."""
        first, images, titles = copy.copy(self.loaders.train), [], []
        first.epoch, first.start = 0, 0
        for x, y in first:
            labels = y if y.dim() == 1 else y.argmax(1)  # of mixed images
            titles += [self.plan.spec.classes[i] for i in labels.tolist()]
            images += list((255 * first.unnormalize(x)).round().to("cpu", torch.uint8))
            if len(images) >= INPUTS:
                break
        self.run.log_inputs(images[:INPUTS], titles[:INPUTS])

    def _settle_statistics(self, result: EpochResult) -> None:
        """Make the norms' moving statistics fit to be evaluated, and equal on all ranks.

        The recipe of a source leaves them as training made them, whatever it costs.
        """
        nets, epochs = (self.state.net, self.state.eval_net), [*self.run.history, result]
        lags = lag(self.state.net, epochs, self.config.accumulate) > LAG
        if lags and self.config.recipe != "source":
            with autocast(self.config.amp, self.device):
                estimate_statistics(*nets, self.loaders.train)
        for net in dict.fromkeys(nets):
            self.world.broadcast(net, buffers_only=True)

    def _options(self, epoch: int, done: int) -> StepOptions:
        """The options of an epoch's steps, of which some are done."""
        config, steps = self.config, len(self.loaders.train)
        return StepOptions(
            learning_rates=[self._rate((epoch - 1) * steps + i) for i in range(done, steps)],
            loss=partial(F.cross_entropy, label_smoothing=config.label_smoothing),
            clip=config.clip or math.inf,
            accumulation_steps=config.accumulate,
            autocast=autocast(config.amp, self.device),
            scaler=self.state.scaler,
            ema=self.state.ema,
        )

    def _record(self, epoch: int, result: EpochResult, loss: float, acc: float) -> EpochRecord:
        """The record of an epoch. To log another number, put it into `logged`, as a Python float.

        Raises:
            FloatingPointError: the loss of the evaluation is not finite.
        """
        if not math.isfinite(loss):
            raise FloatingPointError(f"the {self.plan.split} loss became {loss}")
        return EpochRecord(
            epoch=epoch,
            time=time.time(),
            lr=float(self.state.optimizer.param_groups[0]["lr"]),
            train_loss=result.loss,
            train_acc=result.accuracy,
            split=self.plan.split,
            eval_loss=loss,
            eval_acc=acc,
            seconds=result.seconds,
            images_per_second=result.images / result.seconds,
            step_losses=result.step_losses,
            logged=result.logged,
        )

    def _progress(self, steps: list[Step], seconds: float) -> EpochProgress:
        """The progress of an epoch, with the state of every rank's random number generator."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        losses, correct, images, logged = stack_steps(steps)
        return EpochProgress(
            losses=losses.cpu(),
            correct=correct.cpu(),
            images=images,
            seconds=seconds,
            rng=self.world.all_gather(torch.get_rng_state()),
            cuda_rng=[] if cuda is None else self.world.all_gather(cuda),
            logged={name: values.cpu() for name, values in logged.items()},
        )

    def _restore(self, progress: EpochProgress) -> tuple[list[Step], float]:
        """The steps of an epoch's progress, and their seconds.

        The random number generators continue where they were, if there are as many ranks as then.
        """
        rank, world_size = self.world.rank, self.world.world_size
        if len(progress.rng) == world_size:
            torch.set_rng_state(progress.rng[rank])
        if self.device.type == "cuda" and len(progress.cuda_rng) == world_size:
            torch.cuda.set_rng_state(progress.cuda_rng[rank], self.device)
        losses, correct = progress.losses.to(self.device), progress.correct.to(self.device)
        logged = {name: values.to(self.device) for name, values in progress.logged.items()}
        return unstack_steps(losses, correct, progress.images, logged), progress.seconds


def about_network(spec: ModelSpec, net: nn.Module) -> dict[str, Any]:
    """What tells a network from others; of a module of your own also a digest of what it prints."""
    names = ("arch", "in_channels", "num_classes", "input_size", "norm", "small_input", "options")
    about = {name: getattr(spec, name) for name in names}
    if spec.own:
        text = re.sub(r" at 0x\w+", "", repr(net))  # where it lies in memory
        about["structure"] = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return about
