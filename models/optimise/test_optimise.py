"""Makes every variant of tiny models, and checks that each file is what it is called.

    python -m unittest discover -s models/optimise
"""

import contextlib
import io
import json
import os
import stat
import sys
import tempfile
import unittest
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf

import convert
import inputs
import optimise
import shrink
from common import repeatable
from rebuild import CannotRebuild, Network
from runner import Runner, sha256
from tflite import File
from training import mask_smallest

layers = tf.keras.layers
# Before TensorFlow starts, which is when it takes the number of its threads.
repeatable(1)

SHAPE, CLASSES = (40, 1, 3), 3
SPARSITY, CLUSTERS = 0.8, 8


def class_windows(count, seed):
    """Windows of three classes: which channel has the wave."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    values = random.normal(0, 0.3, (count, *SHAPE))
    wave = np.sin(np.arange(SHAPE[0]) * 0.7 + random.uniform(0, 6, (count, 1)))
    for row, label in enumerate(labels):
        values[row, :, 0, label] += wave[row]
    return values.astype(np.float32), labels


def classifier():
    window = layers.Input(SHAPE)
    x = layers.Conv2D(24, (5, 1), padding="same", use_bias=False)(window)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.BatchNormalization()(layers.DepthwiseConv2D((3, 1), padding="same", use_bias=False)(x))
    x = layers.Add()([x, layers.Conv2D(24, (5, 1), padding="same", activation="relu")(y)])
    x = layers.Dense(32, "relu")(layers.GlobalAveragePooling2D()(x))
    model = tf.keras.Model(window, layers.Dense(CLASSES, "softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*class_windows(300, 1), 32, 6, verbose=0)
    return model


def run(*arguments):
    """The exit status, what was printed, and the errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        # TensorFlow's own; Python shows them in tests only.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            status = optimise.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


class Folder(unittest.TestCase):
    """Tests with a trained classifier and its data in a folder."""

    @classmethod
    def setUpClass(cls):
        tf.keras.utils.set_random_seed(1)
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.model = classifier()
        cls.keras = cls.folder / "waves.keras"
        cls.model.save(cls.keras)
        cls.data = cls.folder / "waves.npz"
        values, labels = class_windows(300, 2)
        np.savez(cls.data, windows=values, labels=labels)
        cls.answers = np.asarray(cls.model(values[:50]))
        cls.values = values


