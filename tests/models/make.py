"""Writes the tiny models beside this script: what the shipped ones lack, to run, and what edgewatt must refuse.

    python tests/models/make.py        # needs tensorflow-cpu 2.17.1, as in models/requirements.txt

Nothing is trained and nothing random: each is one to three operators written through the schema's own Python classes,
so the expected outputs follow from the scales below and stand in tests/engine/tflite.rs.
"""

import sys
import zipfile
from pathlib import Path

import flatbuffers
from tensorflow.lite.python import schema_py_generated as schema

sys.path.append(str(Path(__file__).resolve().parents[2] / "models"))
from metadata import attach, metadata_of

T = schema.TensorType
OP = schema.BuiltinOperator


def tensor(name, element, shape, scale=None, zero_point=0, signature=None, data=None):
    t = schema.TensorT()
    t.name, t.type, t.shape, t.shapeSignature = name, element, shape, signature
    if scale is not None:
        t.quantization = schema.QuantizationParametersT()
        t.quantization.scale, t.quantization.zeroPoint = [scale], [zero_point]
    t.data = data
    return t


def options(name, **fields):
    """The builtin options of an operator: the union's tag and its table."""
    table = getattr(schema, name + "T")()
    for field, value in fields.items():
        setattr(table, field, value)
    return getattr(schema.BuiltinOptions, name), table


def operator(code, inputs, outputs, builtin_options=None):
    return code, inputs, outputs, builtin_options


def signature_of(key, subgraph, inputs, outputs, tensors):
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = key, subgraph
    signature.inputs, signature.outputs = [], []
    for entries, indices in [(signature.inputs, inputs), (signature.outputs, outputs)]:
        for index in indices:
            entries.append(schema.TensorMapT())
            entries[-1].name, entries[-1].tensorIndex = tensors[index].name, index
    return signature


def graph_of(model, tensors, operators, inputs, outputs):
    for t in tensors:
        if t.data is not None:
            t.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = t.data
        del t.data
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, inputs, outputs, []
    for code, op_inputs, op_outputs, builtin_options in operators:
        kind = schema.OperatorCodeT()
        kind.version = 1
        if isinstance(code, str):
            kind.builtinCode, kind.customCode = OP.CUSTOM, code
        else:
            kind.builtinCode = code
        kind.deprecatedBuiltinCode = min(kind.builtinCode, 127)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = len(model.operatorCodes), op_inputs, op_outputs
        if builtin_options:
            op.builtinOptionsType, op.builtinOptions = builtin_options
        model.operatorCodes.append(kind)
        graph.operators.append(op)
    return graph


