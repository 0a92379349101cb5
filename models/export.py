"""Conversion to TensorFlow Lite."""

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from dataset import WINDOW

# Standardised values beyond this many standard deviations saturate in the int8
# models. Rare jerks reach 29; letting them set the range would cost every other
# value three bits.
INPUT_RANGE = 6.0


def frozen_graph(model):
    """Softmax on top and weights as constants, with a free batch dimension."""
    signature = [tf.TensorSpec([None, WINDOW, 1, 6], tf.float32, name="window")]

    @tf.function(input_signature=signature)
    def probabilities(window):
        return tf.nn.softmax(model(window, training=False))

    return convert_variables_to_constants_v2(probabilities.get_concrete_function())


def to_float(model):
    return float_of(frozen_graph(model), model)


def to_int8(model, windows):
    """Full-integer post-training quantisation, calibrated on standardised `windows`."""
    return int8_of(frozen_graph(model), model, np.clip(windows, -INPUT_RANGE, INPUT_RANGE)[:, :, None, :])


def float_of(graph, model):
    """The graph, a concrete function of `model`, in float32."""
    return tf.lite.TFLiteConverter.from_concrete_functions([graph], model).convert()


def int8_of(graph, model, inputs):
    """The graph, a concrete function of `model`, int8 throughout, calibrated on `inputs`, one at a time."""

    def examples():
        for value in inputs:
            yield [value[None]]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = examples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter.convert()
