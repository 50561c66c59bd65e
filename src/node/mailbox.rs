//! Where the runs of an environment leave messages for its JavaScript.
//!
//! The event loop of Node checks every threadsafe function there is whenever one of them is called, and waking it costs
//! more than handling what a run has to say. So there is one such function per environment, which carries nothing:
//! messages wait in the mailbox; JavaScript is woken, takes all of them and answers them by number. While there is much
//! output it is woken at most every [`WAKE_INTERVAL`], for many runs at once. A promise of this side would have such a
//! function of its own, so the end of a run is a message, too.

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

/// The time between two wakes for log output. A wake for anything else, or for much output, is not delayed.
const WAKE_INTERVAL: Duration = Duration::from_millis(4);
/// This much waiting text wakes JavaScript at once.
const URGENT_BYTES: usize = 64 * 1024;
/// How much text one `take` returns. With the 128 messages that JavaScript takes it is about a millisecond's work; then
/// the event loop has its turn.
const BATCH_BYTES: usize = 512 * 1024;

/// Wakes JavaScript. Weak: it does not hold the process open.
type WakeFunction =
    ThreadsafeFunction<(), (), (), Status, /* callee handled */ false, /* weak */ true>;

/// What a run asks its host in JavaScript to do.
#[derive(Debug)]
pub(super) enum Message {
    /// Call `onLog`, after every chunk that the run has logged before.
    Log(StdStream, String),
    /// Call `onMeta`, with its argument as JSON.
    Meta(String),
    /// Call `onEvent`, with its argument as JSON. Answer with `taken` where there is one.
    Event(String),
    /// Answer with what the host's helpers say, as JSON.
    Prepare,
    /// Link a skill's folder, as JSON `[source, target]`.
    Link(String),
    /// Call `onRuntimeProgress` with this line.
    Progress(String),
    /// The run is over, with this result as JSON.
    Result(String),
    /// The run is over, and this text says why it has no result.
    Failed(String),
}

impl Message {
    /// Its index in [`Mailbox::kinds`].
    fn kind(&self) -> u32 {
        match self {
            Message::Log(StdStream::Stdout, _) => 0,
            Message::Log(StdStream::Stderr, _) => 1,
            Message::Meta(_) => 2,
            Message::Prepare => 3,
            Message::Link(_) => 4,
            Message::Progress(_) => 5,
            Message::Event(_) => 6,
            Message::Result(_) => 7,
            Message::Failed(_) => 8,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Message::Log(_, text)
            | Message::Meta(text)
            | Message::Link(text)
            | Message::Progress(text)
            | Message::Event(text)
            | Message::Result(text)
            | Message::Failed(text) => text.len(),
            Message::Prepare => 0,
        }
    }

    fn may_be_delayed(&self) -> bool {
        matches!(self, Message::Log(..) | Message::Progress(_))
    }
}

/// An answer: a text (`None` where there is nothing to say), or the text of an error.
type Answer = Result<Option<String>, String>;

/// Who gets the answer to a message.
enum Sender {
    /// A stage of the run that waits for it.
    Stage(oneshot::Sender<Answer>),
    /// The run's log.
    Log(Delivery),
}

impl Sender {
    fn notify(self, answer: Answer) {
        match (self, answer) {
            // A run that was given up does not wait any more.
            (Sender::Stage(sender), answer) => drop(sender.send(answer)),
            (Sender::Log(delivery), Ok(_)) => drop(delivery),
            (Sender::Log(delivery), Err(error)) => delivery.rejected(&HostError(error)),
        }
    }
}

/// A message on its way.
struct Letter {
    number: u32,
    run: u32,
    message: Message,
}

/// Whether JavaScript knows that messages wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// None wait.
    Idle,
    /// It will be woken when [`WAKE_INTERVAL`] has passed.
    Planned,
    /// It was woken, or is about to take more by itself.
    Done,
}

struct State {
    waiting: VecDeque<Letter>,
    /// The bytes of text that wait.
    bytes: usize,
    /// Who waits for an answer, by the number of the message, and of which run it is.
    senders: HashMap<u32, (u32, Sender)>,
    last_number: u32,
    wake: Wake,
    taken_at: Option<Instant>,
    /// The environment is gone.
    closed: bool,
}

/// The runs' end of a mailbox.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: WakeFunction,
}

impl Queue {
    /// Sends a message and waits for its answer.
    pub(super) async fn ask(
        self: &Arc<Self>,
        run: u32,
        message: Message,
    ) -> Result<Option<String>, HostError> {
        let lost = || HostError("the environment of this run is gone".to_owned());
        let (sender, answer) = oneshot::channel();
        self.put(run, message, Sender::Stage(sender));
        answer.await.map_err(|_| lost())?.map_err(HostError)
    }

    /// Hands over how a run ended. What the host has not taken of the run until then is not taken any more.
    pub(super) async fn end(self: &Arc<Self>, run: u32, end: Message) {
        self.forget(run);
        if let Err(error) = self.ask(run, end).await {
            // A result that JavaScript cannot hold. Where its environment is gone this is lost as well.
            let _ = self.ask(run, Message::Failed(error.to_string())).await;
        }
    }

