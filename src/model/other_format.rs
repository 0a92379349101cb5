//! Says what a file is that is not a TFLite model, and what to do instead.
//!
//! Looks at the first bytes only, and at the names in a ZIP archive. What it says is a guess in words for a person; nothing
//! depends on it.

use std::path::Path;

use super::archive::Archive;
use crate::text;

/// How a file of another kind is told, and what to do with it.
struct Format {
    start: &'static [u8],
    /// Where in the file `start` stands.
    at: usize,
    what: &'static str,
}

const fn format(at: usize, start: &'static [u8], what: &'static str) -> Format {
    Format { start, at, what }
}

const CONVERT: &str = "convert it with tf.lite.TFLiteConverter";

#[rustfmt::skip]
const FORMATS: &[Format] = &[
    format(0, b"\x1f\x8b", "packed by gzip; unpack it with `gunzip` or `tar xzf`"),
    format(0, b"BZh", "packed by bzip2; unpack it with `bunzip2` or `tar xjf`"),
    format(0, b"\xfd7zXZ\0", "packed by xz; unpack it with `unxz` or `tar xJf`"),
    format(0, b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it with `unzstd`"),
    format(0, b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    format(0, b"Rar!", "a RAR archive; unpack it"),
    format(257, b"ustar", "a tar archive; unpack it with `tar xf`"),
    format(0, b"\x89HDF\r\n\x1a\n", "HDF5, as Keras writes .h5 files; load it with tf.keras.models.load_model and convert it with tf.lite.TFLiteConverter.from_keras_model"),
    format(0, b"\x80\x02", "a Python pickle, as PyTorch and scikit-learn write; export the model to TFLite"),
    format(0, b"\x80\x03", "a Python pickle, as PyTorch and scikit-learn write; export the model to TFLite"),
    format(0, b"\x80\x04", "a Python pickle, as PyTorch and scikit-learn write; export the model to TFLite"),
    format(0, b"\x80\x05", "a Python pickle, as PyTorch and scikit-learn write; export the model to TFLite"),
    format(0, b"\x93NUMPY", "a NumPy array (.npy), which holds values and no model"),
    format(0, b"GGUF", "a GGUF model, for llama.cpp; edgewatt runs TFLite models"),
    format(0, b"\x7fELF", "a program or a library (ELF); a delegate library belongs to [delegates], not to model.path"),
    format(0, b"\x01HEF", "compiled for a Hailo chip (HEF); edgewatt needs the TFLite model that it was compiled from"),
    format(0, b"RKNN", "compiled for a Rockchip NPU (RKNN); edgewatt needs the TFLite model that it was compiled from"),
    format(0, b"ftrt", "a TensorRT engine; edgewatt needs the model as TFLite"),
    format(0, b"7767517", "an ncnn model; edgewatt needs the model as TFLite"),
    format(0, b"SQLite format 3\0", "an SQLite database"),
    format(0, b"%PDF", "a PDF document"),
    format(0, b"\x89PNG", "a PNG image"),
    format(0, b"\xff\xd8\xff", "a JPEG image"),
    format(0, b"RIFF", "a sound or image file (RIFF)"),
    format(4, b"ORTM", "a model in ONNX Runtime's own format; convert its ONNX model to TFLite, for example with onnx2tf"),
    format(4, b"ET12", "an ExecuTorch program; edgewatt needs the model as TFLite"),
    format(4, b"M001", "the metadata of a TFLite model without the model"),
    format(4, b"TFL2", "a TFLite model of schema 2, which no runtime of today reads; convert it again"),
    format(4, b"TFL1", "a TFLite model of schema 1, which no runtime of today reads; convert it again"),
];

/// Names of operators that stand in the first node of most TensorFlow graphs.
const GRAPH_OPERATORS: [&[u8]; 3] = [b"\x12\x0bPlaceholder", b"\x12\x05Const", b"\x12\x0eNoOp"];
/// A text this long from the start is enough to see what it is.
const SEEN_BYTES: usize = 4096;
/// How much of a text is quoted.
const QUOTED: usize = 40;

/// Returns what `bytes` are, if they are not a TFLite model, and what would be right.
pub(crate) fn describe(bytes: &[u8]) -> String {
    let starts = |format: &&Format| bytes.get(format.at..).is_some_and(|rest| rest.starts_with(format.start));
    if bytes.is_empty() {
        return "the file is empty; was the copy or the download cut off?".to_owned();
    }
    if let Some(what) = stand_in(bytes) {
        return format!("it is {what}");
    }
    if let Some(format) = FORMATS.iter().find(starts) {
        return format!("it is {}", format.what);
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return zip(bytes);
    }
    if bytes.iter().all(|&byte| byte == 0) {
        let count = bytes.len();
        return format!("all of its {count} bytes are 0, as after a power cut or a download that broke; copy it again");
    }
    if let Some(what) = protobuf(bytes).or_else(|| text(bytes)) {
        return what;
    }
    match bytes.get(4..8) {
        Some(found) => {
            format!("bytes 4 to 7 are `{}`, expected `TFL3`; model.path needs a .tflite file", found.escape_ascii())
        }
        None => format!("it has only {} bytes; was the copy or the download cut off?", bytes.len()),
    }
}

/// Returns what a text is that was stored in place of a file: a Git LFS pointer or a web page; and what would be right.
pub(crate) fn stand_in(bytes: &[u8]) -> Option<&'static str> {
    if text::is_lfs_pointer(bytes) {
        return Some("a Git LFS pointer, a short text in place of the file; get the file itself with `git lfs pull`");
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let starts = |word: &str| bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
    ["<!doctype html", "<html", "<head", "<script"].iter().any(|word| starts(word)).then_some(
        "a web page (HTML), not the file that the page offers; download the file itself (\"raw\" or \"download\")",
    )
}

/// Returns what a folder is that was given in place of a model.
pub(crate) fn describe_folder(path: &Path) -> String {
    let model = "model.path needs a .tflite file";
    if path.join("saved_model.pb").exists() {
        return format!("is a folder with a SavedModel; {CONVERT}.from_saved_model, and {model}");
    }
    if path.extension().is_some_and(|extension| extension == "mlpackage") {
        return format!("is a folder with a Core ML model; {model}");
    }
    format!("is a folder; {model}")
}

fn zip(bytes: &[u8]) -> String {
    let files = Archive::at_end(bytes).ok().flatten().map(Archive::files).unwrap_or_default();
    let has = |end: &str| files.iter().any(|file| file.name.ends_with(end));
    let models: Vec<_> = files.iter().filter(|file| file.name.ends_with(".tflite")).collect();
    if has("model.weights.h5") || has("variables.h5") {
        return "it is a .keras file; load it with tf.keras.models.load_model and convert it with \
                tf.lite.TFLiteConverter.from_keras_model"
            .to_owned();
    }
    if has("data.pkl") {
        return "it is a PyTorch file; export the model to TFLite, for example with litert-torch".to_owned();
    }
    if has("saved_model.pb") {
        return format!("it is a ZIP archive with a SavedModel; unpack it, and {CONVERT}.from_saved_model");
    }
    if has(".npy") {
        return "it is an .npz file of NumPy arrays, which holds values and no model".to_owned();
    }
    match models.first() {
        Some(file) => {
            let name = file.name.escape_debug();
            format!("it is a ZIP archive with `{name}`; unpack it, and give that file as model.path")
        }
        None => "it is a ZIP archive; unpack it, and give the .tflite file as model.path".to_owned(),
    }
}

/// Models that are protobuf have no mark of their own; their first fields tell them.
fn protobuf(bytes: &[u8]) -> Option<String> {
    let start = bytes.get(..SEEN_BYTES.min(bytes.len()))?;
    match start {
        // SavedModel: saved_model_schema_version = 1, then meta_graphs.
        [0x08, 1, 0x12, ..] => {
            Some(format!("it is saved_model.pb of a SavedModel; {CONVERT}.from_saved_model, on its folder"))
        }
        // ModelProto of ONNX: ir_version, then producer_name, graph or opset_import.
        [0x08, 2..=20, 0x12 | 0x3a | 0x42, ..] => {
            Some("it is an ONNX model; convert it to TFLite, for example with onnx2tf".to_owned())
        }
        // GraphDef: a node, whose first field is its name.
        [0x0a, ..] if GRAPH_OPERATORS.iter().any(|name| memchr::memmem::find(start, name).is_some()) => {
            Some(format!("it is a TensorFlow graph (.pb); {CONVERT}, from its SavedModel or frozen graph"))
        }
        _ => None,
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    let cut = bytes.get(..SEEN_BYTES.min(bytes.len()))?;
    let whole = cut.utf8_chunks().next()?;
    // A character may be cut at the end of what is looked at.
    if cut.len() - whole.valid().len() > 3 {
        return None;
    }
    let text = whole.valid().trim_start_matches('\u{feff}').trim();
    if text.is_empty() || text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let lower: String = text.chars().take(SEEN_BYTES).flat_map(char::to_lowercase).collect();
    let starts = |words: &[&str]| words.iter().any(|word| lower.starts_with(word));
    let quoted: String = text.lines().next().unwrap_or_default().chars().take(QUOTED).collect();
    let what = if starts(&["<?xml", "<error"]) {
        "it is XML: the answer of a server that refused the download, or the model of another program"
    } else if starts(&["{", "["]) {
        "it is JSON: the answer of a server that refused the download, or a model of TensorFlow.js; model.path needs a \
         .tflite file"
    } else if lower.contains("unsigned char") || lower.contains("uint8_t") || lower.contains("alignas") {
        "it is C source with the model as an array, as for TFLite Micro; model.path needs the .tflite file that it was made of"
    } else {
        let quoted = quoted.escape_debug();
        return Some(format!("it is text that starts with `{quoted}`; model.path needs a .tflite file"));
    };
    Some(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::append;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_give_in_place_of_a_model_is_named_with_what_would_be_right() {
        let lfs = "version https://git-lfs.example/spec/v1\noid sha256:4d7a\nsize 940\n";
        let tar = [vec![b'm'; 257], b"ustar\x0000".to_vec()].concat();
        let zip = |name: &str| {
            let mut bytes = Vec::new();
            append(&mut bytes, &[(name, b"x")], false, true);
            bytes
        };
        let cases: &[(&[u8], &[&str])] = &[
            (lfs.as_bytes(), &["Git LFS pointer", "git lfs pull"]),
            (b"", &["empty", "cut off"]),
            (b"TF", &["text that starts with `TF`"]),
            (b"\x1c\0\0", &["only 3 bytes"]),
            (&[0; 900], &["all of its 900 bytes are 0"]),
            (b"\n<!DOCTYPE html>\n<html>", &["web page", "raw"]),
            (b"\xef\xbb\xbf<HTML lang=\"de\">", &["web page"]),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", &["XML", "refused"]),
            (b"{\"error\": \"not found\"}", &["JSON"]),
            (b"404: Not Found", &["text that starts with `404: Not Found`"]),
            (b"alignas(16) const unsigned char g_model[] = {0x1c, 0x00", &["C source", ".tflite"]),
            (b"\x1f\x8b\x08\0", &["gzip", "gunzip"]),
            (&tar, &["tar archive"]),
            (b"\x89HDF\r\n\x1a\n\0", &["HDF5", "from_keras_model"]),
            (b"\x80\x02\x8a\x0a", &["pickle"]),
            (&zip("model.weights.h5"), &[".keras", "from_keras_model"]),
            (&zip("archive/data.pkl"), &["PyTorch"]),
            (&zip("hand_landmarks.tflite"), &["ZIP archive with `hand_landmarks.tflite`"]),
            (&zip("readme.md"), &["ZIP archive", "unpack"]),
            (b"\x08\x01\x12\xa0\x03\x0a\x01", &["SavedModel", "from_saved_model"]),
            (b"\x08\x08\x12\x07pytorch\x1a", &["ONNX", "onnx2tf"]),
            (b"\x0a\x1f\x0a\x05input\x12\x0bPlaceholder\x2a", &["TensorFlow graph"]),
            (b"\x10\0\0\0ORTM\0\0", &["ONNX Runtime"]),
            (b"\x7fELF\x02\x01", &["ELF", "[delegates]"]),
            (b"\x01\x02\x03\x04\xff\xfe\xfd\xfc\x09", &["`\\xff\\xfe\\xfd\\xfc`", "TFL3"]),
        ];
        for (bytes, words) in cases {
            let said = describe(bytes);
            assert!(words.iter().all(|word| said.contains(word)), "{}: {said}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_folder_is_named_with_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(describe_folder(folder.path()).contains("is a folder"));
        std::fs::write(folder.path().join("saved_model.pb"), b"").unwrap();
        assert!(describe_folder(folder.path()).contains("from_saved_model"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_described_on_one_line_without_control_characters(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!describe(&bytes).chars().any(char::is_control));
        }
    }
}
