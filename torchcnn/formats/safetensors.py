"""safetensors: the weights alone; what describes the network is in the metadata under torchcnn."""

from pathlib import Path

from torch import Tensor, nn

from torchcnn.formats.description import Run
from torchcnn.models.spec import ModelSpec


def write(net: nn.Module, example: Tensor, spec: str, path: Path) -> None:
    from safetensors.torch import save_file

    # Weights in channels-last are not contiguous, which the format does not take.
    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(weights, path, {"torchcnn": spec})


def load(path: Path) -> tuple[Run, str]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        spec = file.metadata()["torchcnn"]
    net = ModelSpec.from_json(spec).build().eval()
    net.load_state_dict(load_file(path))
    return net, spec
