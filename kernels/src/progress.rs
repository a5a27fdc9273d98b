//! How long steps tell that they are alive.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Receives the advance of a long step (unpacking a source tree, compiling a kernel).
///
/// Steps do not overlap: [`begin`](Progress::begin), any number of
/// [`advance`](Progress::advance), [`finish`](Progress::finish). After an error there is no
/// `finish`.
pub trait Progress {
    /// A step starts. `total` is the expected number of units, a guess that may be off.
    fn begin(&self, what: &str, total: u64);
    /// `done` units are finished; `detail` names the last of them.
    fn advance(&self, done: u64, detail: &str);
    /// The step has ended well.
    fn finish(&self);
    /// Something worth a line, outside of any step.
    fn note(&self, text: &str);
}

/// Says nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: u64) {}
    fn advance(&self, _done: u64, _detail: &str) {}
    fn finish(&self) {}
    fn note(&self, _text: &str) {}
}

/// Reports on stderr: a moving bar if that is a terminal, else a plain line now and then.
#[derive(Debug)]
pub struct Stderr {
    bar: Option<ProgressBar>,
    state: RefCell<State>,
    last_line: Cell<Option<Instant>>,
}

#[derive(Debug, Default)]
struct State {
    what: String,
    total: u64,
    started: Option<Instant>,
}

/// A log file should show that the build lives, not scroll.
const LINE_INTERVAL: Duration = Duration::from_secs(15);

impl Stderr {
    /// Looks at stderr and decides between bar and lines.
    pub fn new() -> Stderr {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = "{prefix} [{bar:32}] {percent:>3}% {elapsed} {wide_msg}";
            bar.set_style(
                ProgressStyle::with_template(style)
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar
        });
        Stderr { bar, state: RefCell::default(), last_line: Cell::new(None) }
    }

    /// A closed stderr is no reason to stop a build.
    fn line(text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }
}

impl Default for Stderr {
    fn default() -> Stderr {
        Stderr::new()
    }
}

impl Progress for Stderr {
    fn begin(&self, what: &str, total: u64) {
        let started = Some(Instant::now());
        *self.state.borrow_mut() = State { what: what.to_owned(), total, started };
        match &self.bar {
            Some(bar) => {
                bar.reset();
                bar.set_length(total);
                bar.set_prefix(what.to_owned());
                bar.enable_steady_tick(Duration::from_millis(250));
            }
            None => {
                Self::line(&format!("{what} ..."));
                self.last_line.set(started);
            }
        }
    }

    fn advance(&self, done: u64, detail: &str) {
        let state = self.state.borrow();
        if let Some(bar) = &self.bar {
            // A total that was guessed too low must not show 100 % before the end.
            bar.set_length(state.total.max(done.saturating_add(1)));
            bar.set_position(done);
            bar.set_message(detail.to_owned());
        } else if self.last_line.get().is_none_or(|at| at.elapsed() >= LINE_INTERVAL) {
            self.last_line.set(Some(Instant::now()));
            let State { what, total, .. } = &*state;
            Self::line(&format!("{what}: {done} of about {} ({detail})", total.max(&done)));
        }
    }

    fn finish(&self) {
        let state = self.state.borrow();
        if let Some(bar) = &self.bar {
            bar.disable_steady_tick();
            bar.finish_and_clear();
        }
        let seconds = state.started.map_or(0.0, |at| at.elapsed().as_secs_f64());
        Self::line(&format!("{}: done in {seconds:.0} s", state.what));
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| Self::line(text)),
            None => Self::line(text),
        }
    }
}