class Variants(Folder):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.out = cls.folder / "variants"
        cls.status, cls.printed, cls.errors = run(
            cls.keras, "--data", cls.data, "--out", cls.out, "--steps", 200, "--sparsity", SPARSITY, "--clusters", CLUSTERS
        )
        cls.manifest = json.loads((cls.out / "variants.json").read_text())
        cls.variants = {variant["variant"]: variant for variant in cls.manifest["variants"]}

    def content(self, variant):
        return (self.out / self.variants[variant]["file"]).read_bytes()

    def test_every_variant_is_made(self):
        self.assertEqual((self.status, self.errors), (0, ""))
        self.assertEqual(list(self.variants), list(optimise.VARIANTS))
        self.assertEqual(self.manifest["left_out"], [])
        for name in optimise.VARIANTS:
            self.assertIn(f"\n{name} ", self.printed)

    def test_the_manifest_says_what_the_files_are(self):
        for name, variant in self.variants.items():
            path = self.out / variant["file"]
            self.assertEqual(path.name, f"waves_{name}.tflite")
            self.assertEqual((variant["bytes"], variant["sha256"]), (path.stat().st_size, sha256(path)))

    def test_types_of_inputs_and_outputs(self):
        types = {"int8": "int8", "pruned_int8": "int8", "qat_int8": "int8", "int16x8": "int16"}
        for name, variant in self.variants.items():
            expected = types.get(name, "float32")
            self.assertEqual((variant["input"]["type"], variant["output"]["type"]), (expected, expected), name)
            self.assertEqual(variant["input"]["shape"], [-1, *SHAPE], name)

    def test_types_of_weights(self):
        types = {"fp16": "FLOAT16", "fp32": "FLOAT32", "pruned": "FLOAT32", "clustered": "FLOAT32", "sparse": "FLOAT32"}
        for name in self.variants:
            for place, kernel in File(self.content(name)).kernels().items():
                # The dynamic range leaves kernels of less than 1,024 weights as they are.
                expected = "FLOAT32" if name == "dynamic" and kernel.size < 1024 else types.get(name, "INT8")
                self.assertEqual(kernel.type, expected, f"{name} {place}")

    def test_sizes_are_in_order(self):
        size = {name: variant["bytes"] for name, variant in self.variants.items()}
        packed = {name: variant["gzip_bytes"] for name, variant in self.variants.items()}
        for smaller, larger in [("fp16", "fp32"), ("int8", "fp16"), ("dynamic", "fp32"), ("sparse", "pruned")]:
            self.assertLess(size[smaller], size[larger], f"{smaller}, {larger}")
        for smaller, larger in [("pruned", "fp32"), ("clustered", "fp32"), ("pruned_int8", "int8"), ("sparse", "fp32")]:
            self.assertLess(packed[smaller], packed[larger], f"{smaller}, {larger} compressed")

    def test_pruned_kernels_have_the_zeros_that_were_asked_for(self):
        expected = [share for _, share in shrink.sparsities(Network(self.content("fp32")), SPARSITY)]
        self.assertEqual(expected, [0.5, SPARSITY, SPARSITY, 0.5])
        for name in ["pruned", "pruned_int8", "sparse"]:
            kernels = [k for place, k in File(self.content(name)).kernels().items() if "DEPTHWISE" not in place]
            for kernel, least in zip(kernels, expected):
                share = 1 - np.count_nonzero(kernel.values) / kernel.size
                # Rounding to int8 makes more of them.
                self.assertGreaterEqual(share, least - 0.02, name)
                self.assertLess(share, least + (0.1 if name == "pruned_int8" else 0.02), name)

    def test_a_sparse_file_stores_no_zeros(self):
        sparse = {place: k for place, k in File(self.content("sparse")).kernels().items() if k.is_sparse}
        self.assertTrue(any("CONV" in place for place in sparse) and any("FULLY" in place for place in sparse))
        for kernel in sparse.values():
            self.assertGreater(np.count_nonzero(kernel.values), 0.98 * len(kernel.values))
            self.assertLess(len(kernel.values), (1.02 - shrink.SPARSITY_AT_SMALL_ENDS) * kernel.size)

    def test_clustered_kernels_have_few_distinct_weights(self):
        for kernel in File(self.content("clustered")).kernels().values():
            self.assertLessEqual(len(np.unique(kernel.values)), CLUSTERS)
        self.assertEqual(self.variants["clustered"]["distinct_weights"], CLUSTERS)

    def test_outputs_are_near_those_of_float32(self):
        most = {"fp32": 1e-5, "fp16": 0.01, "dynamic": 0.05, "int8": 0.1, "int16x8": 0.05}
        for name, difference in most.items():
            self.assertLess(self.variants[name]["largest_difference"], difference, name)

    def test_accuracy_is_kept(self):
        self.assertGreater(self.variants["fp32"]["accuracy"], 0.9)
        for name, variant in self.variants.items():
            self.assertGreater(variant["accuracy"], self.variants["fp32"]["accuracy"] - 0.07, name)

    def test_the_windows_are_written_in_the_form_that_is_read(self):
        written = inputs.read(self.out / "windows.csv", SHAPE, (CLASSES,))
        given = inputs.read(self.data, SHAPE, (CLASSES,)).split()[1]
        np.testing.assert_array_equal(written.values, given.values)
        np.testing.assert_array_equal(written.labels, given.labels)


