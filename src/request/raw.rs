//! Typed access to the raw settings.
//!
//! Every accessor has the same two ways out: a value of the wrong type counts as absent and is noted, a value of the
//! right type that cannot work is an error.

use serde_json::{Map, Value};

use super::config::CONFIG_KEYS;
use super::error::RequestError;
use crate::js_semantics;

/// The longest time a setting may ask for, in seconds: Kubernetes keeps some of them in 32 bits.
pub(super) const MAX_SECONDS: f64 = i32::MAX as f64;
/// Why a text with a NUL character is refused.
pub(super) const NUL: &str = "a NUL character can be in no argument, path or variable";

/// The raw settings, and the notes on those that were read.
pub(super) struct Raw<'a> {
    map: &'a Map<String, Value>,
    pub(super) notes: Vec<String>,
}

impl<'a> Raw<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, notes: Vec::new() }
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The setting, unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        debug_assert!(CONFIG_KEYS.contains(&key), "{key} is not in CONFIG_KEYS");
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// An error about the setting `key`, with its value.
    pub(super) fn refuse(&self, key: &str, why: &str) -> RequestError {
        RequestError::config(key, self.map.get(key).unwrap_or(&Value::Null), why)
    }

    /// Notes that a setting of the wrong type is ignored.
    pub(super) fn mistyped(&mut self, key: &str, value: &Value, expected: &str) {
        self.note(format!("config.{key} ignored: it is {}, not {expected}", kind(value)));
    }

    /// A string that is not empty.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, RequestError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.contains('\0') => Err(self.refuse(key, NUL)),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(other) => {
                self.mistyped(key, other, "a string");
                Ok(None)
            }
        }
    }

    /// As [`text`](Self::text), and `valid`; `why` says what would be.
    pub(super) fn name(
        &mut self,
        key: &str,
        valid: fn(&str) -> bool,
        why: &str,
    ) -> Result<Option<String>, RequestError> {
        match self.text(key)? {
            Some(name) if !valid(&name) => Err(self.refuse(key, why)),
            name => Ok(name),
        }
    }

    /// One of some words; the first is the default.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Result<T, RequestError> {
        let (_, default) = choices[0];
        Ok(self.choice_if_set(key, choices)?.unwrap_or(default))
    }

    /// One of some words, where there is one.
    pub(super) fn choice_if_set<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, RequestError> {
        let Some(word) = self.text(key)? else { return Ok(None) };
        match choices.iter().find(|(name, _)| word == *name) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                Err(self.refuse(key, &format!("must be one of {}", names.join(", "))))
            }
        }
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.get(key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.mistyped(key, other, "true or false");
                default
            }
        }
    }

    /// A finite number.
    pub(super) fn number(&mut self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        let number = value.as_f64().filter(|number| number.is_finite());
        if number.is_none() {
            self.mistyped(key, value, "a number");
        }
        number
    }

    /// A time from 0 to [`MAX_SECONDS`].
    pub(super) fn seconds(&mut self, key: &str) -> Result<Option<f64>, RequestError> {
        match self.number(key) {
            Some(seconds) if !(0.0..=MAX_SECONDS).contains(&seconds) => {
                Err(self.refuse(key, &format!("must be between 0 and {MAX_SECONDS} seconds")))
            }
            seconds => Ok(seconds),
        }
    }

    /// A whole number from 0 to `max`.
    pub(super) fn whole(&self, key: &str, number: f64, max: f64) -> Result<f64, RequestError> {
        if number.fract() == 0.0 && (0.0..=max).contains(&number) {
            Ok(number)
        } else {
            Err(self.refuse(key, &format!("must be a whole number between 0 and {max}")))
        }
    }

    /// Keys and values from an object, the JSON text of one, or lines of `key=value`.
    pub(super) fn key_values(&mut self, key: &str) -> Vec<(String, String)> {
        match self.get(key) {
            None => Vec::new(),
            Some(Value::Object(map)) => self.string_entries(key, map),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(Value::Object(map)) => self.string_entries(key, &map),
                _ => self.lines(key, text),
            },
            Some(other) => {
                self.mistyped(key, other, "an object or lines of key=value");
                Vec::new()
            }
        }
    }

    fn string_entries(&mut self, key: &str, map: &Map<String, Value>) -> Vec<(String, String)> {
        let mut entries = Vec::with_capacity(map.len());
        for (name, value) in map {
            match value.as_str() {
                Some(text) => entries.push((name.clone(), text.to_owned())),
                None => self.mistyped(&format!("{key}.{name}"), value, "a string"),
            }
        }
        entries
    }

    fn lines(&mut self, key: &str, text: &str) -> Vec<(String, String)> {
        let mut entries: Vec<(String, String)> = Vec::new();
        for line in text.split('\n').map(js_semantics::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The line is trimmed, so a name before `=` has at least one character that is not a space.
            let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                let shown: String = line.chars().take(60).collect();
                self.note(format!("config.{key}: line {shown:?} ignored, it is not key=value"));
                continue;
            };
            let (name, value) = (js_semantics::trim(name), js_semantics::trim(value).to_owned());
            match entries.iter_mut().find(|(seen, _)| seen == name) {
                Some(entry) => entry.1 = value,
                None => entries.push((name.to_owned(), value)),
            }
        }
        entries
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
