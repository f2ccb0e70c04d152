"""Put the networks of finished runs into the package: `python pretrained.py RUN…`.

Each run becomes `torchcnn/models/fashion_mnist/<arch>.safetensors`: its weights in half precision.
The metadata describe the network under `torchcnn`, as every file of weights does, and under
`training` they say how it was trained, and which accuracy the rounded weights have on the 10,000
test images of Fashion-MNIST. `md5.json` has the md5 of each file.
"""

import hashlib
import json
import shlex
import sys

import torch
from safetensors.torch import save_file

from torchcnn.cli import flag
from torchcnn.data.datasets import load_data
from torchcnn.data.loader import Batches
from torchcnn.models.weights import FOLDER
from torchcnn.run.checkpoint import Checkpoint, open_checkpoint
from torchcnn.run.tensorboard import NO_HYPERPARAMETERS
from torchcnn.training.loop import evaluate_accuracy


def command(run: Checkpoint) -> str:
    """The command that trained the run, with the flags that were given."""
    words = ["python", "-m", "torchcnn.train"]
    for name, value in run.config.items():
        if run.sources[name] == "given" and name not in NO_HYPERPARAMETERS:
            if isinstance(value, dict):
                words += [flag(name), *(f"{option}={x}" for option, x in value.items())]
                continue
            value = ",".join(value) if isinstance(value, tuple) else value
            words += [flag(name), f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def main() -> None:
    data = load_data("fashion-mnist")
    for path in sys.argv[1:]:
        net, run = open_checkpoint(path)
        weights = {
            name: (t.half() if t.is_floating_point() else t).contiguous()
            for name, t in net.state_dict().items()
        }
        net.load_state_dict(weights)
        batches = Batches(data.test_images, data.test_labels, 500, size=run.spec.input_size)
        training = {name: run.config[name] for name in ("data", "recipe", "seed")} | {
            "epochs": len(run.history), "accuracy": evaluate_accuracy(batches, net),
            "command": command(run), "torch": torch.__version__,
        }  # fmt: skip
        file = FOLDER / f"{run.spec.arch}.safetensors"
        metadata = {"torchcnn": run.spec.to_json(), "training": json.dumps(training)}
        save_file(weights, file, metadata)
        file.chmod(0o644)  # safetensors makes it unreadable to others
        print(f"{run.spec.arch}: {training['accuracy']:.4f}, {training['command']}")
    files = sorted(FOLDER.glob("*.safetensors"))
    md5 = {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in files}
    (FOLDER / "md5.json").write_text(json.dumps(md5, indent=1) + "\n")


if __name__ == "__main__":
    main()