class Sources(Folder):
    def fp32(self, path):
        out = self.folder / path.name.replace(".", "_")
        status, _, errors = run(path, "--data", self.data, "--out", out, "--variants", "fp32", "qat_int8", "--steps", 1)
        self.assertEqual((status, errors), (0, ""))
        return Runner(next(out.glob("*_fp32.tflite")).read_bytes())

    def test_each_form_gives_the_same_model(self):
        self.model.save(self.folder / "waves.h5")
        self.model.export(self.folder / "saved", verbose=False)
        tflite = self.folder / "waves.tflite"
        tflite.write_bytes(convert.fp32(convert.converter_of(convert.frozen(self.model, SHAPE, "window"), self.model)))
        for path in [self.keras, self.folder / "waves.h5", self.folder / "saved", tflite]:
            np.testing.assert_allclose(self.fp32(path).each(self.values[:50]), self.answers, atol=1e-5)

    def test_a_batch_of_one_becomes_any_batch(self):
        window = tf.TensorSpec([1, 10, 4], tf.float32)
        kernel = tf.constant(np.random.default_rng(1).normal(size=(40, 5)), tf.float32)
        graph = tf.function(lambda x: tf.reshape(x, [1, 40]) @ kernel, input_signature=[window]).get_concrete_function()
        network = Network(convert.fp32(convert.converter_of(graph, tf.Module())))
        rebuilt = Runner(convert.fp32(network.converter()), batch=7)
        values = np.random.default_rng(2).normal(size=(7, 10, 4)).astype(np.float32)
        np.testing.assert_allclose(rebuilt.raw(values), values.reshape(7, 40) @ kernel.numpy(), rtol=1e-5, atol=1e-5)

    def test_a_model_that_cannot_be_trained_has_the_other_variants(self):
        window = layers.Input((10, 4))
        path, data, out = self.folder / "lstm.keras", self.folder / "lstm.npz", self.folder / "lstm"
        tf.keras.Model(window, layers.Dense(2)(layers.LSTM(8, unroll=True)(window))).save(path)
        np.savez(data, windows=np.random.default_rng(1).normal(size=(30, 10, 4)))
        status, _, errors = run(path, "--data", data, "--out", out)
        self.assertEqual(status, 0)
        self.assertIn("pruned: left out; the model has operators that cannot be rebuilt", errors)
        manifest = json.loads((out / "variants.json").read_text())
        self.assertEqual([v["variant"] for v in manifest["variants"]], ["fp32", "fp16", "dynamic", "int8", "int16x8"])
        self.assertEqual(run(path, "--data", data, "--out", out, "--variants", "pruned")[0], 1)


class Rebuilt(unittest.TestCase):
    def rebuilt(self, model, shape):
        """Checks a network rebuilt from the file, and what is converted from it, against the model."""
        values = np.random.default_rng(3).normal(size=(6, *shape)).astype(np.float32)
        content = convert.fp32(convert.converter_of(convert.frozen(model, shape, "window"), model))
        network = Network(content)
        network.check_against(np.asarray(model(values)), values)
        again = Runner(convert.fp32(network.converter())).each(values)
        np.testing.assert_allclose(again, np.asarray(model(values)), rtol=1e-4, atol=1e-5)
        # Every weight takes part.
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(network(tf.constant(values))))
        self.assertTrue(all(gradient is not None for gradient in tape.gradient(loss, network.trainable_variables)))

    def test_common_layers(self):
        window = layers.Input((16, 12, 2))
        x = layers.Conv2D(6, 3, padding="same", dilation_rate=2, activation="relu6")(window)
        x = layers.MaxPooling2D(2)(x)
        x = layers.Concatenate()([x, layers.AveragePooling2D(3, 1, "same")(x)])
        x = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, padding="same")(x)
        x = layers.LeakyReLU()(layers.ZeroPadding2D(1)(x))
        x = layers.Multiply()([x, layers.Activation("tanh")(x)])
        x = layers.Flatten()(x)
        self.rebuilt(tf.keras.Model(window, layers.Dense(4)(x)), (16, 12, 2))

    def test_layers_along_time(self):
        window = layers.Input((32, 3))
        x = layers.Conv1D(8, 5, padding="causal", dilation_rate=2, activation="elu")(window)
        x = layers.SeparableConv1D(8, 3, activation="hard_silu")(x)
        x = layers.LayerNormalization()(layers.GlobalMaxPooling1D()(x))
        self.rebuilt(tf.keras.Model(window, layers.Dense(1, "sigmoid")(x)), (32, 3))

    def test_a_quantised_model_is_refused(self):
        model = tf.keras.Sequential([layers.Input((8,)), layers.Dense(4)])
        converter = convert.converter_of(convert.frozen(model, (8,), "window"), model)
        content = convert.int8(converter, np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32))
        with self.assertRaisesRegex(CannotRebuild, "quantised or sparse already"):
            Network(content)


