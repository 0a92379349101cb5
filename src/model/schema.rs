//! The vtable slots of the fields that the summary reads, by table of the TFLite schema.
//!
//! A slot is a field's position in its table, unions counting twice; from `schema.fbs` 3c in
//! `tensorflow/compiler/mlir/lite/schema`, `EXTERNAL_BUFFER` from the schema that ai-edge-litert 2.3.0 carries. The metadata's
//! tables are from TFLite Support's `metadata_schema.fbs` 1.5.0.

use super::flatbuffer::Field;

const fn field(slot: usize, name: &'static str) -> Field {
    Field { slot, name }
}

pub(crate) mod model {
    use super::*;
    pub(crate) const VERSION: Field = field(0, "Model.version");
    pub(crate) const OPERATOR_CODES: Field = field(1, "Model.operator_codes");
    pub(crate) const SUBGRAPHS: Field = field(2, "Model.subgraphs");
    pub(crate) const DESCRIPTION: Field = field(3, "Model.description");
    pub(crate) const BUFFERS: Field = field(4, "Model.buffers");
    pub(crate) const METADATA: Field = field(6, "Model.metadata");
    pub(crate) const SIGNATURE_DEFS: Field = field(7, "Model.signature_defs");
}

pub(crate) mod operator_code {
    use super::*;
    pub(crate) const DEPRECATED_BUILTIN_CODE: Field = field(0, "OperatorCode.deprecated_builtin_code");
    pub(crate) const CUSTOM_CODE: Field = field(1, "OperatorCode.custom_code");
    pub(crate) const BUILTIN_CODE: Field = field(3, "OperatorCode.builtin_code");
}

pub(crate) mod subgraph {
    use super::*;
    pub(crate) const TENSORS: Field = field(0, "SubGraph.tensors");
    pub(crate) const INPUTS: Field = field(1, "SubGraph.inputs");
    pub(crate) const OUTPUTS: Field = field(2, "SubGraph.outputs");
    pub(crate) const OPERATORS: Field = field(3, "SubGraph.operators");
    pub(crate) const NAME: Field = field(4, "SubGraph.name");
}

pub(crate) mod operator {
    use super::*;
    pub(crate) const OPCODE_INDEX: Field = field(0, "Operator.opcode_index");
    pub(crate) const INPUTS: Field = field(1, "Operator.inputs");
    pub(crate) const OUTPUTS: Field = field(2, "Operator.outputs");
    pub(crate) const OPTIONS: Field = field(4, "Operator.builtin_options");
    /// The first subgraph that CALL, IF, WHILE or CALL_ONCE names, in its options.
    pub(crate) const FIRST_CALLED: Field = field(0, "Operator.builtin_options.subgraph_index");
    /// The second one, of IF and WHILE.
    pub(crate) const SECOND_CALLED: Field = field(1, "Operator.builtin_options.second_subgraph_index");
}

/// The slot of `fused_activation_function` in the options of a builtin operator; `None` if it has none.
pub(crate) fn fused_activation(operator: &str) -> Option<Field> {
    let slot = match operator {
        "FULLY_CONNECTED" | "ADD" | "SUB" | "MUL" | "DIV" | "L2_NORMALIZATION" => 0,
        "CONCATENATION" | "SVDF" => 1,
        "CONV_2D" | "TRANSPOSE_CONV" => 3,
        "DEPTHWISE_CONV_2D" | "CONV_3D" | "CONV_3D_TRANSPOSE" => 4,
        "AVERAGE_POOL_2D" | "MAX_POOL_2D" => 5,
        _ => return None,
    };
    Some(field(slot, "fused_activation_function"))
}

pub(crate) mod tensor {
    use super::*;
    pub(crate) const SHAPE: Field = field(0, "Tensor.shape");
    pub(crate) const TYPE: Field = field(1, "Tensor.type");
    pub(crate) const BUFFER: Field = field(2, "Tensor.buffer");
    pub(crate) const NAME: Field = field(3, "Tensor.name");
    pub(crate) const QUANTIZATION: Field = field(4, "Tensor.quantization");
    pub(crate) const IS_VARIABLE: Field = field(5, "Tensor.is_variable");
    pub(crate) const SPARSITY: Field = field(6, "Tensor.sparsity");
    pub(crate) const SHAPE_SIGNATURE: Field = field(7, "Tensor.shape_signature");
    pub(crate) const EXTERNAL_BUFFER: Field = field(10, "Tensor.external_buffer");
}