    /// Sends a message whose answer does not matter.
    pub(super) fn send(self: &Arc<Self>, run: u32, message: Message) {
        self.put(run, message, Sender::Stage(oneshot::channel().0));
    }

    /// Sends a chunk of log. `delivery` is dropped when the host has taken it.
    pub(super) fn log(self: &Arc<Self>, run: u32, stream: StdStream, text: String, delivery: Delivery) {
        self.put(run, Message::Log(stream, text), Sender::Log(delivery));
    }

    fn put(self: &Arc<Self>, run: u32, message: Message, sender: Sender) {
        let may_be_delayed = message.may_be_delayed();
        let delay = {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            state.last_number = state.last_number.wrapping_add(1);
            let number = state.last_number;
            state.senders.insert(number, (run, sender));
            state.bytes += message.bytes();
            state.waiting.push_back(Letter { number, run, message });
            let may_be_delayed = may_be_delayed && state.bytes < URGENT_BYTES;
            let delay = state.taken_at.and_then(|at| WAKE_INTERVAL.checked_sub(at.elapsed()));
            match (state.wake, delay.filter(|_| may_be_delayed)) {
                (Wake::Done, _) | (Wake::Planned, Some(_)) => return,
                (Wake::Idle, Some(delay)) => {
                    state.wake = Wake::Planned;
                    Some(delay)
                }
                (Wake::Idle | Wake::Planned, None) => {
                    state.wake = Wake::Done;
                    None
                }
            }
        };
        match delay {
            None => self.wake(),
            Some(delay) => {
                let queue = self.clone();
                super::runtime().spawn(async move {
                    tokio::time::sleep(delay).await;
                    queue.wake_if_planned();
                });
            }
        }
    }

    fn wake_if_planned(&self) {
        let planned = {
            let mut state = self.lock();
            let planned = state.wake == Wake::Planned;
            if planned {
                state.wake = Wake::Done;
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

    /// Drops every message and every sender: those that wait learn that there will be no answer.
    fn close(&self) {
        let (waiting, senders) = {
            let mut state = self.lock();
            state.closed = true;
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.senders))
        };
        drop((waiting, senders));
    }

    fn answer(&self, number: u32, answer: Answer) {
        let sender = self.lock().senders.remove(&number);
        if let Some((_, sender)) = sender {
            sender.notify(answer);
        }
    }

    /// Drops what a run that is over has left: a host that never answers must not keep anything of it.
    pub(super) fn forget(&self, run: u32) {
        let (letters, senders) = {
            let mut state = self.lock();
            let (letters, others): (VecDeque<Letter>, _) =
                std::mem::take(&mut state.waiting).into_iter().partition(|letter| letter.run == run);
            state.waiting = others;
            state.bytes -= letters.iter().map(|letter| letter.message.bytes()).sum::<usize>();
            let senders: Vec<_> = state.senders.extract_if(|_, (of, _)| *of == run).collect();
            (letters, senders)
        };
        drop((letters, senders));
    }

    /// Answers messages to which there is nothing to say.
    fn done(&self, numbers: &[u32]) {
        let senders: Vec<(u32, Sender)> = {
            let mut state = self.lock();
            numbers.iter().filter_map(|number| state.senders.remove(number)).collect()
        };
        senders.into_iter().for_each(|(_, sender)| sender.notify(Ok(None)));
    }

    /// The next messages, at most `limit` and about [`BATCH_BYTES`] of text, and whether more wait.
    fn take(&self, limit: usize) -> (Vec<Letter>, bool) {
        let mut state = self.lock();
        let mut bytes = 0;
        let count = state
            .waiting
            .iter()
            .take(limit)
            .take_while(|letter| {
                let fits = bytes < BATCH_BYTES;
                bytes += letter.message.bytes();
                fits
            })
            .count();
        let taken: Vec<Letter> = state.waiting.drain(..count).collect();
        state.bytes -= taken.iter().map(|letter| letter.message.bytes()).sum::<usize>();
        let more = !state.waiting.is_empty();
        state.wake = if more { Wake::Done } else { Wake::Idle };
        state.taken_at = Some(Instant::now());
        (taken, more)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a run when it is dropped.
pub(super) struct Forget {
    pub(super) queue: Arc<Queue>,
    pub(super) run: u32,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.queue.forget(self.run);
    }
}

/// Where the runs of this environment leave messages for JavaScript.
#[napi]
pub struct Mailbox {
    queue: Arc<Queue>,
}

#[napi]
impl Mailbox {
    /// An empty mailbox. `wake` is called when messages wait in it, and then has to `take` them.
    #[napi(constructor, catch_unwind)]
    pub fn new(#[napi(ts_arg_type = "() => void")] wake: WakeFunction) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            senders: HashMap::new(),
            last_number: 0,
            wake: Wake::Idle,
            taken_at: None,
            closed: false,
        };
        Self { queue: Arc::new(Queue { state: Mutex::new(state), wake }) }
    }

    /// The kinds of messages, which [`Mailbox::take`] gives by index: the two streams of the log, what the host is asked to
    /// do, the two ends of a run, and a message that was refused already, because JavaScript cannot hold its text.
    #[napi(catch_unwind)]
    pub fn kinds() -> Vec<&'static str> {
        vec![
            "stdout", "stderr", "meta", "prepare", "link", "progress", "event", "result", "failed", "refused",
        ]
    }

