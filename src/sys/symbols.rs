//! The functions of a shared library that is loaded at run time, looked up by name.

#![allow(unsafe_code)]

use libloading::os::unix::{Library as UnixLibrary, RTLD_LOCAL, RTLD_NOW};
use libloading::{AsFilename, Library};

/// A function that a library does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has no {0}")]
pub(crate) struct MissingSymbol(pub(crate) &'static str);

/// Loads a library, which stays loaded until the process ends. Each function that it needs from others is looked up now: a
/// missing one would end the process at its first call.
///
/// # Safety
/// This runs the library's constructors.
pub(crate) unsafe fn load(file: impl AsFilename) -> Result<&'static Library, libloading::Error> {
    // SAFETY: the caller's promise.
    let library = unsafe { UnixLibrary::open(Some(file), RTLD_NOW | RTLD_LOCAL) }?;
    Ok(Box::leak(Box::new(library.into())))
}

/// Looks up `name`, which ends in a zero.
///
/// # Safety
/// `F` is the function's type in C, and the library stays loaded for as long as the function is used.
pub(crate) unsafe fn find<F: Copy>(library: &Library, name: &'static str) -> Result<F, MissingSymbol> {
    // SAFETY: the caller's promise.
    let symbol = unsafe { library.get::<F>(name.as_bytes()) };
    symbol.map(|symbol| *symbol).map_err(|_| MissingSymbol(name.trim_end_matches('\0')))
}

/// Declares a table of functions, each with its symbol and its signature in C.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident { $($field:ident: $symbol:ident($($argument:ty),*) $(-> $result:ty)?;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $table {
            $(pub(crate) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl $table {
            /// Looks all of them up in `library`.
            ///
            /// # Errors
            /// The first one that the library does not have.
            ///
            /// # Safety
            /// The library's functions of these names have these signatures, and it is never unloaded.
            pub(crate) unsafe fn load(library: &libloading::Library) -> Result<Self, $crate::sys::symbols::MissingSymbol> {
                Ok(Self {
                    // SAFETY: the caller's promise.
                    $($field: unsafe {
                        $crate::sys::symbols::find(library, concat!(stringify!($symbol), "\0"))
                    }?,)*
                })
            }
        }
    };
}

pub(crate) use functions;
