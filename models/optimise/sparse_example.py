"""Writes two networks of which the runtime can skip the zeros, dense and sparse, to see what pruning can save in time.

    python models/optimise/sparse_example.py FOLDER

The weights are random: the files show time and size, and decide nothing.

- `layers_*.tflite`: dense layers. The runtime's own kernel skips zeros in float32 if they come in blocks of 4 in a row of the
  kernel, and XNNPACK leaves such layers to it.
- `pointwise_*.tflite`: a small MobileNet. XNNPACK skips zeros in float32 convolutions of 1x1, in a part of the network that
  begins with a 3x3 convolution of stride 2 on 3 channels, goes on with 1x1 and depthwise 3x3 or 5x5 convolutions, each padded
  by the same number on all sides, and ends in a mean; more than two thirds of the 1x1 weights must be zero. On x86-64 it
  does so only on processors without AVX.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf

import convert
from common import repeatable
from shrink import DENSE_BLOCK
from training import mask_smallest

layers = tf.keras.layers

SEED = 20180201
SPARSITY = 0.9
WIDTH, DEPTH = 512, 4
SIDE = 96
# Filters and stride of each depthwise convolution with the 1x1 convolution that follows.
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1)]


def dense_layers():
    return tf.keras.Sequential([layers.Input((WIDTH,)), *(layers.Dense(WIDTH, "relu") for _ in range(DEPTH))])


def pointwise():
    image = layers.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(32, 3, strides=2, activation="relu")(layers.ZeroPadding2D(1)(image))
    for filters, stride in BLOCKS:
        x = layers.DepthwiseConv2D(3, strides=stride, activation="relu")(layers.ZeroPadding2D(1)(x))
        x = layers.Conv2D(filters, 1, activation="relu")(x)
    return tf.keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def zero_smallest(model):
    for layer in model.layers:
        kernel = layer.kernel.numpy() if hasattr(layer, "kernel") else None
        if isinstance(layer, layers.Dense) and kernel.shape[0] % DENSE_BLOCK == 0:
            # A row of the file's kernel is a column of Keras's.
            layer.kernel.assign(kernel * mask_smallest(kernel.T, SPARSITY, DENSE_BLOCK).T)
        elif isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1):
            layer.kernel.assign(kernel * mask_smallest(kernel, SPARSITY))


def write(folder, name, model):
    shape = model.input_shape[1:]
    examples = np.random.default_rng(SEED).normal(size=(20, *shape)).astype(np.float32)

    def converter():
        return convert.converter_of(convert.frozen(lambda x: model(x, training=False), shape, "input"), model)

    (folder / f"{name}_fp32.tflite").write_bytes(convert.fp32(converter()))
    (folder / f"{name}_int8.tflite").write_bytes(convert.int8(converter(), examples))
    zero_smallest(model)
    (folder / f"{name}_sparse.tflite").write_bytes(convert.sparse(converter()))


def main(folder):
    repeatable(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "layers", dense_layers())
    write(folder, "pointwise", pointwise())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
