"""Results and whole runs, compared to the last bit; and runs that are killed."""

import json
import sys
from contextlib import contextmanager
from types import ModuleType
from unittest.mock import patch

import torch

from torchcnn.run import run
from torchcnn.run.checkpoint import load_checkpoint


def same(a, b):
    """Equal, tensors bit for bit, in dicts, lists and tuples of them."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def events(folder):
    """TensorBoard's events of a run itself, or of a sub-run."""
    # Read without TensorFlow, which else is loaded, if it is there, and bears no Triton after it.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def points(folder):
    """What TensorBoard shows of a run: (step, value) by sub-run and tag, such as "train/loss"."""
    found = {}
    for place in (folder, *(p for p in folder.iterdir() if p.is_dir())):
        shown = events(place)
        for tag in shown.Tags()["scalars"]:
            name = tag if place == folder else f"{place.name}/{tag}"
            found[name] = [(e.step, e.value) for e in shown.Scalars(tag)]
    return found


def result(folder):
    """The result of a run, without how long it took."""
    values = json.loads((folder / "result.json").read_text())
    assert values.pop("seconds") > 0
    return values


def contents(folder):
    """All that must be equal: the whole state, history, result and TensorBoard's points."""
    checkpoint = load_checkpoint(folder / "last.pt")
    clock = {"time", "seconds", "images_per_second"}
    history = [{k: v for k, v in vars(r).items() if k not in clock} for r in checkpoint.history]
    shown = {tag: p for tag, p in points(folder).items() if not tag.endswith("images per second")}
    return vars(checkpoint.state) | {
        "spec": checkpoint.spec, "progress": checkpoint.progress, "history": history,
        "points": shown, "result": result(folder),
    }  # fmt: skip


def check_same(a, b):
    ours, theirs = contents(a), contents(b)
    for key, value in ours.items():
        assert same(value, theirs[key]), key


class Killed(BaseException):
    pass


@contextmanager
def killed(when):
    """Within this context a run dies where it has written a checkpoint of which `when` is true."""
    save = run.save_checkpoint

    def save_and_die(path, checkpoint):
        save(path, checkpoint)
        if when(path, checkpoint):
            raise Killed

    with patch.object(run, "save_checkpoint", save_and_die):
        try:
            yield
        except Killed:
            return
    raise AssertionError("the run was not killed")
