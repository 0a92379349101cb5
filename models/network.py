"""The network, its training and its magnitude pruning."""

import numpy as np
import tensorflow as tf

import training
from dataset import WINDOW, Sampler

layers = tf.keras.layers

OPTIONS = {
    "batch": 96,
    "steps_per_epoch": 120,
    "epochs": 15,
    "learning_rate": 3e-3,
    "weight_decay": 1e-4,
    "label_smoothing": 0.05,
    "dropout": 0.3,
    "mixup": 0.2,
    "time_warp": 0.15,
    "rotation": 0.3,
    "accel_scale": 0.03,
    "gyro_scale": 0.1,
    "noise": 0.1,
    "pruning_epochs": 8,
    "pruning_learning_rate": 1.5e-3,
    "pruning_ramp": 0.6,
}

# Share of zeros after pruning. The first layer has few weights and sees the raw
# signal, and the last one decides; both lose more accuracy per weight than the rest.
SPARSITY = {"conv1": 0.5, "dense": 0.5}
SPARSITY_ELSEWHERE = 0.74


def conv(x, filters, width, stride=1, activation=True, name=None):
    """Convolution along time only: the second axis has length 1, so no reshape is needed."""
    x = layers.Conv2D(
        filters,
        (width, 1),
        strides=(stride, 1),
        padding="same",
        use_bias=False,
        name=name,
    )(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if activation else x


def build(classes, options):
    """Logits of windows [batch, WINDOW, 1, 6]."""
    window = layers.Input((WINDOW, 1, 6))
    x = conv(window, 24, 11, stride=2, name="conv1")
    x = conv(x, 32, 7, stride=2, name="conv2")
    x = conv(x, 40, 5, stride=2, name="conv3")
    # Two more convolutions see a whole repetition; the shortcut keeps them easy to
    # train. Strides widen the view, not dilation: with a free batch dimension the
    # converter turns dilation into SPACE_TO_BATCH_ND, which XNNPACK does not take.
    y = conv(x, 40, 5, name="conv4")
    y = conv(y, 40, 5, activation=False, name="conv5")
    x = layers.ReLU()(layers.Add()([x, y]))
    # An average over time keeps the batch dimension free and, unlike flattening,
    # does not tie the answer to where in the window a repetition starts.
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(options["dropout"])(x)
    return tf.keras.Model(window, layers.Dense(classes, name="dense")(x))


def parameters(model):
    """Weights and biases left once batch normalisation is folded into the convolutions."""
    return sum(int(np.prod(layer.kernel.shape)) + layer.kernel.shape[-1] for layer in kernels(model))


def kernels(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def loss_against(smoothing, teacher):
    """Cross-entropy with the labels, or half of it with what the teacher answers."""

    def loss(x, y, logits):
        hard = tf.keras.losses.categorical_crossentropy(y, logits, from_logits=True, label_smoothing=smoothing)
        if teacher is None:
            return tf.reduce_mean(hard)
        soft = tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher(x, training=False)), logits)
        return tf.reduce_mean(hard + soft) / 2

    return loss


def fit(model, sampler, options, epochs, rate, teacher=None, after_step=lambda done: None):
    epoch = options["steps_per_epoch"]
    loss_of = loss_against(options["label_smoothing"], teacher)
    steps, decay = epochs * epoch, options["weight_decay"]
    training.fit(model, sampler.draw, loss_of, steps, rate, decay, after_step, report_every=5 * epoch)


def train(recordings, mean, std, classes, options, seed):
    tf.keras.utils.set_random_seed(seed)
    model = build(classes, options)
    sampler = Sampler(recordings, mean, std, classes, options, seed)
    fit(model, sampler, options, options["epochs"], options["learning_rate"])
    return model


def prune(dense, recordings, mean, std, options, seed):
    """A sparse copy, trained on while it is thinned out, with the dense model as teacher."""
    tf.keras.utils.set_random_seed(seed)
    classes = dense.output_shape[-1]
    sparse = build(classes, options)
    sparse.set_weights(dense.get_weights())
    sampler = Sampler(recordings, mean, std, classes, options, seed)
    targets = [(layer.kernel, SPARSITY.get(layer.name, SPARSITY_ELSEWHERE), 1) for layer in kernels(sparse)]
    masks = training.Masks(targets, options["pruning_ramp"])
    rate = options["pruning_learning_rate"]
    fit(sparse, sampler, options, options["pruning_epochs"], rate, dense, masks.after_step)
    return sparse
