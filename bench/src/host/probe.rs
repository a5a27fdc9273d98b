//! What a check is: what it looks at, and what its findings would mean.

use super::Source;
use crate::results::{Check, Level};

/// A thing to look at before a run.
pub struct Probe {
    /// Stable identifier, such as `governor`.
    pub id: &'static str,
    /// What is looked at, in a few words.
    pub title: &'static str,
    /// What it does to figures where it is found wanting.
    pub distorts: &'static str,
    /// By how much, with who measured it; empty where nobody has. Findings may know better.
    pub amount: &'static str,
    /// What the user can do about it.
    pub remedy: &'static str,
    pub(super) find: fn(&Source) -> Finding,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// `None` where the machine does not tell.
    pub(super) value: Option<String>,
    /// By how much it distorts here, where that can be computed from what was found.
    pub(super) amount: Option<String>,
}

impl Finding {
    pub(super) fn ok(value: impl Into<Option<String>>) -> Finding {
        Finding { level: Level::Ok, value: value.into(), amount: None }
    }

    pub(super) fn note(value: impl Into<Option<String>>) -> Finding {
        Finding { level: Level::Note, value: value.into(), amount: None }
    }

    pub(super) fn warn(value: impl Into<Option<String>>) -> Finding {
        Finding { level: Level::Warn, value: value.into(), amount: None }
    }

    /// `Warn` where `is_bad`.
    pub(super) fn warn_if(is_bad: bool, value: impl Into<Option<String>>) -> Finding {
        if is_bad { Finding::warn(value) } else { Finding::ok(value) }
    }

    /// `Note` where `matters`.
    pub(super) fn note_if(matters: bool, value: impl Into<Option<String>>) -> Finding {
        if matters { Finding::note(value) } else { Finding::ok(value) }
    }

    pub(super) fn by(self, amount: impl Into<Option<String>>) -> Finding {
        Finding { amount: amount.into(), ..self }
    }
}

impl Probe {
    /// Looks, and says what it means. What distorts nothing here is not explained.
    pub(super) fn check(&self, source: &Source) -> Check {
        let found = (self.find)(source);
        let matters = found.level != Level::Ok;
        let known = || (!self.amount.is_empty()).then(|| self.amount.to_owned());
        Check {
            id: self.id.to_owned(),
            title: self.title.to_owned(),
            level: found.level,
            value: found.value.unwrap_or_else(|| "unknown".to_owned()),
            distorts: if matters { self.distorts.to_owned() } else { String::new() },
            amount: if matters { found.amount.or_else(known) } else { None },
            remedy: matters.then(|| self.remedy.to_owned()),
        }
    }
}
