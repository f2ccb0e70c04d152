"""Shared fixtures: small data, and one finished run that several tests look at."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

# The workers of pytest-xdist share the cores; torch reads this when it is imported.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) - 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (workers + 1))))

import pytest
import torch
from filelock import FileLock  # torch brings it
from processes import DRAWN_BY_RUNS, blank

from torchcnn import train
from torchcnn.data import datasets as data
from torchcnn.figures import results


@pytest.fixture(autouse=True)
def no_stray_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test asks for the real set, this machine has none, and no network either."""
    torch.manual_seed(0)

    def offline(dataset: str, root: Path) -> None:
        raise FileNotFoundError(f"{dataset} is not under {root} and cannot be downloaded (offline)")

    monkeypatch.setattr(data, "_download", offline)
    monkeypatch.setattr(data, "DEBIAN_FOLDER", Path("/nowhere"))


@pytest.fixture
def real_figures() -> None:
    """For tests that look at the figures of runs."""


@pytest.fixture(autouse=True)
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run draws of itself is blank.

    The pictures of `finished_run`, of commands in processes of their own and of notebooks are real.
    """
    if "real_figures" not in request.fixturenames:
        for name in DRAWN_BY_RUNS:
            monkeypatch.setattr(results, name, blank)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """A function that runs a command which has to fail, and returns the line that says why.

    The exit code is 2, only notes come before the line, and there is no new file.
    """

    def run(main: Callable[[list[str]], object], *argv: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in argv])
        *notes, line = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and all(note.startswith("note: ") for note in notes)
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run


@pytest.fixture
def real_fashion_mnist(no_stray_data: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Fashion-MNIST is not installed; Debian's dataset-fashion-mnist has it")
    monkeypatch.setattr(data, "DEBIAN_FOLDER", folder)
    return folder


@pytest.fixture
def tenth_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data sample` is 500 + 100 images."""

    def few(root: Path) -> data.ImageData:
        whole = data.sample(root)
        train = {"train_images": whole.train_images[:500], "train_labels": whole.train_labels[:500]}
        test = {"test_images": whole.test_images[:100], "test_labels": whole.test_labels[:100]}
        return dataclasses.replace(whole, **train, **test)

    monkeypatch.setitem(data.DATASETS, "sample", few)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """A folder with the four IDX files of the sample: the right format, not the whole set."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for path in data.SAMPLE_FOLDER.glob("*.gz"):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that lets one of all workers write a file or folder, and returns its path."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent

    def write_once(name: str, write: Callable[[Path], None]) -> Path:
        path = place / "once" / name
        path.parent.mkdir(exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not (written := path.with_suffix(".written")).exists():
                write(path)
                written.touch()
        return path

    return write_once


@pytest.fixture(scope="session")
def finished_run(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """LeNet, three epochs on the sample, by the command."""
    flags = ["--data", "sample", "--epochs", "3", "--device", "cpu", "--out"]
    return once("lenet", lambda path: train.main([*flags, str(path)]))
