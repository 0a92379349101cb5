"""TFLite Metadata: what a model says of itself, such as the normalisation of its input."""

import flatbuffers
from tensorflow.lite.python import schema_py_generated as schema


def metadata_of(name, normalisations, threshold=None, labels=None):
    """A mean and a std for each input, and of one output a threshold and the name of its file of labels.

    Returns a flatbuffer of its own, by the slots of metadata_schema.fbs.
    """
    builder = flatbuffers.Builder(256)

    def table(count, offsets=(), numbers=()):
        builder.StartObject(count)
        for slot, offset in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, number in numbers:
            builder.PrependInt8Slot(slot, number, 0)
        return builder.EndObject()

    def tables(*entries):
        builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            builder.PrependUOffsetTRelative(entry)
        return builder.EndVector()

    def floats(values):
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependFloat32(value)
        return builder.EndVector()

    def unit(kind, options):
        return tables(table(2, [(1, options)], [(0, kind)]))

    def model_input(mean, std):
        normalise = table(2, [(0, floats(mean)), (1, floats(std))])
        return table(7, [(4, unit(1, normalise))])

    def model_output():
        builder.StartObject(1)
        builder.PrependFloat32Slot(0, threshold, 0.0)
        limit = builder.EndObject()
        file = table(5, [(0, builder.CreateString(labels))], [(2, 2)])
        return table(7, [(4, unit(3, limit)), (6, tables(file))])

    model_inputs = [model_input(mean, std) for mean, std in normalisations]
    outputs = [] if labels is None else [model_output()]
    slots = [(2, model_inputs), (3, outputs)]
    graph = table(10, [(slot, tables(*entries)) for slot, entries in slots if entries])
    root = table(8, [(0, builder.CreateString(name)), (3, tables(graph))])
    builder.Finish(root, file_identifier=b"M001")
    return bytes(builder.Output())


def attach(model, metadata):
    """Puts metadata into a model that is a tree of the schema's objects."""
    entry = schema.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = list(metadata)
    model.metadata = [*(model.metadata or []), entry]


def with_metadata(content, metadata):
    """The bytes of a model with metadata."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    attach(model, metadata)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