def write_graphs(name, graphs, signatures=(), metadata=None):
    """Writes a model of several subgraphs, each (tensors, operators, inputs, outputs), with signatures (key, subgraph)."""
    model = schema.ModelT()
    model.version, model.description = 3, "made by tests/models/make.py"
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    model.subgraphs = [graph_of(model, *graph) for graph in graphs]
    if metadata is not None:
        attach(model, metadata)
    if signatures:
        model.signatureDefs = [
            signature_of(key, index, inputs or graphs[index][2], outputs or graphs[index][3], graphs[index][0])
            for key, index, inputs, outputs in signatures
        ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path = Path(__file__).with_name(name + ".tflite")
    path.write_bytes(builder.Output())
    return path


def write(name, tensors, operators, inputs, outputs, signature=None, metadata=None):
    signatures = [("serving_default", 0, *signature)] if signature else []
    return write_graphs(name, [(tensors, operators, inputs, outputs)], signatures, metadata)


def x(shape=(1, 4)):
    return tensor("x", T.FLOAT32, list(shape))


def cast(of, to):
    return options("CastOptions", inDataType=of, outDataType=to)


def main():
    any_batch = [-1, 4]

    # In the second the signature lists the outputs in an order of its own.
    for name, signature in [("quantised_outputs", None), ("outputs_in_another_order", ([0], [3, 1, 2]))]:
        write(
            name,
            [
                tensor("x", T.FLOAT32, [1, 4], signature=any_batch),
                tensor("as_int16", T.INT16, [1, 4], 1 / 1024, signature=any_batch),
                tensor("as_uint8", T.UINT8, [1, 4], 0.5, 128, signature=any_batch),
                tensor("as_int8", T.INT8, [1, 4], 0.25, -3, signature=any_batch),
            ],
            [operator(OP.QUANTIZE, [0], [i], options("QuantizeOptions")) for i in (1, 2, 3)],
            [0],
            [1, 2, 3],
            signature,
        )
    for element, name, scale, zero_point in [(T.INT16, "int16", 1 / 1024, 0), (T.UINT8, "uint8", 0.5, 128)]:
        write(
            name + "_input",
            [tensor("x", element, [1, 4], scale, zero_point), tensor("y", T.FLOAT32, [1, 4])],
            [operator(OP.DEQUANTIZE, [0], [1], options("DequantizeOptions"))],
            [0],
            [1],
        )

    write(
        "two_inputs",
        [x(), tensor("z", T.FLOAT32, [1, 4]), tensor("y", T.FLOAT32, [1, 4])],
        [operator(OP.ADD, [0, 1], [2], options("AddOptions"))],
        [0, 1],
        [2],
    )
    # Two inputs of different sizes and types, each with its output; any batch.
    write(
        "motion_and_temperature",
        [
            tensor("motion", T.FLOAT32, [1, 4, 2], signature=[-1, 4, 2]),
            tensor("temperature", T.INT8, [1, 1], 0.5, -3, signature=[-1, 1]),
            tensor("y", T.FLOAT32, [1, 4, 2], signature=[-1, 4, 2]),
            tensor("z", T.FLOAT32, [1, 1], signature=[-1, 1]),
        ],
        [operator(OP.NEG, [0], [2]), operator(OP.DEQUANTIZE, [1], [3], options("DequantizeOptions"))],
        [0, 1],
        [2, 3],
    )
    write(
        "int32_input",
        [tensor("x", T.INT32, [1, 4]), tensor("y", T.FLOAT32, [1, 4])],
        [operator(OP.CAST, [0], [1], cast(T.INT32, T.FLOAT32))],
        [0],
        [1],
    )
    write(
        "int32_output",
        [x(), tensor("y", T.INT32, [1, 4])],
        [operator(OP.CAST, [0], [1], cast(T.FLOAT32, T.INT32))],
        [0],
        [1],
    )
    write(
        "unquantised_int8",
        [tensor("x", T.INT8, [1, 4]), tensor("y", T.FLOAT32, [1, 4])],
        [operator(OP.CAST, [0], [1], cast(T.INT8, T.FLOAT32))],
        [0],
        [1],
    )
    write("no_outputs", [x(), tensor("y", T.FLOAT32, [1, 4])], [operator(OP.NEG, [0], [1])], [0], [])
    write("scalar_input", [x([]), tensor("y", T.FLOAT32, [])], [operator(OP.NEG, [0], [1])], [0], [1])
    write(
        "custom_operator",
        [x(), tensor("h", T.FLOAT32, [1, 4]), tensor("y", T.FLOAT32, [1, 4])],
        [operator("frobnicate", [0], [1]), operator(OP.NEG, [1], [2])],
        [0],
        [2],
    )
    # All that edgetpu_compiler leaves of a model which the TPU can run as a whole.
    write("edge_tpu", [x(), tensor("y", T.FLOAT32, [1, 4])], [operator("edgetpu-custom-op", [0], [1])], [0], [1])
    write(
        "later_operator",
        [x(), tensor("y", T.FLOAT32, [1, 4])],
        [operator(4000, [0], [1])],
        [0],
        [1],
    )
    # What a model can say itself: the normalisation of its input, and the labels, in a file that it carries.
    path = write(
        "labelled",
        [x(), tensor("y", T.FLOAT32, [1, 4])],
        [operator(OP.SOFTMAX, [0], [1], options("SoftmaxOptions", beta=1.0))],
        [0],
        [1],
        metadata=metadata_of("labelled", [([1.0], [2.0])], 0.25, "labels.txt"),
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo("labels.txt"), "idle\nwalk\nrun\njump\n", zipfile.ZIP_DEFLATED)
    # As wide as the models that find anomalies in sound; its work is next to nothing, so what is around it shows.
    write("wide", [x((1, 640)), tensor("y", T.FLOAT32, [1, 640])], [operator(OP.NEG, [0], [1])], [0], [1])
    # Of the shape that Edge Impulse's studio exports for 3 axes of spectral analysis 4 with 16 points: 13 features an axis, of
    # which the first one is the rms. The class is the axis with the highest rms.
    weights = bytearray(3 * 39)
    for axis in range(3):
        weights[axis * 39 + axis * 13] = 1
    write(
        "edge_impulse",
        [
            tensor("serving_default_x:0", T.INT8, [1, 39], 0.125, 0),
            tensor("weights", T.INT8, [3, 39], 1.0, 0, data=list(weights)),
            tensor("bias", T.INT32, [3], 0.125, 0, data=[0] * 12),
            tensor("rms", T.INT8, [1, 3], 0.125, 0),
            tensor("StatefulPartitionedCall:0", T.INT8, [1, 3], 1 / 256, -128),
        ],
        [
            operator(OP.FULLY_CONNECTED, [0, 1, 2], [3], options("FullyConnectedOptions")),
            operator(OP.SOFTMAX, [3], [4], options("SoftmaxOptions", beta=1.0)),
        ],
        [0],
        [4],
    )
    # An autoencoder that knows 0 to 6 only. Input and output hold eighths, in ranges of their own.
    write(
        "autoencoder",
        [
            tensor("x", T.INT8, [1, 4], 0.125, 0, signature=any_batch),
            tensor("real", T.FLOAT32, [1, 4], signature=any_batch),
            tensor("known", T.FLOAT32, [1, 4], signature=any_batch),
            tensor("y", T.INT8, [1, 4], 0.125, -128, signature=any_batch),
        ],
        [
            operator(OP.DEQUANTIZE, [0], [1], options("DequantizeOptions")),
            operator(OP.RELU6, [1], [2]),
            operator(OP.QUANTIZE, [2], [3], options("QuantizeOptions")),
        ],
        [0],
        [3],
    )
    # One keeps its four values whatever comes in, so no batch fits; the other makes one row of however many windows.
    for name, to in [("fixed_batch", [1, 4]), ("batch_in_one_row", [1, -1])]:
        shape = b"".join(n.to_bytes(4, "little", signed=True) for n in to)
        write(
            name,
            [x([1, 2, 2]), tensor("shape", T.INT32, [2], data=list(shape)), tensor("y", T.FLOAT32, [1, 4])],
            [operator(OP.RESHAPE, [0, 1], [2], options("ReshapeOptions", newShape=to))],
            [0],
            [2],
        )

    # y = x - the mean over all windows of a batch.
    write(
        "mean_over_batch",
        [
            tensor("x", T.FLOAT32, [1, 2, 2], signature=[-1, 2, 2]),
            tensor("axis", T.INT32, [1], data=list((0).to_bytes(4, "little"))),
            tensor("mean", T.FLOAT32, [1, 2, 2]),
            tensor("y", T.FLOAT32, [1, 2, 2], signature=[-1, 2, 2]),
        ],
        [
            operator(OP.MEAN, [0, 1], [2], options("ReducerOptions", keepDims=True)),
            operator(OP.SUB, [0, 2], [3], options("SubOptions")),
        ],
        [0],
        [3],
    )
    # Its input is open: it becomes as long as the window.
    write(
        "open_input",
        [tensor("x", T.FLOAT32, [1, 1], signature=[1, -1]), tensor("y", T.FLOAT32, [1, 1], signature=[1, -1])],
        [operator(OP.NEG, [0], [1])],
        [0],
        [1],
    )
    write(
        "channels_first",
        [x((1, 2, 3)), tensor("y", T.FLOAT32, [1, 2, 3])],
        [operator(OP.NEG, [0], [1])],
        [0],
        [1],
    )
    # y = x + state; the next state is y + state.
    write(
        "state_pair",
        [tensor(name, T.FLOAT32, [1, 4]) for name in ("state_in", "x", "y", "state_out")],
        [operator(OP.ADD, [1, 0], [2], options("AddOptions")), operator(OP.ADD, [2, 0], [3], options("AddOptions"))],
        [0, 1],
        [2, 3],
    )
    # The same with a quantised x, -64 to 63.5, and the normalisation of both inputs in its metadata.
    write(
        "normalised_state",
        [
            tensor("state_in", T.FLOAT32, [1, 4]),
            tensor("x", T.UINT8, [1, 4], 0.5, 128),
            tensor("real", T.FLOAT32, [1, 4]),
            tensor("y", T.FLOAT32, [1, 4]),
            tensor("state_out", T.FLOAT32, [1, 4]),
        ],
        [
            operator(OP.DEQUANTIZE, [1], [2], options("DequantizeOptions")),
            operator(OP.ADD, [2, 0], [3], options("AddOptions")),
            operator(OP.ADD, [3, 0], [4], options("AddOptions")),
        ],
        [0, 1],
        [3, 4],
        metadata=metadata_of("labelled", [([5.0], [3.0]), ([1000.0, 1000.0], [2.0, 2.0])], 0.25, "labels.txt"),
    )
    # Besides y = -x: the index of the highest value, what edgewatt does not read, and an output of open size.
    write(
        "other_outputs",
        [
            x(),
            tensor("y", T.FLOAT32, [1, 4]),
            tensor("axis", T.INT32, [1], data=list((1).to_bytes(4, "little"))),
            tensor("highest", T.INT64, [1]),
            tensor("as_complex", T.COMPLEX64, [1, 4]),
            tensor("zero", T.FLOAT32, [1], data=[0] * 4),
            tensor("above", T.BOOL, [1, 4]),
            tensor("places", T.INT64, [1, 2], signature=[-1, 2]),
        ],
        [
            operator(OP.NEG, [0], [1]),
            operator(OP.ARG_MAX, [0, 2], [3], options("ArgMaxOptions", outputType=T.INT64)),
            operator(OP.CAST, [0], [4], cast(T.FLOAT32, T.COMPLEX64)),
            operator(OP.GREATER, [0, 5], [6], options("GreaterOptions")),
            operator(OP.WHERE, [6], [7], options("WhereOptions")),
        ],
        [0],
        [1, 3, 4, 6, 7],
    )
    # The first adds x to a variable, as training would; the second gives x plus the variable, which starts as 0.5.
    variable = lambda: tensor("v", T.RESOURCE, [])
    handle = options("VarHandleOptions", container="", sharedName="v")
    read, assign = options("ReadVariableOptions"), options("AssignVariableOptions")
    once = operator(OP.CALL_ONCE, [], [], options("CallOnceOptions", initSubgraphIndex=2))
    write_graphs(
        "two_signatures",
        [
            (
                [x(), variable(), tensor("before", T.FLOAT32, [1, 4]), tensor("after", T.FLOAT32, [1, 4])],
                [
                    once,
                    operator(OP.VAR_HANDLE, [], [1], handle),
                    operator(OP.READ_VARIABLE, [1], [2], read),
                    operator(OP.ADD, [0, 2], [3], options("AddOptions")),
                    operator(OP.ASSIGN_VARIABLE, [1, 3], [], assign),
                ],
                [0],
                [3],
            ),
            (
                [x(), variable(), tensor("value", T.FLOAT32, [1, 4]), tensor("y", T.FLOAT32, [1, 4])],
                [
                    once,
                    operator(OP.VAR_HANDLE, [], [1], handle),
                    operator(OP.READ_VARIABLE, [1], [2], read),
                    operator(OP.ADD, [0, 2], [3], options("AddOptions")),
                ],
                [0],
                [3],
            ),
            (
                [variable(), tensor("first", T.FLOAT32, [1, 4], data=[0, 0, 0, 63] * 4)],
                [operator(OP.VAR_HANDLE, [], [0], handle), operator(OP.ASSIGN_VARIABLE, [0, 1], [], assign)],
                [],
                [],
            ),
        ],
        [("adapt", 0, None, None), ("infer", 1, None, None)],
    )


if __name__ == "__main__":
    main()
