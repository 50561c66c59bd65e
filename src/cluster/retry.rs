//! Retries reads: with jitter, within a time budget, and never sooner than the server asks.

use std::fmt::Write as _;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use super::{ApiError, ApiErrorKind};

/// The pauses between attempts: doubling from `first` to `longest`, each shortened by a random part of up to a half,
/// so that runs that failed together do not retry together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, first, longest }
    }

    /// Starts again with the first pause. To be called on progress.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause, never shorter than the server's `Retry-After`.
    pub(crate) fn pause(&mut self, retry_after: Option<Duration>) -> Duration {
        let full = self.next;
        self.next = (self.next * 2).min(self.longest);
        let jittered = jittered(full, 0.5);
        retry_after.map_or(jittered, |least| least.max(jittered))
    }
}

/// A time shortened at random by up to this fraction (`0.0..1.0`) of it.
pub(crate) fn jittered(full: Duration, fraction: f64) -> Duration {
    full.saturating_sub(full.mul_f64(fraction * unit_random()))
}

/// A number in `0.0..1.0`. The keys of std's hashers are random, and jitter needs no better randomness.
fn unit_random() -> f64 {
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Repeats a request while its errors are transient, for at most `budget` from now. Only for requests that may be
/// sent twice. The first 401 counts as transient, too: an expired token is renewed before the next request.
///
/// # Errors
/// The first error that is not transient, or the last one within the budget.
pub(crate) async fn with_budget<T, F>(budget: Duration, attempt: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    despite_refusals(budget, Duration::ZERO, attempt).await
}

/// The same, and every 403 counts as transient for as long as `refused`: for what must not be left undone because a server
/// does not know its Roles yet.
///
/// # Errors
/// As [`with_budget`]. A 403 says for how long it was repeated.
pub(crate) async fn despite_refusals<T, F>(
    budget: Duration,
    refused: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let started = Instant::now();
    let refused_until = started + refused.min(budget);
    let deadline = started + budget;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut unauthorized = false;
    let mut first_refusal = None;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let is_repeated = match error.kind {
            ApiErrorKind::Forbidden => {
                first_refusal.get_or_insert_with(Instant::now);
                error.doubted || Instant::now() < refused_until
            }
            ApiErrorKind::Unauthorized => !std::mem::replace(&mut unauthorized, true),
            _ => error.is_transient(),
        };
        let pause = backoff.pause(error.retry_after);
        if !is_repeated || Instant::now() + pause > deadline {
            return Err(since(first_refusal, error));
        }
        tokio::time::sleep(pause).await;
    }
}

/// The last error; a 403 that was repeated says for how long.
fn since(first_refusal: Option<Instant>, mut error: ApiError) -> ApiError {
    let seconds = first_refusal.map_or(0, |first| first.elapsed().as_secs());
    if error.kind == ApiErrorKind::Forbidden && seconds > 0 {
        let _ = write!(error.message, " (refused for {seconds}s)");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::super::ApiErrorKind;
    use super::*;

    fn error(code: u16) -> ApiError {
        ApiError::from_answer("get job", code, None, b"")
    }

    #[tokio::test(start_paused = true)]
    async fn transient_error_is_retried_and_other_error_is_not() {
        let mut answers = vec![Err(error(503)), Err(error(429)), Ok(5)].into_iter();
        let got = with_budget(Duration::from_secs(60), || {
            let answer = answers.next().expect("one request too many");
            async move { answer }
        })
        .await;
        assert_eq!(got.map_err(|error| error.kind), Ok(5));

        let mut calls = 0;
        let got: Result<(), _> = with_budget(Duration::from_secs(60), || {
            calls += 1;
            async { Err(error(403)) }
        })
        .await;
        assert_eq!((got.map_err(|error| error.kind), calls), (Err(ApiErrorKind::Forbidden), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_is_repeated_for_its_limit_and_says_how_long() {
        let mut calls = 0;
        let (budget, refused) = (Duration::from_secs(15), Duration::from_secs(10));
        let got: Result<(), _> = despite_refusals(budget, refused, || {
            calls += 1;
            async { Err(error(403)) }
        })
        .await;
        let text = got.expect_err("refused").to_string();
        assert!(text.starts_with("HTTP-Code: 403 Message: no body (refused for 1"), "{text}");
        assert!((6..=9).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn first_401_is_retried_and_second_is_not() {
        for (answers, expected) in [
            (vec![401, 0], Ok(())),
            (vec![503, 401, 429, 0], Ok(())),
            (vec![401, 401], Err(ApiErrorKind::Unauthorized)),
            (vec![401, 503, 401], Err(ApiErrorKind::Unauthorized)),
            (vec![401, 403], Err(ApiErrorKind::Forbidden)),
        ] {
            let mut left = answers.iter();
            let got = with_budget(Duration::from_secs(60), || {
                let code = *left.next().expect("one request too many");
                async move { if code == 0 { Ok(()) } else { Err(error(code)) } }
            })
            .await;
            assert_eq!(got.map_err(|error| error.kind), expected, "{answers:?}");
            assert_eq!(left.len(), 0, "{answers:?}: every answer was used");
        }
        // It is retried after a pause, within the budget.
        let got = with_budget(Duration::ZERO, || async { Err::<(), _>(error(401)) }).await;
        assert_eq!(got.map_err(|error| error.kind), Err(ApiErrorKind::Unauthorized));
    }

    #[tokio::test(start_paused = true)]
    async fn budget_bounds_all_attempts_and_retry_after_is_honoured() {
        let started = Instant::now();
        let mut calls = 0;
        let got: Result<(), _> = with_budget(Duration::from_secs(10), || {
            calls += 1;
            async { Err(ApiError { retry_after: Some(Duration::from_secs(4)), ..error(429) }) }
        })
        .await;
        assert!(got.is_err());
        assert_eq!(calls, 3, "at 0, 4 and 8 s");
        assert!(started.elapsed() <= Duration::from_secs(10));
    }

    #[test]
    fn pauses_grow_to_the_longest_and_reset_on_progress() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
        for most in [100, 200, 400, 400] {
            let pause = backoff.pause(None);
            assert!(
                pause <= Duration::from_millis(most) && pause >= Duration::from_millis(most / 2),
                "{pause:?}"
            );
        }
        backoff.reset();
        assert!(backoff.pause(None) <= Duration::from_millis(100));
    }
}
