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
use napi::bindgen_prelude::{Array, Uint32ArraySlice};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;

use crate::outcome::StdStream;
use crate::run::{Delivery, HostError, recycle};

/// Between two calls of JavaScript for log output; what a run waits for is asked at once, and so is much output.
const PAUSE: Duration = Duration::from_millis(4);
const MUCH: usize = 64 * 1024;
/// How much is taken at once: with the 128 questions that JavaScript takes about a millisecond's work, then the event
/// loop has its turn.
const MOST_BYTES: usize = 512 * 1024;

/// Wakes JavaScript. Weak: it does not hold the process open.
type WakeFunction =
    ThreadsafeFunction<(), (), (), Status, /* callee handled */ false, /* weak */ true>;

/// What a run asks of JavaScript, or tells it.
#[derive(Debug)]
pub(super) enum Question {
    /// `onLog`, after all that the run has told before.
    Log(StdStream, String),
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
    /// Its place in [`Desk::kinds`].
    fn kind(&self) -> u32 {
        match self {
            Question::Log(StdStream::Stdout, _) => 0,
            Question::Log(StdStream::Stderr, _) => 1,
            Question::Meta(_) => 2,
            Question::Prepare => 3,
            Question::Bundle(_) => 4,
            Question::Done(Ok(_)) => 5,
            Question::Done(Err(_)) => 6,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Question::Log(_, text) | Question::Meta(text) | Question::Bundle(text) => text.len(),
            Question::Prepare => 0,
            Question::Done(Ok(text) | Err(text)) => text.len(),
        }
    }

    fn can_wait(&self) -> bool {
        matches!(self, Question::Log(..))
    }
}

/// An answer: a text (`None` where there is nothing to say), or the text of an error.
type Answer = Result<Option<String>, String>;

/// Who is to be told the answer.
enum Asker {
    Waits(oneshot::Sender<Answer>),
    Hands(Delivery),
}

