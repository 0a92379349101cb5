"""A TensorFlow Lite file as objects: its operators in order, its tensors, and the weights in it."""

from dataclasses import dataclass

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Operators that only unpack weights which the file keeps in another form.
UNPACK = ("DEQUANTIZE", "DENSIFY")
# Values of other types are not read.
TYPES = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}


def names(enumeration):
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


OPERATORS, TENSOR_TYPES = names(schema.BuiltinOperator), names(schema.TensorType)


@dataclass(frozen=True)
class Tensor:
    # With -1 for an open dimension.
    shape: tuple
    type: str
    # None if the tensor is calculated. Of a sparse tensor, only what the file stores.
    values: np.ndarray | None
    is_sparse: bool

    @property
    def size(self):
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Operator:
    name: str
    inputs: list
    outputs: list
    options: object


class File:
    """The first subgraph of a model."""

    def __init__(self, content):
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        graph = model.subgraphs[0]
        codes = [max(code.deprecatedBuiltinCode, code.builtinCode) for code in model.operatorCodes]
        self.subgraphs = len(model.subgraphs)
        self.inputs, self.outputs = list(graph.inputs), list(graph.outputs)
        self.tensors = [self.tensor(t, model.buffers[t.buffer].data) for t in graph.tensors]
        self.operators = [
            Operator(OPERATORS.get(codes[o.opcodeIndex], "an unknown one"), list(o.inputs), list(o.outputs), o.builtinOptions) for o in graph.operators
        ]

    @staticmethod
    def tensor(t, data):
        kind = TENSOR_TYPES[t.type]
        shape = next((tuple(map(int, s)) for s in (t.shapeSignature, t.shape) if s is not None and len(s)), ())
        values = None
        if data is not None and len(data) and kind in TYPES:
            values = np.frombuffer(bytes(data), TYPES[kind])
            values = values if t.sparsity else values.reshape(shape)
        return Tensor(shape, kind, values, t.sparsity is not None)

    def kernels(self):
        """Kernels by operator and its place in the graph, as the file stores them."""
        makers = {index: operator for operator in self.operators for index in operator.outputs}
        found = {}
        for place, operator in enumerate(self.operators):
            if operator.name not in KERNELS:
                continue
            index = operator.inputs[1]
            while self.tensors[index].values is None and index in makers and makers[index].name in UNPACK:
                index = makers[index].inputs[0]
            if self.tensors[index].values is not None:
                found[f"{operator.name}#{place}"] = self.tensors[index]
        return found


def sparsity(content):
    """How many weights of the kernels are zero."""
    kernels = File(content).kernels()
    zeros = {name: k.size - int(np.count_nonzero(k.values)) for name, k in kernels.items()}
    weights = sum(k.size for k in kernels.values())
    return {
        "zero_weights": sum(zeros.values()),
        "weights": weights,
        "zero_share": sum(zeros.values()) / max(weights, 1),
        "per_layer": {n: {"shape": list(k.shape), "zero_share": zeros[n] / k.size} for n, k in kernels.items()},
    }


def distinct_weights(content):
    """The largest number of distinct values in one kernel; the zeros that a sparse file does not store count."""
    kernels = File(content).kernels().values()
    distinct = [np.unique(np.append(k.values, 0) if k.is_sparse else k.values) for k in kernels]
    return max(map(len, distinct), default=0)
