//! The edgewatt daemon and its tools; all of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    edgewatt::cli::main()
}