pub(crate) mod quantization {
    use super::*;
    pub(crate) const SCALE: Field = field(2, "QuantizationParameters.scale");
    pub(crate) const ZERO_POINT: Field = field(3, "QuantizationParameters.zero_point");
    pub(crate) const DETAILS: Field = field(5, "QuantizationParameters.details");
    pub(crate) const QUANTIZED_DIMENSION: Field = field(6, "QuantizationParameters.quantized_dimension");
}

pub(crate) mod buffer {
    use super::*;
    pub(crate) const DATA: Field = field(0, "Buffer.data");
    pub(crate) const OFFSET: Field = field(1, "Buffer.offset");
    pub(crate) const SIZE: Field = field(2, "Buffer.size");
}

pub(crate) mod metadata {
    use super::*;
    pub(crate) const NAME: Field = field(0, "Metadata.name");
    pub(crate) const BUFFER: Field = field(1, "Metadata.buffer");
}

pub(crate) mod signature_def {
    use super::*;
    pub(crate) const INPUTS: Field = field(0, "SignatureDef.inputs");
    pub(crate) const OUTPUTS: Field = field(1, "SignatureDef.outputs");
    pub(crate) const KEY: Field = field(2, "SignatureDef.signature_key");
    pub(crate) const SUBGRAPH_INDEX: Field = field(4, "SignatureDef.subgraph_index");
}

pub(crate) mod tensor_map {
    use super::*;
    pub(crate) const NAME: Field = field(0, "TensorMap.name");
    pub(crate) const TENSOR_INDEX: Field = field(1, "TensorMap.tensor_index");
}

pub(crate) mod model_metadata {
    use super::*;
    pub(crate) const NAME: Field = field(0, "ModelMetadata.name");
    pub(crate) const DESCRIPTION: Field = field(1, "ModelMetadata.description");
    pub(crate) const VERSION: Field = field(2, "ModelMetadata.version");
    pub(crate) const SUBGRAPHS: Field = field(3, "ModelMetadata.subgraph_metadata");
    pub(crate) const AUTHOR: Field = field(4, "ModelMetadata.author");
    pub(crate) const LICENSE: Field = field(5, "ModelMetadata.license");
}

pub(crate) mod subgraph_metadata {
    use super::*;
    pub(crate) const INPUTS: Field = field(2, "SubGraphMetadata.input_tensor_metadata");
    pub(crate) const OUTPUTS: Field = field(3, "SubGraphMetadata.output_tensor_metadata");
}

pub(crate) mod tensor_metadata {
    use super::*;
    pub(crate) const NAME: Field = field(0, "TensorMetadata.name");
    pub(crate) const DESCRIPTION: Field = field(1, "TensorMetadata.description");
    pub(crate) const PROCESS_UNITS: Field = field(4, "TensorMetadata.process_units");
    pub(crate) const ASSOCIATED_FILES: Field = field(6, "TensorMetadata.associated_files");
}

pub(crate) mod process_unit {
    use super::*;
    pub(crate) const OPTIONS_TYPE: Field = field(0, "ProcessUnit.options_type");
    pub(crate) const OPTIONS: Field = field(1, "ProcessUnit.options");
}

pub(crate) mod normalization {
    use super::*;
    pub(crate) const MEAN: Field = field(0, "NormalizationOptions.mean");
    pub(crate) const STD: Field = field(1, "NormalizationOptions.std");
}

pub(crate) mod threshold {
    use super::*;
    pub(crate) const GLOBAL: Field = field(0, "ScoreThresholdingOptions.global_score_threshold");
}

pub(crate) mod associated_file {
    use super::*;
    pub(crate) const NAME: Field = field(0, "AssociatedFile.name");
    pub(crate) const TYPE: Field = field(2, "AssociatedFile.type");
    pub(crate) const LOCALE: Field = field(3, "AssociatedFile.locale");
}
