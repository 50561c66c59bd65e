//! What a run used and who pays for it, and which session it leaves behind.

use serde_json::Value;

use crate::claude::{Captured, Usage};
use crate::forensics::{Account, Platform};
use crate::js_semantics;

/// The host keeps tokens and cents of a run in 32 bits. One that it cannot store breaks the end of a run that it has
/// recorded already: its agent's state and session are then not saved.
const MOST: f64 = i32::MAX as f64;

/// What a run used. What nothing says is unknown, and not nothing: a cost of 0 means that the run was free.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Spent {
    usage: Option<Usage>,
    cost_usd: Option<f64>,
    /// The model; empty where it is not known.
    model: String,
    billing: Billing,
    /// The session's id, and what resuming it takes.
    session: Option<(String, Value)>,
}

/// How and to whom a run is paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Billing {
    kind: &'static str,
    biller: &'static str,
}

impl Spent {
    /// What the output and the Job say. `session` is the one to be reported.
    pub(super) fn of(
        captured: &Captured,
        account: &Account,
        config_model: &str,
        session: Option<(String, Value)>,
    ) -> Self {
        Self {
            usage: captured.usage(),
            cost_usd: captured.cost_usd(),
            model: captured.model().unwrap_or(config_model).to_owned(),
            billing: Billing::of(captured, account),
            session,
        }
    }

    /// Whether the tokens are known.
    pub(super) fn has_usage(&self) -> bool {
        self.usage.is_some()
    }

    /// Writes the keys: `all` of them, or those that are known.
    pub(super) fn write(&self, all: bool, set: &mut impl FnMut(&str, Value)) {
        if let Some(usage) = self.usage {
            set("usage", serde_json::to_value(usage.at_most(MOST)).unwrap_or_default());
        }
        match &self.session {
            Some((id, params)) => {
                set("sessionId", id.clone().into());
                set("sessionParams", params.clone());
                set("sessionDisplayId", id.clone().into());
            }
            // Without the keys the host keeps the session that it knows.
            None if all => {
                for key in ["sessionId", "sessionParams", "sessionDisplayId"] {
                    set(key, Value::Null);
                }
            }
            None => {}
        }
        if all || self.usage.is_some() {
            set("provider", "anthropic".into());
            set("biller", self.billing.biller.into());
        }
        if all || !self.model.is_empty() {
            set("model", self.model.clone().into());
        }
        if all || self.usage.is_some() {
            set("billingType", self.billing.kind.into());
            let cost = self.cost_usd.filter(|cost| cost * 100.0 < MOST);
            set("costUsd", cost.map_or(Value::Null, js_semantics::number_value));
        }
    }
}

impl Billing {
    /// As the CLI's events say it, and then the variables of the pod.
    fn of(captured: &Captured, account: &Account) -> Self {
        let platform = captured.platform().and_then(platform).or(account.platform);
        if let Some(platform) = platform {
            let biller = match platform {
                Platform::Bedrock => "aws_bedrock",
                Platform::Vertex => "google_vertex",
                Platform::Foundry => "azure_foundry",
            };
            return Self { kind: "metered_api", biller };
        }
        let is_subscription = match captured.api_key_source.as_deref() {
            // A gateway's token is not an API key to the CLI, nor a subscription.
            Some("none") => !account.has("ANTHROPIC_AUTH_TOKEN"),
            Some("oauth") => true,
            Some(_) => false,
            None => {
                account.has("CLAUDE_CODE_OAUTH_TOKEN")
                    && !account.has("ANTHROPIC_API_KEY")
                    && !account.has("ANTHROPIC_AUTH_TOKEN")
            }
        };
        Self { kind: if is_subscription { "subscription" } else { "api" }, biller: "anthropic" }
    }
}

/// The CLI's word for who serves the model.
fn platform(word: &str) -> Option<Platform> {
    let word = word.to_ascii_lowercase();
    [("bedrock", Platform::Bedrock), ("vertex", Platform::Vertex), ("foundry", Platform::Foundry)]
        .into_iter()
        .find(|(name, _)| word.contains(name))
        .map(|(_, platform)| platform)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::claude::Tally;

    fn account(env: Value) -> Account {
        let job = json!({"spec": {"template": {"spec": {"containers": [{"name": "claude", "env": env}]}}}});
        Account::of(&serde_json::from_value(job).unwrap())
    }

    fn billing(source: Option<&str>, env: Value) -> [&'static str; 2] {
        let mut captured = Captured::default();
        captured.api_key_source = source.map(str::to_owned);
        let Billing { kind, biller } = Billing::of(&captured, &account(env));
        [kind, biller]
    }

    #[test]
    fn billing_follows_from_init_event_and_variables() {
        let var = |name: &str| json!([{"name": name, "value": "1"}]);
        for (source, env, expected) in [
            (Some("ANTHROPIC_API_KEY"), json!([]), ["api", "anthropic"]),
            (Some("apiKeyHelper"), json!([]), ["api", "anthropic"]),
            (Some("none"), json!([]), ["subscription", "anthropic"]),
            (Some("oauth"), json!([]), ["subscription", "anthropic"]),
            (Some("none"), var("ANTHROPIC_AUTH_TOKEN"), ["api", "anthropic"]),
            (Some("none"), var("CLAUDE_CODE_USE_BEDROCK"), ["metered_api", "aws_bedrock"]),
            (Some("none"), var("CLAUDE_CODE_USE_VERTEX"), ["metered_api", "google_vertex"]),
            (Some("none"), var("CLAUDE_CODE_USE_FOUNDRY"), ["metered_api", "azure_foundry"]),
            (None, json!([]), ["api", "anthropic"]),
            (None, var("CLAUDE_CODE_OAUTH_TOKEN"), ["subscription", "anthropic"]),
            (None, var("ANTHROPIC_API_KEY"), ["api", "anthropic"]),
        ] {
            assert_eq!(billing(source, env.clone()), expected, "{source:?} {env}");
        }
    }

    #[test]
    fn platform_of_the_result_comes_before_the_variables() {
        // A flag may come from a Secret, whose values no run reads.
        let mut tally = Tally::new();
        tally.text(r#"{"type":"system","subtype":"init","apiKeySource":"none"}"#);
        tally.text(r#"{"type":"result","modelUsage":{"m":{"inputTokens":1,"provider":"bedrock"}}}"#);
        let Billing { kind, biller } = Billing::of(&tally.finish(), &Account::default());
        assert_eq!([kind, biller], ["metered_api", "aws_bedrock"]);
    }

    #[test]
    fn tokens_and_cost_fit_what_the_host_stores() {
        for (tokens, cost, stored, reported) in [
            (7.0, Some(0.5), json!(7), json!(0.5)),
            (3e9, Some(3e7), json!(2_147_483_647), Value::Null),
            (1e15, Some(1e300), json!(2_147_483_647), Value::Null),
        ] {
            let usage = Usage { input_tokens: tokens, cached_input_tokens: tokens, output_tokens: tokens };
            let spent = Spent { usage: Some(usage), cost_usd: cost, ..Spent::default() };
            let mut written = serde_json::Map::new();
            spent.write(true, &mut |key, value| drop(written.insert(key.to_owned(), value)));
            let all = json!({"inputTokens": stored, "cachedInputTokens": stored, "outputTokens": stored});
            assert_eq!((&written["usage"], &written["costUsd"]), (&all, &reported));
        }
    }
}
