"""The table of all networks: their files, and what is known of them without building one."""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchcnn.names import did_you_mean

if TYPE_CHECKING:
    from torch import nn

FOLDER = Path(__file__).parent / "fashion_mnist"  # a file for each network that is in the package


@dataclass(frozen=True)
class Model:
    """An entry of the table."""

    name: str
    file: str  # of this folder, whose function of this name builds the network
    input: tuple[int, int, int]  # channels, height and width of an image
    parameters: int
    macs: int  # multiply-accumulates for one image
    layers: int  # with weights, on the longest path to the logits, as the papers count them
    paper: str
    new: str  # what the network introduced, or how it differs from similar ones

    @property
    def builder(self) -> Callable[..., "nn.Module"]:
        """The function that builds it; its file is imported only now, because it needs PyTorch."""
        return getattr(import_module(f"torchcnn.models.{self.file}"), self.name)


LECUN = "LeCun et al. 1998"
KRIZHEVSKY = "Krizhevsky et al. 2012"
SIMONYAN = "Simonyan and Zisserman 2014, arXiv:1409.1556"
LIN = "Lin et al. 2013, arXiv:1312.4400"
SZEGEDY = "Szegedy et al. 2014, arXiv:1409.4842"
HE = "He et al. 2015, arXiv:1512.03385"
HUANG = "Huang et al. 2017, arXiv:1608.06993"

