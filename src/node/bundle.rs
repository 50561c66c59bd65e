//! Makes a prompt bundle for JavaScript.

use napi::bindgen_prelude::PromiseRaw;
use napi::{Env, Error};
use napi_derive::napi;
use serde_json::{Value, json};

use super::{LinkFunction, on_own_runtime};
use crate::run::HostError;
use crate::run::bundle::{self, BundleInput, Links};

struct HostLinks(LinkFunction);

impl Links for HostLinks {
    async fn link(&self, source: &str, target: &str) -> Result<(), HostError> {
        let call = self.0.call_async_catch((source.to_owned(), target.to_owned()).into());
        let lost = |error: Error| HostError(error.reason.clone());
        call.await.map_err(lost)?.await.map_err(lost)?.map_or(Ok(()), |text| Err(HostError(text)))
    }
}

/// Makes a prompt bundle; resolves to `{bundle, warnings}`. `link` resolves to the text of its error.
#[napi(ts_return_type = "Promise<object>")]
pub fn prepare_prompt_bundle(
    env: &Env,
    input: String,
    #[napi(ts_arg_type = "(source: string, target: string) => Promise<string | undefined>")]
    link: LinkFunction,
) -> napi::Result<PromiseRaw<'_, Value>> {
    env.spawn_future(on_own_runtime(async move {
        let input = BundleInput::parse(&input).map_err(|error| error.to_string())?;
        let (bundle, warnings) =
            bundle::prepare(input, &HostLinks(link)).await.map_err(|error| error.to_string())?;
        Ok(json!({"bundle": bundle, "warnings": warnings}))
    }))
}
