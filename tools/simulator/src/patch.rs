//! JSON Patch, JSON merge patch, and an approximation of strategic merge patch.

use serde_json::{Map, Value};

/// Applies a JSON merge patch (RFC 7396).
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            crate::util::remove(target, key);
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

/// Merges like a strategic merge patch: lists of named objects merge by name, `$` directives are dropped.
pub(crate) fn strategic(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (target, Value::Object(patch)) => {
            if !target.is_object() || patch.get("$patch").is_some_and(|d| d == "replace") {
                *target = Value::Object(Map::new());
            }
            for (key, value) in patch {
                if key.starts_with('$') {
                    continue;
                }
                if value.is_null() {
                    crate::util::remove(target, key);
                } else {
                    strategic(&mut target[key.as_str()], value);
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if merge_key(new).is_some() => {
            let key = merge_key(new).unwrap_or("name");
            for item in new {
                let at = old.iter().position(|o| o.get(key) == item.get(key));
                let delete = item.get("$patch").is_some_and(|d| d == "delete");
                match (at, delete) {
                    (Some(i), true) => {
                        old.remove(i);
                    }
                    (Some(i), false) => strategic(&mut old[i], item),
                    (None, true) => {}
                    (None, false) => old.push(item.clone()),
                }
            }
        }
        (target, other) => *target = other.clone(),
    }
}

fn merge_key(items: &[Value]) -> Option<&'static str> {
    ["mountPath", "name", "uid", "type"]
        .into_iter()
        .find(|key| !items.is_empty() && items.iter().all(|i| i.get(key).is_some()))
}

/// Applies a JSON Patch (RFC 6902); on an error the target may be half changed.
pub(crate) fn json_patch(target: &mut Value, patch: &Value) -> Result<(), String> {
    let ops = patch.as_array().ok_or("cannot unmarshal object into Go value of type jsonpatch.Patch")?;
    for op in ops {
        apply(target, op)?;
    }
    Ok(())
}

fn apply(target: &mut Value, op: &Value) -> Result<(), String> {
    let text = |key: &str| op.get(key).and_then(Value::as_str);
    let name = text("op").ok_or("patch operation has no \"op\"")?;
    let path = text("path").ok_or("patch operation has no \"path\"")?;
    let missing =
        |p: &str| format!("{name} operation does not apply: doc is missing path: \"{p}\": missing value");
    let value = || op.get("value").cloned().ok_or_else(|| format!("{name} operation has no \"value\""));
    match name {
        "add" => add(target, path, value()?).ok_or_else(|| missing(path)),
        "remove" => take(target, path).map(drop).ok_or_else(|| missing(path)),
        "replace" => {
            let slot = target.pointer_mut(path).ok_or_else(|| {
                format!("replace operation does not apply: doc is missing key: {path}: missing value")
            })?;
            *slot = value()?;
            Ok(())
        }
        "move" | "copy" => {
            let from = text("from").ok_or("patch operation has no \"from\"")?;
            let moved = if name == "move" { take(target, from) } else { target.pointer(from).cloned() };
            add(target, path, moved.ok_or_else(|| missing(from))?).ok_or_else(|| missing(path))
        }
        "test" => {
            let want = op.get("value").cloned().unwrap_or(Value::Null);
            let have = target.pointer(path).cloned().unwrap_or(Value::Null);
            if want == have { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (head, last) = path.rsplit_once('/')?;
    let key = last.replace("~1", "/").replace("~0", "~");
    Some((target.pointer_mut(head)?, key))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    match parent(target, path)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(list), key) => {
            let at = if key == "-" { list.len() } else { key.parse().ok()? };
            if at > list.len() {
                return None;
            }
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn take(target: &mut Value, path: &str) -> Option<Value> {
    match parent(target, path)? {
        (Value::Object(map), key) => map.remove(&key),
        (Value::Array(list), key) => {
            let at: usize = key.parse().ok()?;
            (at < list.len()).then(|| list.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patch_merges_objects_and_removes_nulls() {
        let mut v = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        merge(&mut v, &json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [2]}));
        assert_eq!(v, json!({"a": {"c": 2, "d": {"f": 1}}, "l": [2]}));
    }

    #[test]
    fn strategic_patch_merges_lists_by_key() {
        let mut v = json!({"c": [{"name": "x", "i": 1}, {"name": "y"}]});
        strategic(
            &mut v,
            &json!({"$setElementOrder/c": [], "c": [{"name": "x", "i": 2}, {"name": "y", "$patch": "delete"}, {"name": "z"}]}),
        );
        assert_eq!(v, json!({"c": [{"name": "x", "i": 2}, {"name": "z"}]}));
    }

    #[test]
    fn json_patch_applies_its_operations() {
        let mut v = json!({"metadata": {"labels": {"a/b": "1"}}, "l": [1, 3]});
        json_patch(
            &mut v,
            &json!([
                {"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
                {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"},
                {"op": "add", "path": "/metadata/labels/c", "value": "3"},
                {"op": "add", "path": "/l/1", "value": 2},
                {"op": "add", "path": "/l/-", "value": 4},
                {"op": "remove", "path": "/l/0"},
                {"op": "copy", "from": "/l/0", "path": "/m"},
                {"op": "move", "from": "/m", "path": "/n"},
            ]),
        )
        .expect("applies");
        assert_eq!(v, json!({"metadata": {"labels": {"a/b": "2", "c": "3"}}, "l": [2, 3, 4], "n": 2}));
    }

    #[test]
    fn json_patch_that_fails_is_an_error() {
        for bad in [
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            json!([{"op": "replace", "path": "/x", "value": 1}]),
            json!([{"op": "remove", "path": "/x"}]),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "frob", "path": "/a"}]),
            json!({"op": "add"}),
        ] {
            assert!(json_patch(&mut json!({"a": 1}), &bad).is_err(), "{bad}");
        }
    }
}
