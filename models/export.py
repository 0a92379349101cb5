"""Conversion of the demo's model to TensorFlow Lite."""

import numpy as np
import tensorflow as tf

import convert
from dataset import WINDOW

# Standardised values beyond this many standard deviations saturate in the int8
# models. Rare jerks reach 29; letting them set the range would cost every other
# value three bits.
INPUT_RANGE = 6.0


def converter(model):
    """With a softmax on top, and a free batch dimension."""

    def probabilities(window):
        return tf.nn.softmax(model(window, training=False))

    return convert.converter_of(convert.frozen(probabilities, (WINDOW, 1, 6), "window"), model)


def to_float(model):
    return convert.fp32(converter(model))


def to_int8(model, windows):
    """Full-integer post-training quantisation, calibrated on standardised `windows`."""
    return convert.int8(converter(model), np.clip(windows, -INPUT_RANGE, INPUT_RANGE)[:, :, None, :])