    /// The texts of the next messages. `headers` gets 1 if more messages are left for another turn of the event loop,
    /// else 0, and then three numbers per text: the message's own, its run's, and the index of its kind. So its length
    /// limits how many messages are taken.
    #[napi(catch_unwind, ts_return_type = "string[]")]
    pub fn take<'env>(&self, env: &'env Env, mut headers: Uint32ArraySlice<'_>) -> napi::Result<Array<'env>> {
        // SAFETY: only JavaScript has this array too, and it does not run before this returns.
        #[expect(unsafe_code, reason = "napi-rs cannot know that JavaScript does not write meanwhile")]
        let headers = unsafe { headers.as_mut() };
        let (more, headers) = headers
            .split_first_mut()
            .ok_or_else(|| napi::Error::from_reason("the array for the headers is empty"))?;
        let headers = headers.as_chunks_mut::<3>().0;
        let (taken, is_more) = self.queue.take(headers.len());
        *more = is_more.into();
        let numbers: Vec<u32> = taken.iter().map(|letter| letter.number).collect();
        texts_of(env, taken, headers, &self.queue).inspect_err(|error| {
            // The messages are lost, and those who wait for an answer must learn it.
            for number in numbers {
                self.queue.answer(number, Err(error.reason.clone()));
            }
        })
    }

    /// Answers a message.
    #[napi(catch_unwind)]
    pub fn answer(&self, number: u32, text: Option<String>) {
        self.queue.answer(number, Ok(text));
    }

    /// Answers a message with the text of an error.
    #[napi(catch_unwind)]
    pub fn fail(&self, number: u32, error: String) {
        self.queue.answer(number, Err(error));
    }

    /// Answers the first `count` of these messages, to which there is nothing to say.
    #[napi(catch_unwind)]
    pub fn done(&self, numbers: &[u32], count: u32) {
        self.queue.done(numbers.get(..count as usize).unwrap_or(numbers));
    }
}

impl Mailbox {
    pub(super) fn queue(&self) -> Arc<Queue> {
        self.queue.clone()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The index of the kind of a message that was refused.
const REFUSED: u32 = 9;

/// An array of the messages' texts. A text that cannot be made fails its own message alone.
fn texts_of<'env>(
    env: &'env Env,
    taken: Vec<Letter>,
    headers: &mut [[u32; 3]],
    queue: &Queue,
) -> napi::Result<Array<'env>> {
    let mut wide = Vec::new();
    let mut chunks = Vec::new();
    let mut texts = env.create_array(u32::try_from(taken.len()).unwrap_or(0))?;
    for ((at, Letter { number, run, message }), header) in (0..).zip(taken).zip(headers) {
        *header = [number, run, message.kind()];
        let (text, is_chunk) = match message {
            Message::Log(_, text) => (text, true),
            Message::Meta(text)
            | Message::Link(text)
            | Message::Progress(text)
            | Message::Event(text)
            | Message::Result(text)
            | Message::Failed(text) => (text, false),
            Message::Prepare => continue,
        };
        if let Err(error) = set_text(env, &mut texts, at, &text, &mut wide) {
            let bytes = text.len();
            header[2] = REFUSED;
            set_text(env, &mut texts, at, "", &mut wide)?;
            queue.answer(
                number,
                Err(format!("a text of {bytes} bytes cannot be handed over: {}", error.reason)),
            );
        }
        if is_chunk {
            chunks.push(text);
        }
    }
    recycle(chunks);
    Ok(texts)
}

/// A longer text is handed over as it is: in UTF-16 it would be in memory twice more.
const MOST_WIDE: usize = 1024 * 1024;

/// Puts a text into the array. The engine copies ASCII without decoding it. Other text is handed over in UTF-16, the form
/// that the engine keeps: it decodes UTF-8 more slowly than `utf16` encodes it. `wide` is the buffer for that.
fn set_text(env: &Env, array: &mut Array<'_>, at: u32, text: &str, wide: &mut Vec<u16>) -> napi::Result<()> {
    if text.is_ascii() {
        array.set(at, env.create_string_latin1(text)?)
    } else if text.len() > MOST_WIDE {
        array.set(at, env.create_string(text)?)
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

/// The number of ASCII bytes at the start.
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
        fn utf16_equals_that_of_the_standard_library(text in "([a-z]{0,20}(\\PC|😀|é){0,3}){0,6}") {
            let mut wide = vec![7];
            super::utf16(&text, &mut wide);
            prop_assert_eq!(wide, text.encode_utf16().collect::<Vec<_>>());
        }
    }
}
