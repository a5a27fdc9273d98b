//! Progress on standard error, where that is a terminal; nothing elsewhere.

use std::io::{IsTerminal, stderr};

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

/// A bar of `length` steps; its prefix says what remains.
pub(crate) fn bar(length: u64, message: &'static str) -> ProgressBar {
    styled(ProgressBar::new(length), "{msg} [{bar:30}] {pos}/{len} ({elapsed}, {prefix} left)")
        .with_message(message)
        .with_prefix("?")
}
