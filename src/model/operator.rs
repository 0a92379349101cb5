//! The operators of the TFLite schema: their names, which of their inputs are trained, and which only pass values on.
//!
//! Facts from `tensorflow/compiler/mlir/lite/schema/schema.fbs` (schema 3c, enum BuiltinOperator) and from the input
//! order that each kernel under `tensorflow/lite/kernels` declares.

/// The code of an operator that the file names itself.
pub(crate) const CUSTOM: i32 = 32;
/// The operator that opens a variable which outlives an invoke.
pub(crate) const VAR_HANDLE: &str = "VAR_HANDLE";
/// The operator that changes such a variable.
pub(crate) const ASSIGN_VARIABLE: &str = "ASSIGN_VARIABLE";

/// The role of a constant input in the operator that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operand {
    /// Multiplied with activations, or looked up row by row: a weight.
    Kernel,
    /// Added once for each output channel.
    Bias,
    /// A shape, an axis, a normalisation factor, a state, or an activation.
    Other,
}

/// Returns the role of input `position` of the builtin operator `name`.
pub(crate) fn operand(name: &str, position: usize) -> Operand {
    let (kernels, biases): (&[usize], &[usize]) = match name {
        "CONV_2D" | "DEPTHWISE_CONV_2D" | "FULLY_CONNECTED" | "CONV_3D" => (&[1], &[2]),
        "TRANSPOSE_CONV" | "CONV_3D_TRANSPOSE" => (&[1], &[3]),
        "BATCH_MATMUL" => (&[0, 1], &[]),
        "EMBEDDING_LOOKUP" => (&[1], &[]),
        "GATHER" => (&[0], &[]),
        "SVDF" | "RNN" | "UNIDIRECTIONAL_SEQUENCE_RNN" => (&[1, 2], &[3]),
        "BIDIRECTIONAL_SEQUENCE_RNN" => (&[1, 2, 5, 6, 10, 11], &[3, 7]),
        "LSTM" | "UNIDIRECTIONAL_SEQUENCE_LSTM" => (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16], &[12, 13, 14, 15, 17]),
        "BIDIRECTIONAL_SEQUENCE_LSTM" => match position {
            1..=11 | 16 | 18..=28 | 33 | 40..=47 => return Operand::Kernel,
            12..=15 | 17 | 29..=32 | 34 => return Operand::Bias,
            _ => return Operand::Other,
        },
        _ => (&[], &[]),
    };
    match position {
        p if kernels.contains(&p) => Operand::Kernel,
        p if biases.contains(&p) => Operand::Bias,
        _ => Operand::Other,
    }
}

/// Returns whether a builtin operator only stores the same values in another number format.
pub(crate) fn unpacks(name: &str) -> bool {
    matches!(name, "DEQUANTIZE" | "DENSIFY")
}

/// Returns whether a builtin operator's output holds its first input's values in another layout or number format.
pub(crate) fn passes_values(name: &str) -> bool {
    unpacks(name) || matches!(name, "QUANTIZE" | "RESHAPE" | "SQUEEZE" | "EXPAND_DIMS")
}

/// Returns how many subgraphs a builtin operator runs each time that it is run. CALL_ONCE is not among these: it runs its
/// subgraph, which sets variables to their first values, only once.
pub(crate) fn subgraphs_called(name: &str) -> usize {
    match name {
        "CALL" => 1,
        "IF" | "WHILE" => 2,
        _ => 0,
    }
}

/// Returns the schema's name of a builtin operator; `UNKNOWN_<code>` for one that is newer.
pub(crate) fn name(code: i32) -> String {
    usize::try_from(code)
        .ok()
        .and_then(|code| NAMES.get(code))
        .map_or_else(|| format!("UNKNOWN_{code}"), ToString::to_string)
}

