//! The verbs.

use super::watch::{self, Filter};
use super::{Body, Call, Target, json as answer_json, value};
use crate::authz::{self, User};
use crate::kinds::{Kind, NAMESPACE, POD};
use crate::ops::{self, DeleteOptions};
use crate::status::{ApiError, ApiResult};
use crate::store::Object;
use crate::util::{int_at, list_at, remove, str_at};
use crate::{patch, validate};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use hyper::Response;
use hyper::header::{HeaderValue, WARNING};
use serde_json::{Value, json};
use std::sync::Arc;

fn parse(body: &[u8]) -> ApiResult<Value> {
    // The magic number of the protobuf encoding, which some kubectl commands use.
    if body.starts_with(b"k8s\0") {
        let text = "the body of the request was in an unknown format - accepted media types include: application/json";
        return Err(ApiError::new(415, "UnsupportedMediaType", text));
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|e| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type Object): couldn't get version/kind; json parse error: {e}"
        ))
    })
}

fn whole(code: u16, o: &Object) -> Response<Body> {
    answer_json(code, o.full_json())
}

/// Adds warnings to an answer, one header each.
fn warned(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for text in warnings {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

/// Answers an API request that is allowed.
pub(super) async fn answer(call: Call, t: &Target, user: &User, body: &Bytes) -> ApiResult<Response<Body>> {
    let verb = call.info.verb.clone();
    let dry = call.query.get("dryRun") == Some("All");
    if t.kind.is_review() {
        return if verb == "create" {
            Ok(value(201, &authz::review(user, parse(body)?)))
        } else {
            Err(ApiError::method_not_allowed())
        };
    }
    let namespaced_name = !t.name.is_empty();
    match (verb.as_str(), t.subresource.as_str()) {
        ("watch", "") => {
            let filter = Filter::read(&call, t.kind, &t.namespace)?;
            watch::answer(call, filter)
        }
        ("list", "") => list(&call, t),
        ("get", "log") => {
            let pod = find(&call, t)?;
            super::logs::answer(call, &pod).await
        }
        ("get", "" | "status") => {
            let object = find(&call, t)?;
            if let Some(broken) = call.effect.garbage {
                return Ok(answer_json(200, watch::garbage(t.kind, broken)));
            }
            Ok(whole(200, &object))
        }
        ("create", "") if !namespaced_name && (!t.kind.namespaced || !t.namespace.is_empty()) => {
            let v = parse(body)?;
            let mut warnings = Vec::new();
            let made = ops::create_warned(&call.sim, t.kind, &t.namespace, v, dry, &mut warnings)?;
            Ok(warned(whole(201, &made), &warnings))
        }
        ("create", "eviction") => evict(&call, t, &parse(body)?),
        ("update", "" | "status" | "finalize") => {
            let v = parse(body)?;
            let object = change(&call, t, dry, |_| {
                validate::check_types(t.kind, &v)?;
                let name = str_at(&v, "/metadata/name");
                if name != t.name {
                    return Err(ApiError::bad_request(format!(
                        "the name of the object ({name}) does not match the name on the URL ({})",
                        t.name
                    )));
                }
                Ok(v.clone())
            })?;
            Ok(whole(200, &object))
        }
        ("patch", "" | "status") => patch_object(&call, t, dry, &parse(body)?),
        ("delete", "") if dry => Ok(whole(200, &*find(&call, t)?)),
        ("delete", "") => delete(&call, t, &parse(body)?),
        ("deletecollection", "") if !t.kind.namespaced || !t.namespace.is_empty() => {
            delete_collection(&call, t, &parse(body)?)
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn delete_options(call: &Call, body: &Value) -> ApiResult<DeleteOptions> {
    DeleteOptions::read(body, |name| call.query.get(name).map(str::to_string))
}

fn delete(call: &Call, t: &Target, body: &Value) -> ApiResult<Response<Body>> {
    let options = delete_options(call, body)?;
    let (object, gone) = ops::delete(&call.sim, t.kind, &t.namespace, &t.name, &options)?;
    if !gone || t.kind.returns_deleted() {
        return Ok(whole(200, &object));
    }
    let mut details = json!({"name": object.name, "kind": t.kind.plural, "uid": object.uid});
    if !t.kind.group.is_empty() {
        details["group"] = t.kind.group.into();
    }
    Ok(value(
        200,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
    ))
}

fn delete_collection(call: &Call, t: &Target, body: &Value) -> ApiResult<Response<Body>> {
    let options = delete_options(call, body)?;
    let filter = Filter::read(call, t.kind, &t.namespace)?;
    let (objects, version) = call.sim.store.list(t.kind, filter.namespace());
    let mut out = Vec::new();
    for o in objects.iter().filter(|o| filter.wants(o)) {
        match ops::delete(&call.sim, t.kind, &o.namespace, &o.name, &options) {
            Ok((deleted, _)) => out.push(deleted),
            Err(e) if e.code == 404 => {}
            Err(e) => return Err(e),
        }
    }
    Ok(answer_json(200, list_json(t.kind, &out, version, None, None)))
}

fn find(call: &Call, t: &Target) -> ApiResult<Arc<Object>> {
    call.sim.store.get(t.kind, &t.namespace, &t.name).ok_or_else(|| ApiError::not_found(t.kind, &t.name))
}

fn list_json(
    kind: &Kind,
    items: &[Arc<Object>],
    version: u64,
    more: Option<(String, usize)>,
    garbage: Option<bool>,
) -> Bytes {
    let mut meta = json!({"resourceVersion": version.to_string()});
    if let Some((token, left)) = more {
        meta["continue"] = token.into();
        meta["remainingItemCount"] = left.into();
    }
    let mut out = BytesMut::new();
    out.put_slice(
        format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
            kind.kind,
            kind.api_version()
        )
        .as_bytes(),
    );
    let mut first = true;
    let pieces = garbage
        .map(|broken| Bytes::from(watch::garbage(kind, broken)))
        .into_iter()
        .chain(items.iter().map(|o| o.item_json()));
    for piece in pieces {
        if !first {
            out.put_u8(b',');
        }
        first = false;
        out.put_slice(&piece);
    }
    out.put_slice(b"]}\n");
    out.freeze()
}

fn list(call: &Call, t: &Target) -> ApiResult<Response<Body>> {
    let filter = Filter::read(call, t.kind, &t.namespace)?;
    let limit: usize = call.query.number("limit")?.unwrap_or(0);
    let store = &call.sim.store;
    if let Some(exact) = call
        .query
        .number::<u64>("resourceVersion")?
        .filter(|_| call.query.get("resourceVersionMatch") == Some("Exact"))
        && exact < store.compacted()
    {
        return Err(ApiError::expired("The resourceVersion for the provided list is too old."));
    }
    let (objects, now) = store.list(t.kind, filter.namespace());
    let mut items: Vec<Arc<Object>> = objects.into_iter().filter(|o| filter.wants(o)).collect();
    let mut version = now;
    if let Some(token) = call.query.get("continue") {
        let bad = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| bad())?;
        let v: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        version = v["rv"].as_u64().ok_or_else(bad)?;
        if version < store.compacted() {
            return Err(ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
            ));
        }
        let after = (str_at(&v, "/ns"), str_at(&v, "/name"));
        items.retain(|o| (o.namespace.as_str(), o.name.as_str()) > after);
    }
    let mut more = None;
    if limit > 0 && items.len() > limit {
        let left = items.len() - limit;
        items.truncate(limit);
        if let Some(last) = items.last() {
            let token = json!({"rv": version, "ns": last.namespace, "name": last.name}).to_string();
            more = Some((URL_SAFE_NO_PAD.encode(token), left));
        }
    }
    Ok(answer_json(200, list_json(t.kind, &items, version, more, call.effect.garbage)))
}

fn change(
    call: &Call,
    t: &Target,
    dry: bool,
    make: impl FnOnce(&Object) -> ApiResult<Value>,
) -> ApiResult<Arc<Object>> {
    let mut preview = None;
    let result = call.sim.store.update(t.kind, &t.namespace, &t.name, |v, old| {
        let mut new = make(old)?;
        let asked = str_at(&new, "/metadata/resourceVersion");
        if !asked.is_empty() && asked != old.version.to_string() {
            let why =
                "the object has been modified; please apply your changes to the latest version and try again";
            return Err(ApiError::conflict(t.kind, &t.name, why));
        }
        let uid = str_at(&new, "/metadata/uid");
        if !uid.is_empty() && uid != old.uid {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid);
            return Err(ApiError::conflict(t.kind, &t.name, &why));
        }
        remove(&mut new, "kind");
        remove(&mut new, "apiVersion");
        if t.subresource == "status" {
            v["status"] = new["status"].take();
            return Ok(());
        }
        keep_server_metadata(&mut new["metadata"], &old.value["metadata"]);
        match old.value.get("status") {
            Some(s) => new["status"] = s.clone(),
            None => {
                remove(&mut new, "status");
            }
        }
        if t.kind.kind == "Secret" && new.get("stringData").is_some() {
            validate::set_defaults(t.kind, &mut new);
        }
        validate::validate(t.kind, &new)?;
        validate::validate_update(t.kind, &old.value, &new)?;
        if new["spec"] != old.value["spec"]
            && let Some(n) = int_at(&old.value, "/metadata/generation")
        {
            new["metadata"]["generation"] = (n + 1).into();
        }
        if t.kind == &NAMESPACE && t.subresource == "finalize" {
            new["metadata"]["finalizers"] = new["spec"]["finalizers"].clone();
        }
        *v = new;
        if dry {
            preview = Some(v.clone());
            *v = old.value.clone();
        }
        Ok(())
    });
    let (object, ()) = result?;
    match preview {
        Some(v) => crate::store::Store::default().create(t.kind, v),
        None => Ok(object),
    }
}

/// Restores the metadata that only the server sets.
fn keep_server_metadata(meta: &mut Value, old: &Value) {
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "namespace",
        "name",
        "selfLink",
    ] {
        match old.get(key) {
            Some(x) => meta[key] = x.clone(),
            None => {
                remove(meta, key);
            }
        }
    }
    remove(meta, "managedFields");
    for key in ["labels", "annotations", "ownerReferences", "finalizers"] {
        if meta.get(key).is_some_and(Value::is_null) {
            remove(meta, key);
        }
    }
}

