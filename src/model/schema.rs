//! The vtable slots of the fields that the summary reads, by table of the TFLite schema.
//!
//! A slot is a field's position in its table, unions counting twice; from `schema.fbs` 3c in
//! `tensorflow/compiler/mlir/lite/schema`, `EXTERNAL_BUFFER` from the schema that ai-edge-litert 2.3.0 carries.

use super::flatbuffer::Field;

const fn field(slot: usize, name: &'static str) -> Field {
    Field { slot, name }
}

pub mod model {
    use super::*;
    pub const VERSION: Field = field(0, "Model.version");
    pub const OPERATOR_CODES: Field = field(1, "Model.operator_codes");
    pub const SUBGRAPHS: Field = field(2, "Model.subgraphs");
    pub const DESCRIPTION: Field = field(3, "Model.description");
    pub const BUFFERS: Field = field(4, "Model.buffers");
    pub const METADATA: Field = field(6, "Model.metadata");
    pub const SIGNATURE_DEFS: Field = field(7, "Model.signature_defs");
}

pub mod operator_code {
    use super::*;
    pub const DEPRECATED_BUILTIN_CODE: Field = field(0, "OperatorCode.deprecated_builtin_code");
    pub const CUSTOM_CODE: Field = field(1, "OperatorCode.custom_code");
    pub const BUILTIN_CODE: Field = field(3, "OperatorCode.builtin_code");
}

pub mod subgraph {
    use super::*;
    pub const TENSORS: Field = field(0, "SubGraph.tensors");
    pub const INPUTS: Field = field(1, "SubGraph.inputs");
    pub const OUTPUTS: Field = field(2, "SubGraph.outputs");
    pub const OPERATORS: Field = field(3, "SubGraph.operators");
    pub const NAME: Field = field(4, "SubGraph.name");
}

pub mod operator {
    use super::*;
    pub const OPCODE_INDEX: Field = field(0, "Operator.opcode_index");
    pub const INPUTS: Field = field(1, "Operator.inputs");
    pub const OUTPUTS: Field = field(2, "Operator.outputs");
}

pub mod tensor {
    use super::*;
    pub const SHAPE: Field = field(0, "Tensor.shape");
    pub const TYPE: Field = field(1, "Tensor.type");
    pub const BUFFER: Field = field(2, "Tensor.buffer");
    pub const NAME: Field = field(3, "Tensor.name");
    pub const QUANTIZATION: Field = field(4, "Tensor.quantization");
    pub const IS_VARIABLE: Field = field(5, "Tensor.is_variable");
    pub const SPARSITY: Field = field(6, "Tensor.sparsity");
    pub const SHAPE_SIGNATURE: Field = field(7, "Tensor.shape_signature");
    pub const EXTERNAL_BUFFER: Field = field(10, "Tensor.external_buffer");
}

pub mod quantization {
    use super::*;
    pub const SCALE: Field = field(2, "QuantizationParameters.scale");
    pub const ZERO_POINT: Field = field(3, "QuantizationParameters.zero_point");
    pub const DETAILS: Field = field(5, "QuantizationParameters.details");
    pub const QUANTIZED_DIMENSION: Field = field(6, "QuantizationParameters.quantized_dimension");
}

pub mod buffer {
    use super::*;
    pub const DATA: Field = field(0, "Buffer.data");
    pub const OFFSET: Field = field(1, "Buffer.offset");
    pub const SIZE: Field = field(2, "Buffer.size");
}

pub mod metadata {
    use super::*;
    pub const NAME: Field = field(0, "Metadata.name");
    pub const BUFFER: Field = field(1, "Metadata.buffer");
}

pub mod signature_def {
    use super::*;
    pub const KEY: Field = field(2, "SignatureDef.signature_key");
    pub const SUBGRAPH_INDEX: Field = field(4, "SignatureDef.subgraph_index");
}
