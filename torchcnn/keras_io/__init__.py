"""One network in two frameworks: weights from Keras, networks to Keras, to the last bit."""

from torchcnn.keras_io.build import save_keras_weights, to_keras
from torchcnn.keras_io.load import load_keras_weights

__all__ = ["load_keras_weights", "save_keras_weights", "to_keras"]