fn patch_object(call: &Call, t: &Target, dry: bool, body: &Value) -> ApiResult<Response<Body>> {
    let kind = call.content_type.split(';').next().unwrap_or("").trim();
    let apply = kind == "application/apply-patch+yaml";
    let known = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
    if !apply && !known.contains(&kind) {
        return Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}, application/apply-patch+yaml",
                known.join(", ")
            ),
        ));
    }
    if apply && call.sim.store.get(t.kind, &t.namespace, &t.name).is_none() {
        let mut v = body.clone();
        v["metadata"]["name"] = t.name.as_str().into();
        return Ok(whole(201, &*ops::create(&call.sim, t.kind, &t.namespace, v, dry)?));
    }
    let object = change(call, t, dry, |old| {
        let mut v = old.full();
        // Only a version named in the patch itself is a precondition.
        match kind {
            "application/json-patch+json" => {
                patch::json_patch(&mut v, body).map_err(|why| {
                    let mut e = ApiError::new(
                        422,
                        "Invalid",
                        "the server rejected our request due to an error in our request",
                    );
                    *e.details = json!({"causes": [{"reason": "UnexpectedServerResponse", "message": why}]});
                    e
                })?;
            }
            "application/merge-patch+json" => patch::merge(&mut v, body),
            _ => patch::strategic(&mut v, body),
        }
        validate::check_types(t.kind, &v)?;
        if list_at(&v, "/metadata/ownerReferences").iter().any(|r| str_at(r, "/uid").is_empty()) {
            let problem = crate::status::FieldError::required(
                "metadata.ownerReferences[0].uid",
                "uid must not be empty",
            );
            return Err(ApiError::invalid(t.kind, &t.name, &[problem]));
        }
        Ok(v)
    })?;
    Ok(whole(200, &object))
}

fn evict(call: &Call, t: &Target, body: &Value) -> ApiResult<Response<Body>> {
    let pod = find(call, t)?;
    let options = DeleteOptions::read(&body["deleteOptions"], |_| None)?;
    crate::nodes::disrupt(&call.sim, &pod, "EvictionByEvictionAPI", "Eviction API: evicting")?;
    ops::delete(&call.sim, &POD, &pod.namespace, &pod.name, &options)?;
    Ok(value(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}
