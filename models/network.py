"""The network, its training and its magnitude pruning."""

import numpy as np
import tensorflow as tf

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
    """Cosine-decayed AdamW; `after_step` is told the share of the training that is done."""
    total = epochs * options["steps_per_epoch"]
    schedule = tf.keras.optimizers.schedules.CosineDecay(rate, total, alpha=0.01)
    optimizer = tf.keras.optimizers.AdamW(schedule, weight_decay=options["weight_decay"])
    optimizer.build(model.trainable_variables)
    loss_of = loss_against(options["label_smoothing"], teacher)

    @tf.function
    def step():
        x, y = sampler.draw()
        with tf.GradientTape() as tape:
            loss = loss_of(x, y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    for i in range(total):
        loss = step()
        after_step((i + 1) / total)
        if (i + 1) % (5 * options["steps_per_epoch"]) == 0:
            print(f"    step {i + 1}/{total} loss {float(loss):.3f}", flush=True)


def train(recordings, mean, std, classes, options, seed):
    tf.keras.utils.set_random_seed(seed)
    model = build(classes, options)
    sampler = Sampler(recordings, mean, std, classes, options, seed)
    fit(model, sampler, options, options["epochs"], options["learning_rate"])
    return model


def mask_smallest(kernel, share):
    """1 where a weight stays, 0 for the `share` of smallest magnitude."""
    size = np.abs(kernel)
    drop = round(share * size.size)
    if drop == 0:
        return np.ones_like(kernel)
    return (size > np.partition(size, drop - 1, axis=None)[drop - 1]).astype(kernel.dtype)


class Masks:
    """Which weights stay: fewer and fewer during the ramp, then fixed."""

    EVERY = 20

    def __init__(self, model, ramp):
        self.layers, self.ramp = kernels(model), ramp
        self.masks, self.steps, self.settled = {}, 0, False

    def renew(self, progress):
        # Cubic: fast while there is much to spare, slow near the target.
        share = 1 - (1 - progress) ** 3
        for layer in self.layers:
            target = SPARSITY.get(layer.name, SPARSITY_ELSEWHERE)
            self.masks[layer.name] = mask_smallest(layer.kernel.numpy(), share * target)
        self.settled = progress == 1

    def after_step(self, done):
        if not self.settled and (self.steps % self.EVERY == 0 or done >= self.ramp):
            self.renew(min(1.0, done / self.ramp))
        self.steps += 1
        for layer in self.layers:
            layer.kernel.assign(layer.kernel * self.masks[layer.name])


def prune(dense, recordings, mean, std, options, seed):
    """A sparse copy, trained on while it is thinned out, with the dense model as teacher."""
    tf.keras.utils.set_random_seed(seed)
    classes = dense.output_shape[-1]
    sparse = build(classes, options)
    sparse.set_weights(dense.get_weights())
    sampler = Sampler(recordings, mean, std, classes, options, seed)
    masks = Masks(sparse, options["pruning_ramp"])
    rate = options["pruning_learning_rate"]
    fit(sparse, sampler, options, options["pruning_epochs"], rate, dense, masks.after_step)
    return sparse