#[rustfmt::skip]
const NAMES: [&str; 210] = [
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE",
    "EMBEDDING_LOOKUP", "FLOOR", "FULLY_CONNECTED", "HASHTABLE_LOOKUP", "L2_NORMALIZATION", "L2_POOL_2D",
    "LOCAL_RESPONSE_NORMALIZATION", "LOGISTIC", "LSH_PROJECTION", "LSTM", "MAX_POOL_2D", "MUL", "RELU",
    "RELU_N1_TO_1", "RELU6", "RESHAPE", "RESIZE_BILINEAR", "RNN", "SOFTMAX", "SPACE_TO_DEPTH", "SVDF", "TANH",
    "CONCAT_EMBEDDINGS", "SKIP_GRAM", "CALL", "CUSTOM", "EMBEDDING_LOOKUP_SPARSE", "PAD",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "GATHER", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "TRANSPOSE", "MEAN", "SUB",
    "DIV", "SQUEEZE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "STRIDED_SLICE", "BIDIRECTIONAL_SEQUENCE_RNN", "EXP",
    "TOPK_V2", "SPLIT", "LOG_SOFTMAX", "DELEGATE", "BIDIRECTIONAL_SEQUENCE_LSTM", "CAST", "PRELU", "MAXIMUM",
    "ARG_MAX", "MINIMUM", "LESS", "NEG", "PADV2", "GREATER", "GREATER_EQUAL", "LESS_EQUAL", "SELECT", "SLICE",
    "SIN", "TRANSPOSE_CONV", "SPARSE_TO_DENSE", "TILE", "EXPAND_DIMS", "EQUAL", "NOT_EQUAL", "LOG", "SUM", "SQRT",
    "RSQRT", "SHAPE", "POW", "ARG_MIN", "FAKE_QUANT", "REDUCE_PROD", "REDUCE_MAX", "PACK", "LOGICAL_OR", "ONE_HOT",
    "LOGICAL_AND", "LOGICAL_NOT", "UNPACK", "REDUCE_MIN", "FLOOR_DIV", "REDUCE_ANY", "SQUARE", "ZEROS_LIKE", "FILL",
    "FLOOR_MOD", "RANGE", "RESIZE_NEAREST_NEIGHBOR", "LEAKY_RELU", "SQUARED_DIFFERENCE", "MIRROR_PAD", "ABS",
    "SPLIT_V", "UNIQUE", "CEIL", "REVERSE_V2", "ADD_N", "GATHER_ND", "COS", "WHERE", "RANK", "ELU",
    "REVERSE_SEQUENCE", "MATRIX_DIAG", "QUANTIZE", "MATRIX_SET_DIAG", "ROUND", "HARD_SWISH", "IF", "WHILE",
    "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "SCATTER_ND", "SELECT_V2", "DENSIFY", "SEGMENT_SUM",
    "BATCH_MATMUL", "PLACEHOLDER_FOR_GREATER_OP_CODES", "CUMSUM", "CALL_ONCE", "BROADCAST_TO", "RFFT2D", "CONV_3D",
    "IMAG", "REAL", "COMPLEX_ABS", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE",
    "REDUCE_ALL", "CONV_3D_TRANSPOSE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "BROADCAST_ARGS",
    "RANDOM_STANDARD_NORMAL", "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL", "GELU", "DYNAMIC_UPDATE_SLICE",
    "RELU_0_TO_1", "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM", "ATAN2",
    "UNSORTED_SEGMENT_MIN", "SIGN", "BITCAST", "BITWISE_XOR", "RIGHT_SHIFT", "STABLEHLO_LOGISTIC", "STABLEHLO_ADD",
    "STABLEHLO_DIVIDE", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM", "STABLEHLO_RESHAPE", "STABLEHLO_CLAMP",
    "STABLEHLO_CONCATENATE", "STABLEHLO_BROADCAST_IN_DIM", "STABLEHLO_CONVOLUTION", "STABLEHLO_SLICE",
    "STABLEHLO_CUSTOM_CALL", "STABLEHLO_REDUCE", "STABLEHLO_ABS", "STABLEHLO_AND", "STABLEHLO_COSINE",
    "STABLEHLO_EXPONENTIAL", "STABLEHLO_FLOOR", "STABLEHLO_LOG", "STABLEHLO_MINIMUM", "STABLEHLO_NEGATE",
    "STABLEHLO_OR", "STABLEHLO_POWER", "STABLEHLO_REMAINDER", "STABLEHLO_RSQRT", "STABLEHLO_SELECT",
    "STABLEHLO_SUBTRACT", "STABLEHLO_TANH", "STABLEHLO_SCATTER", "STABLEHLO_COMPARE", "STABLEHLO_CONVERT",
    "STABLEHLO_DYNAMIC_SLICE", "STABLEHLO_DYNAMIC_UPDATE_SLICE", "STABLEHLO_PAD", "STABLEHLO_IOTA",
    "STABLEHLO_DOT_GENERAL", "STABLEHLO_REDUCE_WINDOW", "STABLEHLO_SORT", "STABLEHLO_WHILE", "STABLEHLO_GATHER",
    "STABLEHLO_TRANSPOSE", "DILATE", "STABLEHLO_RNG_BIT_GENERATOR", "REDUCE_WINDOW", "STABLEHLO_COMPOSITE",
    "STABLEHLO_SHIFT_LEFT", "STABLEHLO_CBRT", "STABLEHLO_CASE",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_codes() {
        let known = [(0, "ADD"), (9, "FULLY_CONNECTED"), (25, "SOFTMAX"), (CUSTOM, "CUSTOM"), (142, VAR_HANDLE)];
        for (code, expected) in known.into_iter().chain([(209, "STABLEHLO_CASE"), (210, "UNKNOWN_210")]) {
            assert_eq!(name(code), expected);
        }
        assert_eq!(name(-7), "UNKNOWN_-7");
    }

    #[test]
    fn kernels_and_biases_are_told_apart() {
        assert_eq!(operand("CONV_2D", 0), Operand::Other);
        assert_eq!(operand("CONV_2D", 1), Operand::Kernel);
        assert_eq!(operand("CONV_2D", 2), Operand::Bias);
        assert_eq!(operand("TRANSPOSE_CONV", 2), Operand::Other);
        assert_eq!(operand("BIDIRECTIONAL_SEQUENCE_LSTM", 17), Operand::Bias);
        assert_eq!(operand("ADD", 1), Operand::Other);
    }
}