class Training(unittest.TestCase):
    def test_blocks_go_together(self):
        kernel = np.random.default_rng(1).normal(size=(5, 12))
        mask = mask_smallest(kernel, 0.6, 4)
        blocks = mask.reshape(5, 3, 4)
        self.assertTrue((blocks == blocks[..., :1]).all())
        self.assertEqual(mask.sum(), 24)
        sizes = np.abs(kernel).reshape(5, 3, 4).sum(-1)
        self.assertLess(sizes[blocks[..., 0] == 0].max(), sizes[blocks[..., 0] == 1].min())

    def test_weights_are_rounded_as_the_converter_does_it(self):
        random = np.random.default_rng(1)
        model = tf.keras.Sequential([layers.Input((9, 1, 4)), layers.Conv2D(5, (3, 1)), layers.Flatten(), layers.Dense(6)])
        network = Network(convert.fp32(convert.converter_of(convert.frozen(model, (9, 1, 4), "window"), model)))
        content = convert.int8(network.converter(), random.normal(size=(20, 9, 1, 4)).astype(np.float32))
        interpreter = Runner(content, "builtin").interpreter
        written = {tuple(t["shape"]): t for t in interpreter.get_tensor_details() if t["dtype"] == np.int8}
        for kernel in network.kernels:
            tensor = written[tuple(kernel.variable.shape)]
            scales = tensor["quantization_parameters"]["scales"]
            shape = [-1 if axis == kernel.channel_axis else 1 for axis in range(len(kernel.variable.shape))]
            ours = shrink.round_weights(tf.convert_to_tensor(kernel.variable), kernel.channel_axis)
            theirs = interpreter.get_tensor(tensor["index"]) * scales.reshape(shape)
            np.testing.assert_allclose(ours, theirs, atol=1e-6)

    def test_without_labels_it_learns_from_the_model(self):
        random = np.random.default_rng(1)
        model = tf.keras.Sequential([layers.Input((8,)), layers.Dense(32, "relu"), layers.Dense(8)])
        content = convert.fp32(convert.converter_of(convert.frozen(model, (8,), "window"), model))
        data = inputs.Windows(random.normal(size=(400, 8)).astype(np.float32))
        wanted = np.asarray(Network(content).run(data.values, Network(content).weights))

        def differs(network):
            return float(np.abs(network.run(data.values, network.weights) - wanted).mean())

        untrained, network = Network(content), Network(content)
        for kernel in untrained.kernels:
            kernel.variable.assign(kernel.variable * mask_smallest(kernel.variable.numpy(), 0.5))
        options = shrink.Options(sparsity=0.5, steps=120, learning_rate=0.01)
        shrink.prune(network, Network(content), data, options)
        self.assertLess(differs(network), 0.7 * differs(untrained))

    def test_targets_count(self):
        """A model that gives its input back learns to give something else."""
        model = tf.keras.Sequential([layers.Input((4,)), layers.Dense(4, kernel_initializer="identity")])
        content = convert.fp32(convert.converter_of(convert.frozen(model, (4,), "window"), model))
        values = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
        data, network = inputs.Windows(values, targets=3 * values), Network(content)
        shrink.trained(network, Network(content), data, shrink.Options(steps=240, learning_rate=0.02))
        # Half way between what is right and what the model was.
        np.testing.assert_allclose(network.kernels[0].variable, 2 * np.eye(4), atol=0.1)


