//! Whether this host passes on what is not for itself (Documentation/networking/ip-sysctl.rst).

use std::fs;
use std::io;

use super::error::NetworkError;

const PATH: &str = "/proc/sys/net/ipv4/ip_forward";

/// Turns it on; whether it was off.
pub(super) fn turn_on() -> Result<bool, NetworkError> {
    let state = fs::read_to_string(PATH).map_err(failed("read"))?;
    let was_off = state.trim() == "0";
    if was_off {
        fs::write(PATH, "1").map_err(failed("write"))?;
    }
    Ok(was_off)
}

/// Turns it off.
pub(super) fn turn_off() -> Result<(), NetworkError> {
    fs::write(PATH, "0").map_err(failed("write"))
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::Forwarding { action, path: PATH, source }
}
