//! Diagnostics on stderr, for the operator of the host: warnings, or what `PAPERCLIP_K8S_LOG` names.
//!
//! The code emits `tracing` events everywhere. One below the level costs one load of an atomic. Warnings are written
//! without being asked for, because they say what no run's own log can say any more: they come after its end.

use std::io::Write as _;
use std::sync::Once;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;

/// The environment variable that sets the level.
const VARIABLE: &str = "PAPERCLIP_K8S_LOG";

/// Installs the writer, unless the variable is `off`. Every JavaScript environment of the process loads the addon;
/// the first one decides.
pub(super) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let value = std::env::var_os(VARIABLE).unwrap_or_default();
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
        "off" => Some(LevelFilter::OFF),
        "" | "warn" => Some(LevelFilter::WARN),
        "error" => Some(LevelFilter::ERROR),
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
            ("", Some(LevelFilter::WARN)),
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
