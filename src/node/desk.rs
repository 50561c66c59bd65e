//! Where the runs of an environment and its JavaScript meet.
//!
//! The event loop of Node looks at each threadsafe function there is whenever one of them is called, and waking it
//! costs more than what a run has to tell. So there is one such function per environment, which carries nothing:
//! questions wait on the desk, JavaScript is woken, takes them all and answers them by number. While there is much
//! to tell it is woken at most every [`PAUSE`], for many runs at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use napi::bindgen_prelude::Array;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;

use crate::run::{Channel, HostError};

/// Between two calls of JavaScript for log output; what a run waits for is asked at once, and so is much output.
const PAUSE: Duration = Duration::from_millis(4);
const MUCH: usize = 64 * 1024;
/// How much is taken at once: about a millisecond's work, then the event loop has its turn.
const MOST_QUESTIONS: usize = 128;
const MOST_BYTES: usize = 512 * 1024;

/// Wakes JavaScript. Weak: it does not hold the process open.
type WakeFunction =
    ThreadsafeFunction<(), (), (), Status, /* callee handled */ false, /* weak */ true>;

/// What a run asks of JavaScript, or tells it.
#[derive(Debug)]
pub(super) enum Question {
    /// `onLog` for each text, one after the other.
    Log(Vec<(Channel, String)>),
    /// `onMeta`, with its argument as JSON.
    Meta(String),
    /// The answers of the host's helpers.
    Prepare,
    /// A prompt bundle; the order as JSON.
    Bundle(String),
    /// The run is over: its result as JSON, or why there is none. Nobody waits for an answer.
    Done(Result<String, String>),
}

impl Question {
    fn kind(&self) -> &'static str {
        match self {
            Question::Log(_) => "log",
            Question::Meta(_) => "meta",
            Question::Prepare => "prepare",
            Question::Bundle(_) => "bundle",
            Question::Done(Ok(_)) => "result",
            Question::Done(Err(_)) => "error",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Question::Log(texts) => texts.iter().map(|(_, text)| text.len()).sum(),
            Question::Meta(text) | Question::Bundle(text) => text.len(),
            Question::Prepare => 0,
            Question::Done(Ok(text) | Err(text)) => text.len(),
        }
    }

    fn can_wait(&self) -> bool {
        matches!(self, Question::Log(_))
    }
}

/// An answer: a text (`None` where there is nothing to say), or the text of an error.
type Answer = Result<Option<String>, String>;

struct Waiting {
    call: u32,
    run: u32,
    question: Question,
}

/// Whether JavaScript knows that something waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Nothing waits.
    No,
    /// It will be called soon.
    Planned,
    /// It was called, or is about to look again by itself.
    Made,
}

struct State {
    waiting: VecDeque<Waiting>,
    /// Of the texts that wait.
    bytes: usize,
    answers: HashMap<u32, oneshot::Sender<Answer>>,
    last_call: u32,
    call: Call,
    taken_at: Option<Instant>,
    /// The environment is gone.
    closed: bool,
}

/// The Rust side of a desk.
pub(super) struct Questions {
    state: Mutex<State>,
    wake: WakeFunction,
}

