"""Everything the tutorials write by hand, in plain tensor algebra, a topic a file."""

from torchcnn.scratch.convolution import corr2d
from torchcnn.scratch.data import data_iter
from torchcnn.scratch.normalization import batch_norm
from torchcnn.scratch.optimizers import sgd
from torchcnn.scratch.regression import linreg, squared_loss

__all__ = ["batch_norm", "corr2d", "data_iter", "linreg", "sgd", "squared_loss"]
