//! Why a call of the interpreter's C API failed.

use std::fmt;

use super::ffi::{
    TF_LITE_APPLICATION_ERROR, TF_LITE_DELEGATE_ERROR, TF_LITE_ERROR, TF_LITE_OK, TF_LITE_UNRESOLVED_OPS, TfLiteStatus,
};

/// A status of the C API other than success, or null instead of a pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Null,
    Status(TfLiteStatus),
}

impl Failure {
    pub(crate) const UNRESOLVED_OPERATORS: Self = Self::Status(TF_LITE_UNRESOLVED_OPS);

    /// Turns a status into a result.
    pub(crate) fn check(status: TfLiteStatus) -> Result<(), Self> {
        if status == TF_LITE_OK { Ok(()) } else { Err(Self::Status(status)) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("it gives no reason"),
            Self::Status(TF_LITE_ERROR) => f.write_str("its status is `error`"),
            Self::Status(TF_LITE_DELEGATE_ERROR) => f.write_str("its status is `delegate error`"),
            Self::Status(TF_LITE_APPLICATION_ERROR) => f.write_str("the delegate does not fit (`application error`)"),
            &Self::UNRESOLVED_OPERATORS => f.write_str("its status is `unresolved operators`"),
            Self::Status(other) => write!(f, "its status is {other}"),
        }
    }
}