# fmt: off
_ROWS: list[tuple[Any, ...]] = [
    # name                  file         c size  parameters             MACs layers paper       new
    ("softmax_regression",  "mlp",        1,  28,       7_850,          7_840,   1, "Cox 1958", "a linear classifier"),
    ("mlp",                 "mlp",        1,  28,     101_770,        101_632,   2, "Rumelhart et al. 1986", "a hidden layer"),
    ("lenet",               "lenet",      1,  28,      44_878,        281_640,   5, LECUN,      "convolution and pooling; here with batch norm"),
    ("alexnet",             "alexnet",    1, 224,  29_983_434,    921_368_960,   7, KRIZHEVSKY, "more layers, ReLU, dropout"),
    ("vgg11",               "vgg",        1, 224, 128_806_154,  7_547_232_256,  11, SIMONYAN,   "blocks of 3×3 convolutions"),
    ("vgg13",               "vgg",        1, 224, 128_990_666, 11_246_608_384,  13, SIMONYAN,   "two convolutions in each block"),
    ("vgg16",               "vgg",        1, 224, 134_300_362, 15_408_406_528,  16, SIMONYAN,   "three convolutions in each of the last three blocks"),
    ("vgg19",               "vgg",        1, 224, 139_610_058, 19_570_204_672,  19, SIMONYAN,   "four convolutions in each of the last three blocks"),
    ("vgg11_bn",            "vgg",        1, 224, 128_811_658,  7_547_232_256,  11, SIMONYAN,   "vgg11 with batch norm"),
    ("vgg13_bn",            "vgg",        1, 224, 128_996_554, 11_246_608_384,  13, SIMONYAN,   "vgg13 with batch norm"),
    ("vgg16_bn",            "vgg",        1, 224, 134_308_810, 15_408_406_528,  16, SIMONYAN,   "vgg16 with batch norm"),
    ("vgg19_bn",            "vgg",        1, 224, 139_621_066, 19_570_204_672,  19, SIMONYAN,   "vgg19 with batch norm"),
    ("nin",                 "nin",        1, 224,   1_992_166,    762_297_352,  12, LIN,        "1×1 convolutions, no dense layers"),
    ("googlenet",           "googlenet",  1,  96,   5_977_530,    276_066_304,  22, SZEGEDY,    "parallel paths with different kernel sizes"),
    ("resnet18",            "resnet",     1, 224,  11_178_378,  1_734_890_496,  18, HE,         "shortcut connections with addition"),
    ("resnet34",            "resnet",     1, 224,  21_290_250,  3_584_578_560,  34, HE,         "a deeper resnet18"),
    ("resnet50",            "resnet",     3, 224,  25_557_032,  4_089_184_256,  50, HE,         "bottleneck blocks, for ImageNet"),
    ("resnet101",           "resnet",     3, 224,  44_549_160,  7_801_405_440, 101, HE,         "a deeper resnet50"),
    ("resnet152",           "resnet",     3, 224,  60_192_808, 11_513_626_624, 152, HE,         "a deeper resnet50"),
    ("resnet20",            "resnet",     3,  32,     269_722,     40_551_040,  20, HE,         "the paper's network for CIFAR-10"),
    ("resnet32",            "resnet",     3,  32,     464_154,     68_862_592,  32, HE,         "a deeper resnet20"),
    ("resnet44",            "resnet",     3,  32,     658_586,     97_174_144,  44, HE,         "a deeper resnet20"),
    ("resnet56",            "resnet",     3,  32,     853_018,    125_485_696,  56, HE,         "a deeper resnet20"),
    ("resnet110",           "resnet",     3,  32,   1_727_962,    252_887_680, 110, HE,         "a deeper resnet20"),
    ("densenet",            "densenet",   1,  96,     758_226,    129_077_168,  21, HUANG,      "shortcut connections with concatenation"),
    ("densenet121",         "densenet",   3, 224,   7_978_856,  2_834_161_664, 121, HUANG,      "bottleneck layers, for ImageNet"),
    ("densenet169",         "densenet",   3, 224,  14_149_480,  3_359_843_328, 169, HUANG,      "a deeper densenet121"),
    ("densenet201",         "densenet",   3, 224,  20_013_928,  4_291_365_888, 201, HUANG,      "a deeper densenet121"),
    ("tf_sigmoid_cnn",      "baseline",   3,  48,       2_518,      1_185_540,   4, LECUN,      "three convolutions with sigmoids"),
    ("tf_baseline",         "baseline",   3,  32,     198_494,        658_688,   3, LECUN,      "convolution, norm, activation, pooling, dropout"),
    ("tf_lenet5",           "lenet",      3,  32,      62_006,        651_720,   5, LECUN,      "convolution and pooling"),
    ("tf_alexnet8",         "alexnet",    3,  32,   9_638_474,    117_909_632,   8, KRIZHEVSKY, "AlexNet for 32 pixels"),
    ("tf_alexnet_half",     "alexnet",    3, 224,  16_630_440,    311_191_824,   8, KRIZHEVSKY, "one of AlexNet's two towers"),
    ("tf_vgg13",            "vgg",        3,  32,   9_570_506,    228_427_008,  13, SIMONYAN,   "VGG for 32 pixels"),
    ("tf_vgg16",            "vgg",        3,  32,  15_253_578,    313_725_952,  16, SIMONYAN,   "VGG with batch norm and dropout"),
    ("tf_nin",              "nin",        1, 224,   1_992_166,    762_297_352,  12, LIN,        "1×1 convolutions, no dense layers"),
    ("tf_nin_dense",        "nin",       32, 512, 211_860_376,  7_971_217_424,   5, LIN,        "1×1 convolutions and dense layers"),
    ("tf_googlenet",        "googlenet",  1,  96,   5_977_530,    276_066_304,  22, SZEGEDY,    "ReLU after every convolution"),
    ("tf_inception10",      "googlenet",  3,  32,     120_234,     12_240_128,  10, SZEGEDY,    "an Inception network of ten layers"),
    ("tf_resnet18",         "resnet",     3,  32,  11_173_962,    555_422_720,  18, HE,         "shortcut connections with addition"),
    ("tf_resnet18_pool",    "resnet",     3,  32,  11_176_970,    520_670_976,  18, HE,         "a stem without padding, with a pooling of stride 1"),
]
# fmt: on
MODELS = {
    name: Model(name, file, (channels, size, size), *others)
    for name, file, channels, size, *others in _ROWS
}


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the networks that match a shell-style pattern, such as `"tf_*"`."""
    return fnmatch.filter(MODELS, pattern)


def find_model(name: str) -> Model:
    """Return the entry of a network in the table.

    Raises:
        ValueError: If the name is unknown; the message lists similar names, or else all of them.
    """
    if name not in MODELS:
        hint = did_you_mean(name, MODELS) or f"there are {', '.join(MODELS)}"
        raise ValueError(f"unknown network {name!r}; {hint}")
    return MODELS[name]


def list_pretrained() -> list[str]:
    """Return the names of all networks that have weights in this package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))
