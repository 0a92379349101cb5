//! The archive of a deployment, "C++ library" or another one with the same folders: its headers, and the model in it.

use super::{Project, header};
use crate::model::{Archive, is_tflite};

/// Far above any header of an export, and any model for a device.
const MOST_TEXT: usize = 16 << 20;
const MOST_MODEL: usize = 256 << 20;

/// What an archive has.
#[derive(Debug)]
pub struct Export {
    pub project: Project,
    /// The .tflite file.
    pub model: Option<Vec<u8>>,
}

/// Reads the archive.
///
/// # Errors
/// It is no ZIP archive, or has no headers of a project.
pub fn read(bytes: &[u8]) -> Result<Export, String> {
    let archive = Archive::at_end(bytes)?.ok_or("it is not a ZIP archive")?;
    let names = archive.names();
    let text = |name: &str| -> Result<String, String> {
        let content = archive.read(name, MOST_TEXT)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&content).into_owned())
    };
    let headers: Vec<&String> =
        names.iter().filter(|name| name.ends_with("model_metadata.h") || name.ends_with("model_variables.h")).collect();
    if headers.is_empty() {
        return Err(
            "it has neither model_metadata.h nor model_variables.h; build the deployment \"C++ library\" in Edge \
                    Impulse's studio"
                .into(),
        );
    }
    let texts = headers.iter().map(|name| text(name)).collect::<Result<Vec<_>, _>>()?;
    let project = header::project(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(Export { project, model: model(&archive, &names)? })
}

/// Returns the model: a .tflite file of the archive, or the bytes of an array in its C++ code.
fn model(archive: &Archive<'_>, names: &[String]) -> Result<Option<Vec<u8>>, String> {
    if let Some(name) = names.iter().find(|name| name.ends_with(".tflite")) {
        return archive.read(name, MOST_MODEL);
    }
    let is_code = |name: &&String| {
        let is_here = name.contains("tflite-model/") && !name.contains("_compiled");
        is_here && [".h", ".cpp", ".c", ".cc"].iter().any(|ending| name.ends_with(ending))
    };
    for name in names.iter().filter(is_code) {
        // A byte is up to six characters of code.
        let code = archive.read(name, MOST_MODEL)?.unwrap_or_default();
        if let Some(bytes) = listed_bytes(&String::from_utf8_lossy(&code)) {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Returns the bytes of the list in C++ code that is a model.
fn listed_bytes(code: &str) -> Option<Vec<u8>> {
    code.match_indices('{').find_map(|(at, _)| {
        let list = code[at + 1..].split('}').next()?;
        let byte = |item: &str| match item.strip_prefix("0x").or(item.strip_prefix("0X")) {
            Some(hex) => u8::from_str_radix(hex, 16).ok(),
            None => item.parse().ok(),
        };
        let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
        let bytes: Vec<u8> = items.map(byte).collect::<Option<_>>()?;
        is_tflite(&bytes).then_some(bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_in_a_list_of_code_is_found_and_other_lists_are_not() {
        let code = "const int a[] = {1, 2};\nalignas(16) const unsigned char model[] = {\n  0x1c, 0, 0x00, 0,\n  0x54, 0x46, \
                    0x4c, 0x33, 7,\n};\n";
        assert_eq!(listed_bytes(code), Some(vec![0x1c, 0, 0, 0, 0x54, 0x46, 0x4c, 0x33, 7]));
        assert_eq!(listed_bytes("x[] = {1, 2}; y = {"), None);
    }

    #[test]
    fn what_is_no_export_says_what_would_be_one() {
        assert_eq!(read(b"PK").unwrap_err(), "it is not a ZIP archive");
        let mut bytes = Vec::new();
        crate::model::archive_tests::append(&mut bytes, &[("a.txt", b"a")], false, true);
        assert!(read(&bytes).unwrap_err().contains("build the deployment \"C++ library\""));
    }
}
