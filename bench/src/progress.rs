//! Progress on standard error, where that is a terminal; nothing elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Neither kind ticks by itself: a ticking thread would run beside what is measured.
fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    if !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// A line with the elapsed time, for work whose length is unknown; call `tick` now and then.
pub(crate) fn spinner(message: &'static str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), "{spinner} {msg} ({elapsed})").with_message(message)
}

/// Work that takes no longer is not worth a bar.
const LATE: Duration = Duration::from_secs(2);

/// A bar of bytes that appears only if the work takes long.
pub(crate) struct LateBar {
    bar: ProgressBar,
    begin: Instant,
    is_shown: AtomicBool,
}

impl LateBar {
    pub(crate) fn new(message: &'static str) -> LateBar {
        let template = "{msg} [{bar:30}] {bytes}/{total_bytes} ({elapsed}, {eta} left)";
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let bar = bar.with_message(message);
        LateBar { bar, begin: Instant::now(), is_shown: AtomicBool::new(false) }
    }

    /// So many more bytes of `total` are done; a total of zero is not known.
    pub(crate) fn advance(&self, bytes: u64, total: u64) {
        self.bar.inc(bytes);
        if total > 0 {
            self.bar.set_length(total);
        }
        let is_late = self.begin.elapsed() > LATE;
        if is_late && !self.is_shown.swap(true, Ordering::Relaxed) && stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for LateBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar of `length` steps; its prefix says what remains.
pub(crate) fn bar(length: u64, message: &'static str) -> ProgressBar {
    styled(ProgressBar::new(length), "{msg} [{bar:30}] {pos}/{len} ({elapsed}, {prefix} left)")
        .with_message(message)
        .with_prefix("?")
}