class BadInput(Folder):
    def refused(self, message, model=None, data=None, *more):
        out = self.folder / "nothing"
        status, _, errors = run(model or self.keras, "--data", data or self.data, "--out", out, *more)
        self.assertEqual(status, 2, errors)
        self.assertRegex(errors, message)
        self.assertFalse(out.exists())

    def npz(self, **arrays):
        path = self.folder / "bad.npz"
        np.savez(path, **arrays)
        return path

    def csv(self, text):
        path = self.folder / "bad.csv"
        path.write_text(text)
        return path

    def test_models(self):
        file = self.folder / "model.bin"
        file.write_bytes(b"nothing")
        (self.folder / "empty").mkdir()
        (self.folder / "bad.keras").write_bytes(b"nothing")
        (self.folder / "bad.tflite").write_bytes(b"nothing")
        two = layers.Input((4,)), layers.Input((4,))
        tf.keras.Model(two, layers.Add()(two)).save(self.folder / "two.keras")
        self.refused("no such file or folder; give a Keras model", self.folder / "none.keras")
        self.refused("model.bin: is none of the known forms", file)
        self.refused("a folder without saved_model.pb", self.folder / "empty")
        self.refused("Keras cannot load it", self.folder / "bad.keras")
        self.refused("bad.tflite: is not a TensorFlow Lite model", self.folder / "bad.tflite")
        self.refused("has 2 inputs and 1 outputs", self.folder / "two.keras")
        (self.folder / "model.pt2").write_bytes(b"")
        self.refused("from_torch.py", self.folder / "model.pt2")

    def test_arrays(self):
        values, labels = class_windows(30, 1)
        holes = values.copy()
        holes[3, 0] = np.nan
        self.refused("there is no such file", data=self.folder / "none.npz")
        self.refused("not from .txt", data=(self.folder / "some.txt", (self.folder / "some.txt").touch())[0])
        self.refused("no array `windows`; it has x", data=self.npz(x=values))
        self.refused(r"\[30, 39, 1, 3\]; the model's input needs \[n, 40, 1, 3\]", data=self.npz(windows=values[:, 1:]))
        self.refused("window 3 of `windows` has NaN", data=self.npz(windows=holes))
        self.refused("5 windows are too few; give 10", data=self.npz(windows=values[:5]))
        self.refused(r"30 windows need \[30\]", data=self.npz(windows=values, labels=labels[:9]))
        self.refused("label 3; the model has 3 outputs, so labels go from 0 to 2",
                     data=self.npz(windows=values, labels=labels + 1))
        self.refused("whole numbers", data=self.npz(windows=values, labels=labels + 0.5))
        self.refused("whole numbers", data=self.npz(windows=values, labels=np.array(["a"] * 30)))
        self.refused("labels and targets", data=self.npz(windows=values, labels=labels, targets=np.zeros((30, 3))))
        self.refused("the model's output needs", data=self.npz(windows=values, targets=np.zeros((30, 4))))
        self.refused("has the type", data=self.npz(windows=np.array(["a"] * 30)))

    def test_lines(self):
        self.refused("bad.csv: is empty", data=self.csv(""))
        self.refused("bad.csv:1: is numbers; the first line names the columns", data=self.csv("1,2\n3,4\n"))
        self.refused("bad.csv:3: 1 values for 2 columns", data=self.csv("a,b\n1,2\n3\n"))
        self.refused("bad.csv:2: 'ROW' is not a number; labels are the class's index", data=self.csv("a,label\n1,ROW\n"))

    def test_arguments(self):
        self.refused("--sparsity 75.0: a share lies between 0 and 1", None, None, "--sparsity", 75)
        self.refused("--clusters 1: give 2 or more", None, None, "--clusters", 1)
        self.refused("invalid choice: 'int4'", None, None, "--variants", "int4")


class Bench(Folder):
    def test_the_program_gets_the_files_and_the_windows(self):
        program = self.folder / "edgewatt"
        program.write_text('#!/bin/sh\necho "$@" >"$0.said"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        out = self.folder / "variants"
        arguments = ["--data", self.data, "--out", out, "--variants", "fp32", "int8", "--bench", program]
        self.assertEqual(run(self.keras, *arguments)[0], 0)
        said = Path(f"{program}.said").read_text().split()
        files = [str(out / "waves_fp32.tflite"), str(out / "waves_int8.tflite")]
        self.assertEqual(said, ["bench", *files, "--windows", str(out / "windows.csv")])


if __name__ == "__main__":
    unittest.main()
