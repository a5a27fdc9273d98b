//! What the workloads that talk with a peer have in common.

use alloc::string::ToString;

use crate::exchange::{Request, Wire};
use crate::{Env, Error};

/// Connects to the peer of the box.
pub(super) fn connect(workload: &'static str, env: &Env<'_>) -> Result<Wire, Error> {
    let peer = env.peer.ok_or(Error::NoPeer(workload))?;
    Ok(Wire::new(peer.open()?))
}

/// Whether all messages of a request have come, and were right.
pub(super) fn judge(request: Request, (seen, wrong): (u64, u64)) -> Result<(), Error> {
    let is = |what, expected: u64, got: u64| {
        if expected == got {
            return Ok(());
        }
        Err(Error::Wrong { what, expected: expected.to_string(), got: got.to_string() })
    };
    is("the number of messages that came", request.count, seen)?;
    is("the number of messages that were changed on their way", 0, wrong)
}
