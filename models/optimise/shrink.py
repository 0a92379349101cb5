"""Pruning, clustering and quantisation-aware training of a rebuilt network.

All train for a while, with what is taken away kept away. The loss is half the right answers, where there are any, and half
what the model as it was answers: without labels, the latter alone.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

import training

# The first kernel sees the raw signal and the last one decides: where they are small, they lose more accuracy per weight
# than the rest.
SPARSITY_AT_SMALL_ENDS = 0.5
# The runtime skips zeros of a dense layer in blocks of so many of one row.
DENSE_BLOCK = 4
RAMP = 0.6


@dataclass(frozen=True)
class Options:
    steps: int = 1500
    batch: int = 64
    learning_rate: float = 1e-3
    sparsity: float = 0.75
    clusters: int = 16
    seed: int = 20180201


def trained(network, original, data, options, after_step=lambda done: None, model=None):
    """Trains `network`, as seen through `model`, to answer as `data` says and as `original` does."""
    batch = min(options.batch, len(data))
    values = tf.constant(data.values)
    answers = tf.constant(answers_of(data, network))
    random = tf.random.Generator.from_seed(options.seed)

    def draw():
        rows = random.uniform((batch,), 0, len(data), tf.int32)
        return tf.gather(values, rows), tf.gather(answers, rows)

    def loss(x, y, logits):
        soft = likeness(network, tf.stop_gradient(original(x)), logits)
        return soft if data.labels is None and data.targets is None else (soft + error(network, data, y, logits)) / 2

    training.fit(model or network, draw, loss, options.steps, options.learning_rate, after_step=after_step)
    return network


def answers_of(data, network):
    """The right answers as floats in the shape of the outputs; zeros where there are none."""
    shape = (len(data), *network.output_shape)
    if data.targets is not None:
        return data.targets
    if data.labels is None:
        return np.zeros(shape, np.float32)
    if np.prod(network.output_shape) == 1:
        return data.labels.reshape(shape).astype(np.float32)
    return np.eye(int(np.prod(network.output_shape)), dtype=np.float32)[data.labels].reshape(shape)


def error(network, data, y, logits):
    """The distance from the right answers."""
    if data.targets is not None:
        return tf.reduce_mean(tf.square(activated(network, logits) - y))
    if network.ends_in == "LOGISTIC" or logits.shape[-1] == 1:
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, logits))
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, logits))


def likeness(network, wanted, logits):
    """The distance from what the original answers."""
    if network.ends_in == "SOFTMAX":
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(wanted), logits))
    if network.ends_in == "LOGISTIC":
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.sigmoid(wanted), logits))
    return tf.reduce_mean(tf.square(wanted - logits))


def activated(network, logits):
    functions = {"SOFTMAX": tf.nn.softmax, "LOGISTIC": tf.sigmoid, None: tf.identity}
    return functions[network.ends_in](logits)


def sparsities(network, sparsity):
    """The kernels to prune, each with its share of zeros. Depthwise kernels keep their weights: they have few."""
    kernels = [kernel for kernel in network.kernels if kernel.operator != "DEPTHWISE_CONV_2D"]
    average = np.mean([kernel.size for kernel in kernels])
    small_ends = [k.index for k in (kernels[0], kernels[-1]) if k.size < average]
    least = min(sparsity, SPARSITY_AT_SMALL_ENDS)
    return [(kernel, least if kernel.index in small_ends else sparsity) for kernel in kernels]


def prune(network, original, data, options, dense_block=1):
    """Takes away the weights of smallest magnitude, more and more of them while training goes on."""
    targets = []
    for kernel, share in sparsities(network, options.sparsity):
        in_blocks = kernel.operator == "FULLY_CONNECTED" and kernel.variable.shape[-1] % dense_block == 0
        targets.append((kernel.variable, share, dense_block if in_blocks else 1))
    return trained(network, original, data, options, training.Masks(targets, RAMP).after_step)


class Clusters:
    """Each weight of a kernel has the value of its cluster; clusters move, and no weight changes its cluster."""

    def __init__(self, variable, count):
        self.variable = variable
        weights = variable.numpy().ravel()
        centres = np.linspace(weights.min(), weights.max(), count, dtype=np.float64)
        for _ in range(50):
            members = np.searchsorted((centres[1:] + centres[:-1]) / 2, weights)
            sizes = np.bincount(members, minlength=count)
            sums = np.bincount(members, weights, count)
            centres = np.sort(np.where(sizes > 0, sums / np.maximum(sizes, 1), centres))
        self.members, self.count = tf.constant(members), count
        self.tie()

    def tie(self):
        means = tf.math.unsorted_segment_mean(tf.reshape(self.variable, [-1]), self.members, self.count)
        self.variable.assign(tf.reshape(tf.gather(means, self.members), self.variable.shape))


def cluster(network, original, data, options):
    """Leaves `options.clusters` distinct weights in each kernel."""
    clusters = [Clusters(kernel.variable, options.clusters) for kernel in network.kernels]

    def tie(_):
        for one in clusters:
            one.tie()

    return trained(network, original, data, options, tie)


class Rounded:
    """A network as int8 would calculate it. Gradients pass through the rounding as if it were not there."""

    def __init__(self, network, windows):
        self.network, self.ranges = network, {}

        def measure(index, value):
            self.ranges[index] = (min(0.0, float(tf.reduce_min(value))), max(0.0, float(tf.reduce_max(value))))
            return value

        network.run(tf.constant(windows), network.weights, watch=measure)

    @property
    def trainable_variables(self):
        return self.network.trainable_variables

    def __call__(self, x, training=None):
        weights = dict(self.network.weights)
        for kernel in self.network.kernels:
            weights[kernel.index] = round_weights(tf.convert_to_tensor(kernel.variable), kernel.channel_axis)
        return self.network.run(x, weights, logits=True, watch=self.round_values)

    def round_values(self, index, value):
        least, most = self.ranges[index]
        return tf.quantization.fake_quant_with_min_max_args(value, least, max(most, least + 1e-6))


def round_weights(kernel, axis):
    """Symmetric int8 with a scale for each channel, as the converter has it."""
    others = [other for other in range(len(kernel.shape)) if other != axis]
    scale = tf.maximum(tf.reduce_max(tf.abs(kernel), others, keepdims=True), 1e-9) / 127
    return kernel + tf.stop_gradient(tf.round(kernel / scale) * scale - kernel)


def train_for_int8(network, original, data, options, calibration):
    """Quantisation-aware training: it trains with the rounding of int8, of weights and of what is between operators."""
    return trained(network, original, data, options, model=Rounded(network, calibration))
