"""Training steps and magnitude pruning, for any model."""

import numpy as np
import tensorflow as tf


def fit(model, draw, loss_of, steps, rate, weight_decay=0.0, after_step=lambda done: None, report_every=600):
    """Cosine-decayed AdamW on batches from `draw`; `after_step` is told the share of the training that is done."""
    schedule = tf.keras.optimizers.schedules.CosineDecay(rate, steps, alpha=0.01)
    optimizer = tf.keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step():
        x, y = draw()
        with tf.GradientTape() as tape:
            loss = loss_of(x, y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    for i in range(steps):
        loss = step()
        after_step((i + 1) / steps)
        if (i + 1) % report_every == 0:
            print(f"    step {i + 1}/{steps} loss {float(loss):.3f}", flush=True)


def mask_smallest(kernel, share, block=1):
    """1 where a weight stays, 0 for the `share` of smallest magnitude: of blocks of neighbours in the last dimension."""
    size = np.abs(kernel).reshape(*kernel.shape[:-1], -1, block).sum(-1)
    drop = round(share * size.size)
    if drop == 0:
        return np.ones_like(kernel)
    stays = size > np.partition(size, drop - 1, axis=None)[drop - 1]
    return np.repeat(stays, block, -1).astype(kernel.dtype)


class Masks:
    """Which weights of each kernel stay: fewer and fewer during the ramp, then fixed."""

    EVERY = 20

    def __init__(self, targets, ramp):
        """`targets` are triples of a kernel, its share of zeros in the end and the size of blocks that go together; `ramp` is
        a share of the training."""
        self.targets, self.ramp = targets, ramp
        self.masks, self.steps, self.settled = [], 0, False

    def renew(self, progress):
        # Cubic: fast while there is much to spare, slow near the target.
        share = 1 - (1 - progress) ** 3
        self.masks = [mask_smallest(kernel.numpy(), share * target, block) for kernel, target, block in self.targets]
        self.settled = progress == 1

    def after_step(self, done):
        if not self.settled and (self.steps % self.EVERY == 0 or done >= self.ramp):
            self.renew(min(1.0, done / self.ramp))
        self.steps += 1
        for (kernel, *_), mask in zip(self.targets, self.masks):
            kernel.assign(kernel * mask)
