"""A float32 TensorFlow Lite model as a TensorFlow function that can be trained.

The file has batch normalisation folded into its kernels and names its operators, whatever the model was written in. So what
is pruned, clustered or rounded here are the weights that the runtime multiplies with.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

import convert
from tflite import KERNELS, File

PADDING = ["SAME", "VALID"]
ACTIVATIONS = [None, tf.nn.relu, lambda x: tf.clip_by_value(x, -1.0, 1.0), tf.nn.relu6, tf.nn.tanh]
# The axis of each kernel along which int8 has a scale of its own.
CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
# Of the largest output. Sums in another order differ by less.
TOLERANCE = 1e-4


def transposed(kernel, order):
    """Of a constant, a constant."""
    return np.transpose(kernel, order) if isinstance(kernel, np.ndarray) else tf.transpose(kernel, order)


def convolution(o, x, kernel, bias=None):
    y = tf.nn.conv2d(x, transposed(kernel, (1, 2, 3, 0)), (o.strideH, o.strideW), PADDING[o.padding],
                     dilations=(o.dilationHFactor, o.dilationWFactor))
    return y if bias is None else y + bias


def depthwise(o, x, kernel, bias=None):
    shape = (*kernel.shape[1:3], x.shape[-1], -1)
    kernel = kernel.reshape(shape) if isinstance(kernel, np.ndarray) else tf.reshape(kernel, shape)
    y = tf.nn.depthwise_conv2d(x, kernel, (1, o.strideH, o.strideW, 1), PADDING[o.padding],
                               dilations=(o.dilationHFactor, o.dilationWFactor))
    return y if bias is None else y + bias


def fully_connected(o, x, kernel, bias=None):
    if not o.keepNumDims and len(x.shape) != 2:
        x = tf.reshape(x, (-1, kernel.shape[1]))
    y = tf.matmul(x, transposed(kernel, (1, 0)))
    return y if bias is None else y + bias


def pooled(kind):
    def pool(o, x):
        return tf.nn.pool(x, (o.filterHeight, o.filterWidth), kind, (o.strideH, o.strideW), PADDING[o.padding])

    return pool


def reduced(function):
    return lambda o, x, axes: function(x, axes, keepdims=o.keepDims)


def plain(function):
    """An operator without options other than an activation."""
    return lambda o, *given: function(*given)


def strided_slice(o, x, begin, end, strides):
    return tf.strided_slice(x, begin, end, strides, o.beginMask, o.endMask, o.ellipsisMask, o.newAxisMask,
                            o.shrinkAxisMask)


OPERATORS = {
    "ABS": plain(tf.abs),
    "ADD": plain(tf.add),
    "AVERAGE_POOL_2D": pooled("AVG"),
    "BATCH_TO_SPACE_ND": plain(tf.batch_to_space),
    "CAST": lambda o, x: tf.cast(x, tf.int32 if x.dtype.is_integer else x.dtype),
    "CONCATENATION": lambda o, *parts: tf.concat(parts, o.axis),
    "CONV_2D": convolution,
    "DEPTHWISE_CONV_2D": depthwise,
    "DIV": plain(tf.divide),
    "ELU": plain(tf.nn.elu),
    "EXP": plain(tf.exp),
    "EXPAND_DIMS": plain(tf.expand_dims),
    "FULLY_CONNECTED": fully_connected,
    "HARD_SWISH": plain(lambda x: x * tf.nn.relu6(x + 3) * (1 / 6)),
    "LEAKY_RELU": lambda o, x: tf.nn.leaky_relu(x, o.alpha),
    "LOGISTIC": plain(tf.sigmoid),
    "MAXIMUM": plain(tf.maximum),
    "MAX_POOL_2D": pooled("MAX"),
    "MEAN": reduced(tf.reduce_mean),
    "MINIMUM": plain(tf.minimum),
    "MUL": plain(tf.multiply),
    "NEG": plain(tf.negative),
    "PACK": lambda o, *parts: tf.stack(parts, o.axis),
    "PAD": plain(tf.pad),
    "REDUCE_MAX": reduced(tf.reduce_max),
    "RELU": plain(tf.nn.relu),
    "RELU6": plain(tf.nn.relu6),
    "RESHAPE": lambda o, x, *shape: tf.reshape(x, shape[0] if shape else o.newShape),
    "RSQRT": plain(tf.math.rsqrt),
    "SHAPE": plain(tf.shape),
    "SOFTMAX": lambda o, x: tf.nn.softmax(o.beta * x),
    "SPACE_TO_BATCH_ND": plain(tf.space_to_batch),
    "SQRT": plain(tf.sqrt),
    "SQUARE": plain(tf.square),
    "SQUARED_DIFFERENCE": plain(tf.math.squared_difference),
    "SQUEEZE": lambda o, x: tf.squeeze(x, list(o.squeezeDims)),
    "STRIDED_SLICE": strided_slice,
    "SUB": plain(tf.subtract),
    "SUM": reduced(tf.reduce_sum),
    "TANH": plain(tf.tanh),
    "TRANSPOSE": plain(tf.transpose),
}


class CannotRebuild(Exception):
    """Says what of the model stands in the way; the sentence has no subject, which is the model."""


@dataclass(frozen=True)
class Kernel:
    operator: str
    index: int
    variable: object

    @property
    def channel_axis(self):
        return CHANNEL_AXIS[self.operator]

    @property
    def size(self):
        return int(np.prod(self.variable.shape))


class Network:
    """One input and one output. Called, it gives logits where the model ends in a softmax or a sigmoid."""

    def __init__(self, content):
        self.file = File(content)
        self.check()
        self.input, self.output = self.file.inputs[0], self.file.outputs[0]
        self.input_shape = self.file.tensors[self.input].shape[1:]
        self.output_shape = self.file.tensors[self.output].shape[1:]
        last = self.file.operators[-1]
        self.ends_in = last.name if last.name in ("SOFTMAX", "LOGISTIC") and self.output in last.outputs else None
        self.weights, self.kernels = {}, []
        for operator in self.file.operators:
            if operator.name in KERNELS:
                self.add_weights(operator)
        if not self.kernels:
            raise CannotRebuild("has no convolution and no dense layer")

    def check(self):
        file = self.file
        if file.subgraphs > 1:
            raise CannotRebuild("has several subgraphs, such as those of a loop or of several signatures")
        if len(file.inputs) != 1 or len(file.outputs) != 1:
            raise CannotRebuild(f"has {len(file.inputs)} inputs and {len(file.outputs)} outputs; one of each is needed")
        ends = [file.tensors[index].type for index in (file.inputs[0], file.outputs[0])]
        others = sorted({operator.name for operator in file.operators} - set(OPERATORS))
        if ends != ["FLOAT32", "FLOAT32"] or {"QUANTIZE", "DEQUANTIZE", "DENSIFY"} & set(others):
            raise CannotRebuild("is quantised or sparse already; give the float32 model from which it was made")
        if others:
            raise CannotRebuild(f"has operators that cannot be rebuilt for training: {', '.join(others)}")

    def add_weights(self, operator):
        for place in (1, 2):
            index = operator.inputs[place] if place < len(operator.inputs) else -1
            values = None if index < 0 else self.file.tensors[index].values
            if values is None or index in self.weights:
                continue
            self.weights[index] = tf.keras.Variable(values, dtype="float32")
            if place == 1:
                self.kernels.append(Kernel(operator.name, index, self.weights[index]))

    @property
    def trainable_variables(self):
        return list(self.weights.values())

    def __call__(self, x, training=None):
        return self.run(x, self.weights, logits=True)

    def run(self, x, weights, logits=False, watch=lambda index, value: value):
        """Outputs for a batch. `watch` gets each float tensor with its index, and gives what is used in its place."""
        values = {self.input: watch(self.input, x)}
        operators = self.file.operators[:-1] if logits and self.ends_in else self.file.operators
        for operator in operators:
            given = [self.value(index, values, weights) for index in operator.inputs if index >= 0]
            if operator.name == "RESHAPE":
                given[1:] = [self.any_batch(shape) for shape in given[1:]]
            result = OPERATORS[operator.name](operator.options, *given)
            activation = getattr(operator.options, "fusedActivationFunction", 0)
            result = ACTIVATIONS[activation](result) if activation else result
            index = operator.outputs[0]
            values[index] = watch(index, result) if result.dtype == tf.float32 else result
        return values[operators[-1].outputs[0]] if logits else values[self.output]

    def value(self, index, values, weights):
        if index in values:
            return values[index]
        return weights[index] if index in weights else self.file.tensors[index].values

    def any_batch(self, shape):
        """The shape to which a model of a batch of one reshapes, for a batch of any size."""
        fixed = self.file.tensors[self.input].shape[0] == 1 and isinstance(shape, np.ndarray)
        return np.array([-1, *shape[1:]], np.int32) if fixed and shape[0] == 1 and -1 not in shape else shape

    def converter(self):
        """A converter for the network as it is now, with any batch."""
        weights = {index: variable.numpy() for index, variable in self.weights.items()}
        graph = convert.frozen(lambda window: self.run(window, weights), self.input_shape, "window")
        return convert.converter_of(graph, tf.Module())

    def check_against(self, answers, windows):
        """The same outputs as the file gives, one window at a time."""
        rebuilt = np.asarray(self.run(tf.constant(windows), self.weights))
        difference = float(np.abs(rebuilt.reshape(answers.shape) - answers).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(answers).max())):
            raise CannotRebuild(f"gives other outputs when rebuilt for training, by up to {difference:.3g}")
