//! Parameters of a workload: declared with defaults, given as text, read by type.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::Workload;
use crate::report::clipped;

/// A parameter that a workload understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, with the unit in it.
    pub name: &'static str,
    /// The value it has when none is given.
    pub default: &'static str,
    /// One line on what it does.
    pub help: &'static str,
}

/// A parameter is unknown or its value is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// The workload has no such parameter.
    #[error("the workload '{workload}' has no parameter '{name}'; it has: {known}")]
    Unknown {
        /// The workload.
        workload: &'static str,
        /// What was given.
        name: String,
        /// All its parameters.
        known: String,
    },
    /// Not a whole number within the allowed range.
    #[error("{name}={value} is not allowed: it must be a whole number from {least} to {most}")]
    Range {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// The least allowed value.
        least: u64,
        /// The greatest allowed value.
        most: u64,
    },
    /// Not a multiple of what it must be a multiple of.
    #[error("{name}={value} is not allowed: it must be a multiple of {of}")]
    Multiple {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: u64,
        /// Its divisor.
        of: u64,
    },
    /// Not one of the allowed words.
    #[error("{name}={value} is not allowed: it must be of {allowed}")]
    Choice {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// The allowed words.
        allowed: String,
    },
}

/// The parameters of one run: what was given, and defaults for the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Few enough to be searched one by one.
    values: Vec<(&'static str, String)>,
}

impl Params {
    /// Completes `given` with the defaults of `workload`.
    ///
    /// # Errors
    /// [`ParameterError::Unknown`] for a name that the workload does not declare.
    pub fn new(
        workload: &dyn Workload,
        given: &BTreeMap<String, String>,
    ) -> Result<Params, ParameterError> {
        let declared = workload.parameters();
        let names = || declared.iter().map(|parameter| parameter.name);
        if let Some(name) = given.keys().find(|key| !names().any(|name| name == key.as_str())) {
            let known = names().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            let name = clipped(name);
            return Err(ParameterError::Unknown { workload: workload.name(), name, known });
        }
        let value = |parameter: &Parameter| {
            given.get(parameter.name).map_or_else(|| parameter.default.to_owned(), String::clone)
        };
        Ok(Params { values: declared.iter().map(|p| (p.name, value(p))).collect() })
    }

    /// The value as it was given; empty for a name that the workload does not declare.
    pub fn text(&self, name: &str) -> &str {
        self.values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// A whole number.
    ///
    /// # Errors
    /// [`ParameterError::Range`] if it is not one or is outside `allowed`.
    pub fn integer(
        &self,
        name: &'static str,
        allowed: RangeInclusive<u64>,
    ) -> Result<u64, ParameterError> {
        let value = self.text(name);
        value.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(|| {
            let (least, most) = allowed.into_inner();
            ParameterError::Range { name, value: clipped(value), least, most }
        })
    }

    /// A whole number that sizes something in memory.
    ///
    /// # Errors
    /// [`ParameterError::Range`] if it is not one or is outside `allowed`.
    pub fn size(
        &self,
        name: &'static str,
        allowed: RangeInclusive<u64>,
    ) -> Result<usize, ParameterError> {
        // tare is for x86-64: nothing is lost.
        self.integer(name, allowed).map(|number| number as usize)
    }

    /// `0` or `1`.
    ///
    /// # Errors
    /// [`ParameterError::Range`] if it is anything else.
    pub fn flag(&self, name: &'static str) -> Result<bool, ParameterError> {
        self.integer(name, 0..=1).map(|number| number == 1)
    }

    /// One of `allowed`.
    ///
    /// # Errors
    /// [`ParameterError::Choice`] if it is none of them.
    pub fn choice(
        &self,
        name: &'static str,
        allowed: &[&'static str],
    ) -> Result<&'static str, ParameterError> {
        choose(name, self.text(name), allowed)
    }

    /// One or more of `allowed`, separated by commas.
    ///
    /// # Errors
    /// [`ParameterError::Choice`] if a word is none of them.
    pub fn choices(
        &self,
        name: &'static str,
        allowed: &[&'static str],
    ) -> Result<Vec<&'static str>, ParameterError> {
        self.text(name).split(',').map(|word| choose(name, word, allowed)).collect()
    }
}

fn choose(
    name: &'static str,
    word: &str,
    allowed: &[&'static str],
) -> Result<&'static str, ParameterError> {
    allowed.iter().find(|candidate| **candidate == word).copied().ok_or_else(|| {
        ParameterError::Choice { name, value: clipped(word), allowed: allowed.join(", ") }
    })
}

/// Checks that `value` is a multiple of `of`.
pub(crate) fn multiple(name: &'static str, value: u64, of: u64) -> Result<(), ParameterError> {
    if value.is_multiple_of(of) {
        Ok(())
    } else {
        Err(ParameterError::Multiple { name, value, of })
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;
    use crate::find;

    fn params(workload: &str, given: &[(&str, &str)]) -> Result<Params, ParameterError> {
        let given = given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Params::new(find(workload).unwrap(), &given)
    }

    #[test]
    fn test_unknown_parameter_is_refused_with_the_known_ones() {
        let error = params("memory", &[("size", "1")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the workload 'memory' has no parameter 'size'; it has: bytes, pages"
        );
        let error = params("start", &[("x", "1")]).unwrap_err();
        assert!(error.to_string().ends_with("it has: none"), "{error}");
    }

    #[test]
    fn test_integer_outside_range_names_key_value_and_range() {
        for bad in ["", "-1", "1.5", "0", "11", "99999999999999999999"] {
            let params = params("memory", &[("bytes", bad)]).unwrap();
            let error = params.integer("bytes", 1..=10).unwrap_err();
            let text =
                std::format!("bytes={bad} is not allowed: it must be a whole number from 1 to 10");
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn test_choices_invalid_word_returns_choice_error() {
        let params = params("memory", &[("pages", "4k,,8k")]).unwrap();
        assert!(matches!(
            params.choices("pages", &["4k", "8k"]),
            Err(ParameterError::Choice { .. })
        ));
        assert!(matches!(
            params.choice("pages", &["4k", "8k"]),
            Err(ParameterError::Choice { .. })
        ));
    }
}
