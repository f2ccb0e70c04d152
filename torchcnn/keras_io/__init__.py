"""Load weights from Keras and convert networks to Keras; of one dtype, they stay bit for bit."""

from torchcnn.keras_io.build import save_keras_weights, to_keras
from torchcnn.keras_io.load import load_keras_weights

__all__ = ["load_keras_weights", "save_keras_weights", "to_keras"]
