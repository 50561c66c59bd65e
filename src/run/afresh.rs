//! Whether a run that could not resume its session starts again with a new one.

use std::time::Duration;

use super::context::RunContext;
use super::timing;
use crate::claude::{BrokenSession, broken_session, did_no_work};
use crate::outcome::Settled;

/// Why the run starts again, as the end of a sentence about its session; `None` where it does not. Its CLI must have ended
/// by itself with nothing done but to fail at the session that it was to resume.
pub(super) fn reason<C, H>(
    run: &RunContext<C, H>,
    settled: &Settled,
    resumed: &str,
    spent: Duration,
) -> Option<&'static str> {
    let result = settled.captured.result.as_ref()?;
    let broken = broken_session(result)?;
    let has_ended = settled.container.as_ref().is_some_and(|state| state.exit_code.is_some());
    let limit = run.request.config.timeout_sec;
    let has_time = limit <= 0.0 || spent + timing::LEAST_SECOND_TRY <= Duration::from_secs_f64(limit);
    let may = !resumed.is_empty()
        && has_ended
        && has_time
        && !settled.timed_out
        && did_no_work(result)
        && settled.captured.is_result_last_word()
        && !run.cancel.is_cancelled()
        && !run.closing.is_closing();
    may.then_some(match broken {
        BrokenSession::Unknown => "is not known to the CLI",
        BrokenSession::Poisoned => "is refused by the API",
        BrokenSession::Image => "holds an image that the API cannot process",
    })
}
