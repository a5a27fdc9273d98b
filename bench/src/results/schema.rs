//! Holds `results/schema-v1.json` against what is written and what is read.

use std::path::Path;

use serde_json::{Map, Value};

use super::fixture::synthetic;
use super::{Clock, Results};
use crate::claims;
use crate::suite::{self, tests::invented};

const SCHEMA: &str = include_str!("../../../results/schema-v1.json");

/// The part of JSON Schema that the schema uses. Stricter in one thing: a property that the
/// schema does not name is an error, for it would be undocumented.
struct Validator {
    root: Value,
}

impl Validator {
    fn new() -> Validator {
        Validator { root: serde_json::from_str(SCHEMA).unwrap() }
    }

    fn check(&self, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        let schema = match schema["$ref"].as_str() {
            Some(name) => &self.root["$defs"][name.strip_prefix("#/$defs/").unwrap()],
            None => schema,
        };
        let is_wrong = |what: &str| Err(format!("{place}: {what}: {value}"));
        if schema.get("const").is_some_and(|wanted| wanted != value) {
            return is_wrong("not the constant");
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            return is_wrong("not one of the values");
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let fits =
                choices.iter().filter(|choice| self.check(choice, value, place).is_ok()).count();
            return if fits == 1 { Ok(()) } else { is_wrong("not exactly one of the choices") };
        }
        let number = value.as_f64().unwrap_or(0.0);
        let is_in = schema["minimum"].as_f64().is_none_or(|least| number >= least)
            && schema["maximum"].as_f64().is_none_or(|most| number <= most);
        match schema["type"].as_str() {
            Some("object") => self.check_object(schema, value.as_object().ok_or(place)?, place),
            Some("array") => {
                let mut items = value.as_array().ok_or(place)?.iter().enumerate();
                items.try_for_each(|(i, item)| {
                    self.check(&schema["items"], item, &format!("{place}[{i}]"))
                })
            }
            Some("integer") if !value.is_i64() && !value.is_u64() => is_wrong("not an integer"),
            Some("number") if !value.is_number() => is_wrong("not a number"),
            Some("integer" | "number") if !is_in => is_wrong("out of range"),
            Some("string") if !value.is_string() => is_wrong("not a string"),
            Some("boolean") if !value.is_boolean() => is_wrong("not a boolean"),
            _ => Ok(()),
        }
    }

    fn check_object(
        &self,
        schema: &Value,
        object: &Map<String, Value>,
        place: &str,
    ) -> Result<(), String> {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !object.contains_key(name.as_str().unwrap()) {
                return Err(format!("{place}: lacks {name}"));
            }
        }
        for (name, value) in object {
            let schema = schema["properties"].get(name).or(schema.get("additionalProperties"));
            let schema = schema.ok_or_else(|| format!("{place}: {name} is not documented"))?;
            self.check(schema, value, &format!("{place}.{name}"))?;
        }
        Ok(())
    }
}

fn document(clock: Clock) -> Value {
    let mut results = synthetic(clock);
    results.claims = claims::judge(&results);
    serde_json::from_str(&results.to_json(Path::new("x")).unwrap()).unwrap()
}

/// Whether the loader's types take the document; its summaries are not the question here.
fn is_read(document: &Value) -> bool {
    serde_json::from_value::<Results>(document.clone()).is_ok()
}

#[test]
fn test_what_is_written_follows_the_schema() {
    let validator = Validator::new();
    for clock in [Clock::Wall, Clock::Virtual] {
        validator.check(&validator.root, &document(clock), "$").unwrap();
    }
}

#[test]
fn test_schema_and_reader_agree_on_what_is_required() {
    let validator = Validator::new();
    let good = document(Clock::Wall);
    assert!(is_read(&good));
    for pointer in [
        "",
        "/tool",
        "/schedule",
        "/host",
        "/host/checks/0",
        "/artifacts/0",
        "/cells/1",
        "/cells/1/status",
        "/cells/2/samples/0",
        "/cells/2/samples/0/metrics/0",
        "/cells/1/samples/0/memory",
        "/cells/1/summaries/0",
        "/cells/1/summaries/0/median",
        "/floors/0",
        "/claims/0",
    ] {
        let object = good.pointer(pointer).unwrap().as_object().unwrap();
        for name in object.keys() {
            let mut lacking = good.clone();
            lacking.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(name);
            let is_valid = validator.check(&validator.root, &lacking, "$").is_ok();
            assert_eq!(is_valid, is_read(&lacking), "{pointer} without {name}");
        }
    }
}

#[test]
fn test_figures_of_a_suite_follow_the_schema() {
    let validator = Validator::new();
    for suite in suite::all() {
        let mut results = invented(suite, Clock::Virtual, 3, "qemu");
        results.created = "2026-01-02T03:04:05Z".to_owned();
        let text = results.to_json(Path::new("x")).unwrap();
        let document = serde_json::from_str(&text).unwrap();
        validator.check(&validator.root, &document, "$").unwrap();
        assert!(serde_json::from_str::<Results>(&text).unwrap() == results, "{}", suite.name);
    }
}

#[test]
fn test_schema_refuses_wrong_kinds() {
    let validator = Validator::new();
    for (pointer, wrong) in [
        ("/seed", Value::from(-1)),
        ("/clock", "sundial".into()),
        ("/cells/0/samples/0/edges_ns/init", 1.5.into()),
        ("/cells/0/status/is", "unknown".into()),
        ("/host/cpus", "two".into()),
        ("/order", 7.into()),
    ] {
        let mut document = document(Clock::Wall);
        *document.pointer_mut(pointer).unwrap() = wrong;
        assert!(validator.check(&validator.root, &document, "$").is_err(), "{pointer}");
        assert!(!is_read(&document), "{pointer}");
    }
}
