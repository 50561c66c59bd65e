//! Retrying reads: jittered, within a budget of time, and honouring what the server asks for.

use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use super::{ApiError, ApiErrorKind};

/// The pauses between attempts: doubling from `first` to `most`, each shortened by a random part of up to a
/// half, so that many runs that failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// Pauses from `first` to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, first, most }
    }

    /// Starts again with the first pause; to be called on progress.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause; never shorter than what the server asked for.
    pub fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let full = self.next;
        self.next = (self.next * 2).min(self.most);
        let jittered = jittered(full, 0.5);
        asked.map_or(jittered, |asked| asked.max(jittered))
    }
}

/// A time shortened by a random part of up to `most` (`0.0..1.0`) of it.
pub fn jittered(full: Duration, most: f64) -> Duration {
    full - full.mul_f64(most * unit_random())
}

/// A number in `0.0..1.0`. Std's hasher keys are random, which is all the randomness jitter needs.
fn unit_random() -> f64 {
    let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Repeats a read while it fails in a way that may pass, for at most `budget` from now. The last error is
/// returned. Only for requests that may be sent twice. One 401 may pass, too: a token that has expired is renewed
/// before the next request.
///
/// # Errors
/// The first error that will not pass, or the last one within the budget.
pub async fn with_budget<T, F>(budget: Duration, mut attempt: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let deadline = Instant::now() + budget;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut unauthorized = false;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if error.is_transient() => error,
            Err(error) if error.kind == ApiErrorKind::Unauthorized && !unauthorized => {
                unauthorized = true;
                error
            }
            Err(error) => return Err(error),
        };
        let pause = backoff.pause(error.retry_after);
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::ApiErrorKind;
    use super::*;

    fn error(code: u16) -> ApiError {
        ApiError::from_answer("get job", code, None, b"")
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_error_is_retried_and_a_final_one_is_not() {
        let mut answers = vec![Err(error(503)), Err(error(429)), Ok(5)].into_iter();
        let got = with_budget(Duration::from_secs(60), || {
            let answer = answers.next().expect("asked too often");
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
    async fn one_401_may_pass_and_a_second_may_not() {
        for (answers, expected) in [
            (vec![401, 0], Ok(())),
            (vec![503, 401, 429, 0], Ok(())),
            (vec![401, 401], Err(ApiErrorKind::Unauthorized)),
            (vec![401, 503, 401], Err(ApiErrorKind::Unauthorized)),
            (vec![401, 403], Err(ApiErrorKind::Forbidden)),
        ] {
            let mut left = answers.iter();
            let got = with_budget(Duration::from_secs(60), || {
                let code = *left.next().expect("asked too often");
                async move { if code == 0 { Ok(()) } else { Err(error(code)) } }
            })
            .await;
            assert_eq!(got.map_err(|error| error.kind), expected, "{answers:?}");
            assert_eq!(left.len(), 0, "{answers:?}: asked for every answer");
        }
        // It is repeated after a pause, within the budget.
        let got = with_budget(Duration::ZERO, || async { Err::<(), _>(error(401)) }).await;
        assert_eq!(got.map_err(|error| error.kind), Err(ApiErrorKind::Unauthorized));
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_bounds_the_whole_and_the_server_sets_the_pace() {
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
    fn pauses_grow_to_their_bound_and_start_again_on_progress() {
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