impl Asker {
    fn tell(self, answer: Answer) {
        match (self, answer) {
            // A run that was given up asks no more.
            (Asker::Waits(sender), answer) => drop(sender.send(answer)),
            (Asker::Hands(delivery), Ok(_)) => drop(delivery),
            (Asker::Hands(delivery), Err(error)) => delivery.rejected(&HostError(error)),
        }
    }
}

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
    askers: HashMap<u32, Asker>,
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
        let (sender, answer) = oneshot::channel();
        self.put(run, question, Some(Asker::Waits(sender)));
        answer.await.map_err(|_| lost())?.map_err(HostError)
    }

    /// Hands over a chunk of log.
    pub(super) fn log(self: &Arc<Self>, run: u32, stream: StdStream, text: String, delivery: Delivery) {
        self.put(run, Question::Log(stream, text), Some(Asker::Hands(delivery)));
    }

    /// Tells something that needs no answer.
    pub(super) fn tell(self: &Arc<Self>, run: u32, question: Question) {
        self.put(run, question, None);
    }

    fn put(self: &Arc<Self>, run: u32, question: Question, asker: Option<Asker>) {
        let can_wait = question.can_wait();
        let now = {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            state.last_call = state.last_call.wrapping_add(1);
            let call = state.last_call;
            if let Some(asker) = asker {
                state.askers.insert(call, asker);
            }
            state.bytes += question.bytes();
            state.waiting.push_back(Waiting { call, run, question });
            let can_wait = can_wait && state.bytes < MUCH;
            let rest = state.taken_at.and_then(|at| PAUSE.checked_sub(at.elapsed())).filter(|_| can_wait);
            match (state.call, rest) {
                (Call::Made, _) | (Call::Planned, Some(_)) => return,
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
        let (waiting, askers) = {
            let mut state = self.lock();
            state.closed = true;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.askers))
        };
        drop((waiting, askers));
    }

    fn answer(&self, call: u32, answer: Answer) {
        let asker = self.lock().askers.remove(&call);
        if let Some(asker) = asker {
            asker.tell(answer);
        }
    }

    /// Answers many that have nothing to say.
    fn done(&self, calls: &[u32]) {
        let askers: Vec<Asker> = {
            let mut state = self.lock();
            calls.iter().filter_map(|call| state.askers.remove(call)).collect()
        };
        askers.into_iter().for_each(|asker| asker.tell(Ok(None)));
    }

    /// What waits, as much as may be taken at once and at most so many, and whether there is more.
    fn take(&self, most: usize) -> (Vec<Waiting>, bool) {
        let mut state = self.lock();
        let mut bytes = 0;
        let count = state
            .waiting
            .iter()
            .take(most)
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
    #[napi(constructor, catch_unwind)]
    pub fn new(#[napi(ts_arg_type = "() => void")] wake: WakeFunction) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            askers: HashMap::new(),
            last_call: 0,
            call: Call::No,
            taken_at: None,
            closed: false,
        };
        Self { questions: Arc::new(Questions { state: Mutex::new(state), wake }) }
    }

    /// The kinds of questions that [`Desk::take`] tells by number: the log's two streams, what the host is asked, and
    /// how a run ends.
    #[napi(catch_unwind)]
    pub fn kinds() -> Vec<&'static str> {
        vec!["stdout", "stderr", "meta", "prepare", "bundle", "result", "error"]
    }

    /// What waits, as texts. `heads` gets whether there is more to be taken in another turn of the event loop, then for
    /// each text the number of the question, that of its run, and its kind; so its length limits how many are taken.
    #[napi(catch_unwind, ts_return_type = "string[]")]
    pub fn take<'env>(&self, env: &'env Env, mut heads: Uint32ArraySlice<'_>) -> napi::Result<Array<'env>> {
        // SAFETY: JavaScript, which alone has this array too, does not run meanwhile.
        #[expect(unsafe_code, reason = "napi-rs cannot know that JavaScript does not write meanwhile")]
        let heads = unsafe { heads.as_mut() };
        let (more, heads) =
            heads.split_first_mut().ok_or_else(|| napi::Error::from_reason("no room for the heads"))?;
        let room = heads.as_chunks_mut::<3>().0;
        let (taken, is_more) = self.questions.take(room.len());
        *more = is_more.into();
        let mut wide = Vec::new();
        let mut told = Vec::new();
        let mut texts = env.create_array(u32::try_from(taken.len()).unwrap_or(0))?;
        for ((at, Waiting { call, run, question }), head) in (0..).zip(taken).zip(room) {
            *head = [call, run, question.kind()];
            match question {
                Question::Log(_, text) => {
                    set_text(env, &mut texts, at, &text, &mut wide)?;
                    told.push(text);
                }
                Question::Meta(text) | Question::Bundle(text) | Question::Done(Ok(text) | Err(text)) => {
                    set_text(env, &mut texts, at, &text, &mut wide)?;
                }
                Question::Prepare => {}
            }
        }
        recycle(told);
        Ok(texts)
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

    /// Answers the first `count` of these questions, which have nothing to say.
    #[napi(catch_unwind)]
    pub fn done(&self, calls: &[u32], count: u32) {
        self.questions.done(calls.get(..count as usize).unwrap_or(calls));
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
/// keeps, because it decodes UTF-8 more slowly than that is made here; `wide` is room for that.
fn set_text(env: &Env, array: &mut Array<'_>, at: u32, text: &str, wide: &mut Vec<u16>) -> napi::Result<()> {
    if text.is_ascii() {
        array.set(at, env.create_string_latin1(text)?)
    } else {
        utf16(text, wide);
        array.set(at, env.create_string_utf16(&wide[..])?)
    }
}

/// As `str::encode_utf16`, with the runs of ASCII between other characters widened many at a time.
fn utf16(text: &str, wide: &mut Vec<u16>) {
    wide.clear();
    wide.reserve(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let ascii = ascii_length(rest.as_bytes());
        wide.extend(rest.as_bytes()[..ascii].iter().map(|byte| u16::from(*byte)));
        rest = &rest[ascii..];
        let other = rest.find(|c: char| c.is_ascii()).unwrap_or(rest.len());
        wide.extend(rest[..other].encode_utf16());
        rest = &rest[other..];
    }
}

/// How many bytes of ASCII it begins with.
fn ascii_length(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<32>();
    let whole = 32 * blocks.iter().take_while(|block| block.is_ascii()).count();
    whole + bytes[whole..].iter().take_while(|byte| byte.is_ascii()).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn utf16_is_what_the_standard_library_makes(text in "([a-z]{0,20}(\\PC|😀|é){0,3}){0,6}") {
            let mut wide = vec![7];
            super::utf16(&text, &mut wide);
            prop_assert_eq!(wide, text.encode_utf16().collect::<Vec<_>>());
        }
    }
}