impl Questions {
    /// Asks and waits for the answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        run: u32,
        question: Question,
    ) -> Result<Option<String>, HostError> {
        let lost = || HostError("the environment of this run is gone".to_owned());
        let answer = self.put(run, question, true).ok_or_else(lost)?;
        answer.await.map_err(|_| lost())?.map_err(HostError)
    }

    /// Tells something that needs no answer.
    pub(super) fn tell(self: &Arc<Self>, run: u32, question: Question) {
        self.put(run, question, false);
    }

    fn put(
        self: &Arc<Self>,
        run: u32,
        question: Question,
        answered: bool,
    ) -> Option<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        let can_wait = question.can_wait();
        let now = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            state.last_call = state.last_call.wrapping_add(1);
            let call = state.last_call;
            if answered {
                state.answers.insert(call, sender);
            }
            state.bytes += question.bytes();
            state.waiting.push_back(Waiting { call, run, question });
            let can_wait = can_wait && state.bytes < MUCH;
            let rest = state.taken_at.and_then(|at| PAUSE.checked_sub(at.elapsed())).filter(|_| can_wait);
            match (state.call, rest) {
                (Call::Made, _) | (Call::Planned, Some(_)) => return Some(receiver),
                (Call::No, Some(rest)) => {
                    state.call = Call::Planned;
                    Some(rest)
                }
                (Call::No | Call::Planned, None) => {
                    state.call = Call::Made;
                    None
                }
            }
        };
        match now {
            None => self.wake(),
            Some(rest) => {
                let desk = self.clone();
                super::runtime().spawn(async move {
                    tokio::time::sleep(rest).await;
                    desk.wake_if_planned();
                });
            }
        }
        Some(receiver)
    }

    fn wake_if_planned(&self) {
        let planned = {
            let mut state = self.lock();
            let planned = state.call == Call::Planned;
            if planned {
                state.call = Call::Made;
            }
            planned
        };
        if planned {
            self.wake();
        }
    }

    fn wake(&self) {
        if self.wake.call((), ThreadsafeFunctionCallMode::NonBlocking) != Status::Ok {
            self.close();
        }
    }

    /// Whoever waits for an answer gets none any more.
    fn close(&self) {
        let (waiting, answers) = {
            let mut state = self.lock();
            state.closed = true;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.answers))
        };
        drop((waiting, answers));
    }

    fn answer(&self, call: u32, answer: Answer) {
        let sender = self.lock().answers.remove(&call);
        if let Some(sender) = sender {
            // A run that was given up asks no more.
            let _ = sender.send(answer);
        }
    }

    /// What waits, as much as may be taken at once, and whether there is more.
    fn take(&self) -> (Vec<Waiting>, bool) {
        let mut state = self.lock();
        let mut bytes = 0;
        let count = state
            .waiting
            .iter()
            .take(MOST_QUESTIONS)
            .take_while(|waiting| {
                let room = bytes < MOST_BYTES;
                bytes += waiting.question.bytes();
                room
            })
            .count();
        let taken: Vec<Waiting> = state.waiting.drain(..count).collect();
        state.bytes -= taken.iter().map(|waiting| waiting.question.bytes()).sum::<usize>();
        let more = !state.waiting.is_empty();
        state.call = if more { Call::Made } else { Call::No };
        state.taken_at = Some(Instant::now());
        (taken, more)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the runs of this environment leave what they ask of JavaScript.
#[napi]
pub struct Desk {
    questions: Arc<Questions>,
}

#[napi]
impl Desk {
    /// A desk; `wake` is called when something waits on it, and is to `take` it.
    #[napi(constructor)]
    pub fn new(#[napi(ts_arg_type = "() => void")] wake: WakeFunction) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            answers: HashMap::new(),
            last_call: 0,
            call: Call::No,
            taken_at: None,
            closed: false,
        };
        Self { questions: Arc::new(Questions { state: Mutex::new(state), wake }) }
    }

    /// What waits: whether there is more to be taken in another turn of the event loop, then for each question
    /// its number, its run, its kind (`log`, `meta`, `prepare`, `bundle`, `result`, `error`) and its text; for
    /// `log` an array of streams and texts.
    #[napi(ts_return_type = "unknown[]")]
    pub fn take<'env>(&self, env: &'env Env) -> napi::Result<Array<'env>> {
        let (taken, more) = self.questions.take();
        let mut out = env.create_array(1 + 4 * u32::try_from(taken.len()).unwrap_or(0))?;
        out.set(0, more)?;
        for (at, Waiting { call, run, question }) in (1..).step_by(4).zip(taken) {
            out.set(at, call)?;
            out.set(at + 1, run)?;
            out.set(at + 2, question.kind())?;
            match question {
                Question::Log(texts) => {
                    let mut list = env.create_array(2 * u32::try_from(texts.len()).unwrap_or(0))?;
                    for (at, (channel, text)) in (0..).step_by(2).zip(texts) {
                        list.set(at, channel.as_str())?;
                        set_text(env, &mut list, at + 1, &text)?;
                    }
                    out.set(at + 3, list)?;
                }
                Question::Meta(text) | Question::Bundle(text) | Question::Done(Ok(text) | Err(text)) => {
                    set_text(env, &mut out, at + 3, &text)?;
                }
                Question::Prepare => {}
            }
        }
        Ok(out)
    }

    /// Answers a question.
    #[napi(catch_unwind)]
    pub fn answer(&self, call: u32, text: Option<String>) {
        self.questions.answer(call, Ok(text));
    }

    /// Answers a question with the text of an error.
    #[napi(catch_unwind)]
    pub fn fail(&self, call: u32, error: String) {
        self.questions.answer(call, Err(error));
    }

    /// Answers many questions that have nothing to say.
    #[napi(catch_unwind)]
    pub fn done(&self, calls: &[u32]) {
        for call in calls {
            self.questions.answer(*call, Ok(None));
        }
    }
}

impl Desk {
    pub(super) fn questions(&self) -> Arc<Questions> {
        self.questions.clone()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.questions.close();
    }
}

/// A text that is ASCII is copied into the engine without being decoded; of another it is told the UTF-16 that it
/// keeps, because it decodes UTF-8 more slowly than that is made here.
fn set_text(env: &Env, array: &mut Array<'_>, at: u32, text: &str) -> napi::Result<()> {
    if text.is_ascii() {
        array.set(at, env.create_string_latin1(text)?)
    } else {
        array.set(at, env.create_string_utf16(utf16(text))?)
    }
}

/// As `str::encode_utf16`, with the runs of ASCII between other characters widened many at a time.
fn utf16(text: &str) -> Vec<u16> {
    let mut wide = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let ascii = rest.bytes().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        wide.extend(rest.as_bytes()[..ascii].iter().map(|byte| u16::from(*byte)));
        rest = &rest[ascii..];
        let other = rest.find(|c: char| c.is_ascii()).unwrap_or(rest.len());
        wide.extend(rest[..other].encode_utf16());
        rest = &rest[other..];
    }
    wide
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn utf16_is_what_the_standard_library_makes(text in "([a-z]{0,20}(\\PC|😀|é){0,3}){0,6}") {
            prop_assert_eq!(super::utf16(&text), text.encode_utf16().collect::<Vec<_>>());
        }
    }
}
