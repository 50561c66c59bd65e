//! The tolerations of the Job's pod.

use k8s_openapi::api::core::v1::Toleration;
use serde_json::Value;

use super::error::RequestError;
use super::raw::Raw;
use super::syntax;
use crate::js_semantics;

impl Raw<'_> {
    pub(super) fn tolerations(&mut self) -> Result<Vec<Toleration>, RequestError> {
        const KEY: &str = "tolerations";
        let parsed;
        let items = match self.get(KEY) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(Value::String(text)) if js_semantics::trim(text).is_empty() => return Ok(Vec::new()),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(Value::Array(items)) => {
                    parsed = items;
                    &parsed
                }
                Ok(_) => return Err(self.refuse(KEY, "must be a JSON array of tolerations")),
                Err(error) => {
                    return Err(self.refuse(KEY, &format!("must be a JSON array of tolerations ({error})")));
                }
            },
            Some(other) => {
                self.mistyped(KEY, other, "an array or the JSON text of one");
                return Ok(Vec::new());
            }
        };
        items.iter().enumerate().map(|(index, item)| toleration(index, item)).collect()
    }
}

/// Reads one toleration and checks it by the rules of the API server.
fn toleration(index: usize, item: &Value) -> Result<Toleration, RequestError> {
    let here = format!("tolerations[{index}]");
    let Some(map) = item.as_object() else {
        return Err(RequestError::config(here, item, "must be an object"));
    };
    let mut toleration = Toleration::default();
    for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        let refuse = |why: &str| RequestError::config(format!("{here}.{name}"), value, why);
        let text = || value.as_str().map(str::to_owned).ok_or_else(|| refuse("must be a string"));
        match name.as_str() {
            "key" => toleration.key = Some(text()?),
            "operator" => toleration.operator = Some(text()?),
            "value" => toleration.value = Some(text()?),
            "effect" => toleration.effect = Some(text()?),
            "tolerationSeconds" => {
                let seconds = value.as_i64().ok_or_else(|| refuse("must be a whole number of seconds"))?;
                toleration.toleration_seconds = Some(seconds);
            }
            _ => return Err(refuse("known are key, operator, value, effect and tolerationSeconds")),
        }
    }

    let field = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, operator, value, effect) = (
        field(&toleration.key),
        field(&toleration.operator),
        field(&toleration.value),
        field(&toleration.effect),
    );
    let refuse = |name: &str, value: &str, why: &str| {
        Err(RequestError::config(format!("{here}.{name}"), &Value::from(value), why))
    };
    if !matches!(operator.as_str(), "" | "Exists" | "Equal") {
        return refuse("operator", &operator, "must be Exists or Equal");
    }
    if !matches!(effect.as_str(), "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return refuse("effect", &effect, "must be NoSchedule, PreferNoSchedule or NoExecute");
    }
    if key.is_empty() && operator != "Exists" {
        return refuse("operator", &operator, "must be Exists when there is no key");
    }
    if !key.is_empty() && !syntax::is_label_key(&key) {
        return refuse("key", &key, "must be the key of a taint");
    }
    if operator == "Exists" && !value.is_empty() {
        return refuse("value", &value, "must be absent with the operator Exists");
    }
    if !syntax::is_label_value(&value) {
        return refuse("value", &value, "must be the value of a taint");
    }
    if let Some(seconds) = toleration.toleration_seconds
        && effect != "NoExecute"
    {
        let why = "has a meaning only with the effect NoExecute";
        return Err(RequestError::config(format!("{here}.tolerationSeconds"), &Value::from(seconds), why));
    }
    Ok(toleration)
}
