//! Sysfs attributes whose errors say what a meter does: `sys::attribute` reads them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::MeterError;
use crate::sys::attribute::{self, ReadError};

/// One open attribute that holds one number.
#[derive(Debug)]
pub(crate) struct Attribute(attribute::Attribute);

impl Attribute {
    /// Opens `path`; `fix` says how to get permission to read it, for the error.
    pub(crate) fn open(path: PathBuf, fix: &str) -> Result<Self, MeterError> {
        attribute::Attribute::open(path.clone()).map(Self).map_err(|error| classify(&path, error, fix))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Reads the number that the attribute holds now.
    pub(crate) fn read<T: FromStr>(&self, expected: &'static str) -> Result<T, MeterError> {
        self.0.read().map_err(|error| match error {
            ReadError::Io(error) => classify(self.path(), error, "give this user permission to read it"),
            ReadError::Text(text) => MeterError::Invalid { path: self.path().to_owned(), text, expected },
        })
    }
}

/// Returns the text of a small attribute without its line end, or `None` if it cannot be read.
pub(crate) fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

/// Returns the names in `directory`, unsorted.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// What to do if a folder cannot be listed.
pub(crate) const LIST_FIX: &str = "give this user permission to list the folder";

/// Returns the names in `directory`, sorted; none if there is no such directory.
pub(crate) fn sorted_names(directory: &Path) -> Result<Vec<String>, MeterError> {
    match names(directory) {
        Ok(mut names) => {
            names.sort();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(classify(directory, error, LIST_FIX)),
    }
}

/// Returns the error for a failed open or read of `path`, which says what to do.
pub(crate) fn classify(path: &Path, error: io::Error, fix: &str) -> MeterError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => MeterError::Denied { path, fix: fix.to_owned() },
        io::ErrorKind::NotFound => MeterError::Absent {
            path,
            reason: "no such file".to_owned(),
            fix: "load the driver or plug the device in".to_owned(),
        },
        _ if error.raw_os_error() == Some(nix::libc::ENODEV) => MeterError::Absent {
            path,
            reason: "the device is gone".to_owned(),
            fix: "plug it in again; the daemon keeps looking for it".to_owned(),
        },
        _ => MeterError::Failed { path, source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn an_open_attribute_shows_each_new_value() {
        let tree = Tree::new(&[("a", "41\n")]);
        let attribute = Attribute::open(tree.path("a"), "").unwrap();
        assert_eq!(attribute.read::<u64>("a number").unwrap(), 41);
        tree.write("a", "1234567890123456789\n");
        assert_eq!(attribute.read::<u64>("a number").unwrap(), 1_234_567_890_123_456_789);
        tree.write("a", "-3");
        assert_eq!(attribute.read::<i64>("a number").unwrap(), -3);
    }

    #[test]
    fn what_is_no_number_is_shown_with_its_path() {
        for (text, shown) in [("", ""), ("N/A\n", "N/A"), ("-1\n", "-1"), ("1 2\n", "1 2")] {
            let tree = Tree::new(&[("a", text)]);
            let error = Attribute::open(tree.path("a"), "").unwrap().read::<u64>("microjoules").unwrap_err();
            let message = error.to_string();
            assert!(matches!(&error, MeterError::Invalid { text, .. } if text == shown), "{message}");
            assert!(message.contains("microjoules") && message.contains(tree.path("a").to_str().unwrap()));
        }
        let tree = Tree::new(&[("a", "000000000000000000000000000000000000012")]);
        let error = Attribute::open(tree.path("a"), "").unwrap().read::<u64>("").unwrap_err();
        assert!(matches!(error, MeterError::Invalid { .. }), "a number cut at the buffer's end is not a number");
    }

    #[test]
    fn a_failed_read_keeps_path_and_reason() {
        let tree = Tree::new(&[("folder/file", "")]);
        let error = Attribute::open(tree.path("folder"), "").unwrap().read::<u64>("").unwrap_err();
        assert!(matches!(error, MeterError::Failed { .. }));
        assert!(error.to_string().contains("folder: Is a directory"), "{error}");
    }

    #[test]
    fn each_errno_becomes_what_the_caller_does() {
        let kind = |errno| classify(Path::new("/sys/x"), io::Error::from_raw_os_error(errno), "run: chmod g+r /sys/x");
        assert!(matches!(kind(nix::libc::ENODEV), MeterError::Absent { .. }));
        assert!(matches!(kind(nix::libc::ENOENT), MeterError::Absent { .. }));
        assert!(matches!(kind(nix::libc::EIO), MeterError::Failed { .. }));
        let denied = kind(nix::libc::EACCES);
        assert!(matches!(denied, MeterError::Denied { .. }));
        assert_eq!(denied.to_string(), "/sys/x: permission denied; run: chmod g+r /sys/x");
    }
}
