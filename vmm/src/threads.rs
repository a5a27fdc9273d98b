//! The threads of a running microVM, beside the one that runs it.

use std::thread::{self, Scope, ScopedJoinHandle};

use crate::Error;
use crate::reactor::ReactorError;
use crate::vcpu::Account;

/// The threads beside the calling one.
#[derive(Default)]
pub(crate) struct Threads<'scope> {
    pub(crate) vcpus: Vec<ScopedJoinHandle<'scope, Result<Account, Error>>>,
    pub(crate) device: Option<ScopedJoinHandle<'scope, Result<(), Error>>>,
}

impl Threads<'_> {
    /// Waits for all of them; the account of all vCPUs, or the first error.
    pub(crate) fn join(&mut self, own: Result<Account, Error>) -> Result<Account, Error> {
        let mut account = own;
        for thread in self.vcpus.drain(..) {
            let other = joined(thread);
            account = account.and_then(|sum| Ok(sum + other?));
        }
        let served = self.device.take().map_or(Ok(()), joined);
        account.and_then(|account| served.map(|()| account))
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Starts one.
pub(crate) fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Error> {
    let started = thread::Builder::new().name(name).spawn_scoped(scope, body);
    Ok(started.map_err(ReactorError::on("start a thread"))?)
}
