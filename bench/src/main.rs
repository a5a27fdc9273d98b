//! The `tare` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    if tare::lab::inside::is_here() {
        tare::lab::inside::main();
    }
    match tare::cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tare: {}", tare::cli::explain(&error));
            tare::cli::code_of(&error)
        }
    }
}
