"""Conversion of any model to TensorFlow Lite. Each function takes a converter that was not used before."""

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def frozen(function, shape, name):
    """The function with its variables as constants and a free batch dimension; `shape` is that of one example."""
    signature = [tf.TensorSpec([None, *shape], tf.float32, name=name)]
    graph = tf.function(function, input_signature=signature).get_concrete_function()
    return convert_variables_to_constants_v2(graph)


def converter_of(graph, model):
    """A converter for a concrete function of `model`."""
    return tf.lite.TFLiteConverter.from_concrete_functions([graph], model)


def fp32(converter):
    return converter.convert()


def sparse(converter):
    """float32, with weights that are mostly zero stored without their zeros."""
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    return converter.convert()


def fp16(converter):
    """Weights in float16; the runtime calculates in float32."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def dynamic(converter):
    """Weights in int8; inputs, outputs and what is between operators stay float32."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter.convert()


def int8(converter, inputs):
    """int8 throughout, calibrated on `inputs`, one at a time."""
    return integers(converter, inputs, tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.int8)


def int16x8(converter, inputs):
    """Weights in int8, all else in int16, calibrated on `inputs`, one at a time."""
    operators = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    return integers(converter, inputs, operators, tf.int16)


def integers(converter, inputs, operators, element):
    def examples():
        for value in inputs:
            yield [value[None]]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = examples
    converter.target_spec.supported_ops = [operators]
    converter.inference_input_type = element
    converter.inference_output_type = element
    return converter.convert()
