//! Diagnostics on stderr, for the operator of the host; off unless `PAPERCLIP_K8S_LOG` names a level.
//!
//! The code emits `tracing` events everywhere. Without a subscriber an event costs one load of an atomic, so nothing
//! is installed when the variable is unset: no formatter, no writer, no global default.

use std::io::Write as _;
use std::sync::Once;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;

/// The environment variable that sets the level.
const VARIABLE: &str = "PAPERCLIP_K8S_LOG";

/// Installs the writer when the variable asks for one. Every JavaScript environment of the process loads the addon;
/// the first one decides.
pub(super) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(value) = std::env::var_os(VARIABLE) else { return };
        match level(&value.to_string_lossy()) {
            Some(LevelFilter::OFF) => {}
            Some(level) => install(level),
            None => {
                let text = "is not one of off, error, warn, info, debug, trace; logging stays off";
                // `eprintln!` would panic in a host whose stderr is closed.
                let _ = writeln!(std::io::stderr(), "{VARIABLE} {text}");
            }
        }
    });
}

fn level(value: &str) -> Option<LevelFilter> {
    match value.trim().to_ascii_lowercase().as_str() {
        "" | "off" => Some(LevelFilter::OFF),
        "error" => Some(LevelFilter::ERROR),
        "warn" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        _ => None,
    }
}

fn install(level: LevelFilter) {
    // Only this crate's events: what hyper or kube emit may hold headers, and so tokens.
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // Its report of a failed write would panic in a host whose stderr is closed.
        .log_internal_errors(false)
        .with_filter(ours);
    let subscriber = tracing_subscriber::registry().with(lines);
    // Fails when a subscriber is installed already, which then gets the events.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_of_an_unknown_word_is_none() {
        for (value, expected) in [
            ("", Some(LevelFilter::OFF)),
            ("off", Some(LevelFilter::OFF)),
            (" Debug ", Some(LevelFilter::DEBUG)),
            ("trace", Some(LevelFilter::TRACE)),
            ("verbose", None),
            ("1", None),
        ] {
            assert_eq!(level(value), expected, "{value:?}");
        }
    }
}
