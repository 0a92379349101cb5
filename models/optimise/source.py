"""The model that the user gives: a Keras file, a SavedModel or a float32 `.tflite`, as a converter and as a network to train."""

from functools import cached_property

import tensorflow as tf

import convert
from inputs import BadInput
from rebuild import CannotRebuild, Network
from runner import Runner

# How many windows show that the rebuilt network answers as the model does.
COMPARED = 16
FORMS = "give a Keras model (.keras, .h5), a SavedModel (a folder) or a float32 .tflite"


class Source:
    """What variants are made from. `converter()` gives a new float32 converter each time; `runner` runs what was given."""

    def __init__(self, path):
        self.path = path
        if not path.exists():
            raise BadInput(f"{path}: there is no such file or folder; {FORMS}")
        readers = {".keras": read_keras, ".h5": read_keras, ".tflite": read_tflite}
        if path.is_dir():
            self.kind, self.converter = "SavedModel", read_saved_model(path)
        elif path.suffix in readers:
            self.kind, self.converter = path.suffix[1:], readers[path.suffix](path)
        elif path.suffix in (".pt", ".pth", ".pt2", ".onnx"):
            raise BadInput(f"{path}: convert it to .tflite first: models/optimise/from_torch.py does it for PyTorch")
        else:
            raise BadInput(f"{path}: is none of the known forms; {FORMS}")
        self.runner = Runner(path.read_bytes() if self.kind == "tflite" else self.fp32)
        ends = (self.runner.input, self.runner.output)
        self.input_shape, self.output_shape = (tuple(end["shape_signature"][1:].tolist()) for end in ends)
        if -1 in self.input_shape:
            raise BadInput(f"{path}: the input {list(self.input_shape)} has open dimensions; fix all but the batch")

    @cached_property
    def fp32(self):
        return convert.fp32(self.converter())

    def network(self, windows):
        """A network to train, checked on some windows to answer as the model does."""
        network = Network(self.fp32)
        network.check_against(self.runner.each(windows[:COMPARED]), windows[:COMPARED])
        return network


def read_keras(path):
    try:
        model = tf.keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its layers raise.
        raise BadInput(f"{path}: Keras cannot load it: {first_line(error)}. If it has layers of your own, write a "
                       "SavedModel where they are known: model.export(FOLDER)") from None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BadInput(f"{path}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; give one of each")

    def answers(window):
        return model(window, training=False)

    return lambda: convert.converter_of(convert.frozen(answers, model.inputs[0].shape[1:], "window"), model)


def read_saved_model(path):
    if not (path / "saved_model.pb").is_file():
        raise BadInput(f"{path}: is a folder without saved_model.pb, so not a SavedModel; {FORMS}")
    return lambda: tf.lite.TFLiteConverter.from_saved_model(str(path))


def read_tflite(path):
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise BadInput(f"{path}: is not a TensorFlow Lite model; {FORMS}")
    try:
        network = Network(content)
    except CannotRebuild as error:
        raise BadInput(f"{path}: {error}; or give the model from which it was made, as .keras or SavedModel") from None
    return network.converter


def first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
