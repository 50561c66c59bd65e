//! Label and field selectors.

use crate::kinds::Kind;
use serde_json::Value;

/// A parsed label selector; all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    op: Op,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        split_top(text)
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| {
                requirement(part)
                    .ok_or_else(|| format!("unable to parse requirement: found {part:?} in {text:?}"))
            })
            .collect::<Result<_, _>>()
            .map(LabelSelector)
    }

    /// Whether an object's labels satisfy the selector.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
        self.0.iter().all(|r| {
            let value = labels.and_then(|l| l.get(&r.key)).and_then(Value::as_str);
            match (&r.op, value) {
                (Op::In(set), Some(v)) => set.iter().any(|s| s == v),
                (Op::NotIn(set), Some(v)) => set.iter().all(|s| s != v),
                (Op::Exists, Some(_)) | (Op::NotIn(_) | Op::Missing, None) => true,
                (Op::In(_) | Op::Exists, None) | (Op::Missing, Some(_)) => false,
            }
        })
    }
}

fn split_top(text: &str) -> Vec<&str> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn requirement(part: &str) -> Option<Requirement> {
    let new = |key: &str, op| {
        let key = key.trim();
        let ok = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        ok.then(|| Requirement { key: key.to_string(), op })
    };
    let one = |v: &str| vec![v.trim().to_string()];
    if let Some(key) = part.strip_prefix('!') {
        return new(key, Op::Missing);
    }
    if let Some((head, set)) = part.split_once('(') {
        let set = set.trim_end().strip_suffix(')')?.split(',').map(|v| v.trim().to_string()).collect();
        let (key, word) = head.trim().rsplit_once(char::is_whitespace)?;
        return match word {
            "in" => new(key, Op::In(set)),
            "notin" => new(key, Op::NotIn(set)),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return new(key, Op::NotIn(one(value)));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return new(key, Op::In(one(value)));
    }
    new(part, Op::Exists)
}

/// A parsed field selector; all terms must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<(String, bool, String)>);

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

impl FieldSelector {
    /// Parses `metadata.name=x,status.phase!=y`, for the fields a kind supports.
    pub(crate) fn parse(kind: &Kind, text: &str) -> Result<Self, String> {
        let known = |field: &str| {
            matches!(field, "metadata.name" | "metadata.namespace")
                || match kind.kind {
                    "Pod" => POD_FIELDS.contains(&field),
                    "Event" => EVENT_FIELDS.contains(&field),
                    "Secret" => field == "type",
                    "Job" => field == "status.successful",
                    "Namespace" => field == "status.phase",
                    _ => false,
                }
        };
        text.split(',')
            .filter(|t| !t.trim().is_empty())
            .map(|term| {
                let (field, equal, value) = if let Some((f, v)) = term.split_once("!=") {
                    (f, false, v)
                } else if let Some((f, v)) = term.split_once("==").or_else(|| term.split_once('=')) {
                    (f, true, v)
                } else {
                    return Err(format!("invalid selector: {term:?}; can't understand {term:?}"));
                };
                let field = field.trim();
                if !known(field) {
                    return Err(format!("field label not supported: {field}"));
                }
                Ok((field.to_string(), equal, value.trim().to_string()))
            })
            .collect::<Result<_, _>>()
            .map(FieldSelector)
    }

    /// Whether an object satisfies the selector.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, equal, want)| {
            let field = match field.as_str() {
                "source" => "source.component",
                "status.successful" => "status.succeeded",
                other => other,
            };
            let found = field.split('.').try_fold(object, |v, key| v.get(key));
            let text = match found {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(s)) => s.clone(),
                Some(other) => other.to_string(),
            };
            (text == *want) == *equal
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{EVENT, JOB, POD};
    use serde_json::json;

    fn hit(selector: &str) -> bool {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "", "x.io/c": "three"}}});
        LabelSelector::parse(selector).expect(selector).matches(&object)
    }

    #[test]
    fn label_selector_matches() {
        for yes in [
            "",
            "a=1",
            "a==1",
            "a!=2",
            "z!=2",
            "a",
            "!z",
            "b=",
            "a in (1,2)",
            "a notin (2, 3)",
            "z notin (1)",
            "x.io/c in (three),a=1",
            " a = 1 , !q ",
        ] {
            assert!(hit(yes), "{yes}");
        }
        for no in ["a=2", "a!=1", "!a", "z", "z=", "a in (2)", "a notin (1,2)", "a=1,z"] {
            assert!(!hit(no), "{no}");
        }
        for bad in ["a in 1", "a foo (1)", "=b", "a b"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selector_matches() {
        let pod = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}});
        let hit = |s: &str| FieldSelector::parse(&POD, s).expect(s).matches(&pod);
        assert!(hit("metadata.name=p,status.phase!=Failed") && hit("spec.nodeName="));
        assert!(!hit("metadata.name=q"));
        assert!(FieldSelector::parse(&JOB, "status.phase=x").is_err());
        assert!(FieldSelector::parse(&EVENT, "involvedObject.uid=x").is_ok());
    }
}
