//! Attributes of sysfs that stay open and are read again in place, without allocating.
//!
//! A read at offset 0 makes the kernel produce a new value. Once the device is gone it returns ENODEV
//! (`fs/kernfs/file.c`), also through a file that was opened before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest number is 20 digits with a sign and a newline.
const NUMBER_BYTES: usize = 32;
/// Room for several numbers, as a quaternion has them.
const TEXT_BYTES: usize = 256;

/// One open attribute.
#[derive(Debug)]
pub struct Attribute {
    path: PathBuf,
    file: File,
}

/// Why an attribute gives no value.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It holds this text, which is not what it should be.
    #[error("it holds {0:?}")]
    Text(String),
}

impl Attribute {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        Ok(Self { path, file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the number that the attribute holds now.
    ///
    /// # Errors
    /// It cannot be read, or it does not hold such a number.
    pub fn read<T: FromStr>(&self) -> Result<T, ReadError> {
        self.read_with(|text| Some(text).filter(|text| text.len() < NUMBER_BYTES)?.parse().ok())
    }

    /// Reads what `parse` makes of the text that the attribute holds now, without the spaces around it.
    ///
    /// # Errors
    /// It cannot be read, is too long, or `parse` makes nothing of it.
    pub fn read_with<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, ReadError> {
        let mut buffer = [0; TEXT_BYTES];
        let length = loop {
            match self.file.read_at(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        let text = std::str::from_utf8(bytes).ok().filter(|_| length < TEXT_BYTES);
        let value = text.and_then(|text| parse(text.trim_ascii()));
        value.ok_or_else(|| ReadError::Text(String::from_utf8_lossy(bytes).trim_end().to_owned()))
    }
}
