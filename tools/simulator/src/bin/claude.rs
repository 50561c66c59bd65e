//! A fake of the `claude` command line program (Claude Code 2.1.197).
//!
//! In the embedded cluster a pod is a local process, whose agent container runs this
//! program as `claude`:
//!
//! ```text
//! cat prompt.txt | claude --print - --output-format stream-json --verbose [--resume ID] [--model M]
//! ```
//!
//! It reads standard input to its end, picks a *scenario*, and prints what the real
//! program printed in such a run. Everything it prints is a recorded event, or has the
//! shape of one: the recordings are in `fixtures/claude-cli-2.1.197`. Session, event,
//! message and tool ids are fresh in every run and stay consistent inside it; the
//! working directory, the model and the time are those of the run.
//!
//! The scenario is `CLAUDE_STAND_IN_SCENARIO`, else the first line `scenario: NAME` of
//! the prompt, else `success`. `claude --list-scenarios` lists all of them.
//!
//! `--resume` is honoured as in the real program: a value that is not a UUID, or an unknown
//! session, ends the run with the recorded error, whatever the scenario (except
//! those which never open a session, see [`Scenario::opens_session`]).
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | `CLAUDE_STAND_IN_SCENARIO` | `success` | the scenario, stronger than the prompt |
//! | `CLAUDE_STAND_IN_DELAY_MS` | 150 | pause between two events |
//! | `CLAUDE_STAND_IN_SECONDS` | `long` 60, `silent` 20, `slow-result` 10 | how long the scenario's wait is; fractions allowed |
//! | `CLAUDE_STAND_IN_UNTIL` | none | `long`: a file; once it exists, the wait is over |
//! | `CLAUDE_STAND_IN_HOLD` | none | `long`: a file that has to exist before the last event is printed |
//! | `CLAUDE_STAND_IN_LINES` | 100000 | `flood`: numbered lines |
//! | `CLAUDE_STAND_IN_LINE_BYTES` | 1200 | `flood`: bytes of a line, its newline included |
//! | `CLAUDE_STAND_IN_RATE` | none, as fast as possible | `flood`: lines in a second |
//! | `CLAUDE_STAND_IN_EXIT_CODE` | `exit-code` 3, `script` 0, `crash` none | exit code, 0 to 255 |
//! | `CLAUDE_STAND_IN_SIGNAL` | none | `script`: number of the signal that it dies by, instead of an exit code |
//! | `CLAUDE_STAND_IN_EVENTS` | none | `script`: what it prints, a line each; events become events of this run |
//! | `CLAUDE_STAND_IN_STDERR` | none | `script`: what it prints on stderr after its events |
//! | `CLAUDE_STAND_IN_FILES` | none | `echo-env`: a colon list of files and folders whose contents it prints |
//! | `CLAUDE_STAND_IN_ONLY_RESUMED` | off | `script`: 1 plays the success run unless it is called with `--resume` |
//! | `CLAUDE_STAND_IN_KNOWN_SESSIONS` | none, every UUID is known | file of the session ids that `--resume` finds |
//! | `CLAUDE_STAND_IN_REAL_OOM` | off | `oom`: 1 uses memory for real until the process is killed |
//! | `CLAUDE_STAND_IN_OOM_BYTES` | 4294967296 | `oom`: the most memory it uses for real |
//! | `CLAUDE_STAND_IN_SEED` | random | a number which makes the ids the same in every run |
//!
//! Exit codes of its own: 2 for an unknown scenario or a bad variable, 143 for a SIGTERM.

use nix::libc;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const VERSION: &str = "2.1.197 (Claude Code fake)";
const PREFIX: &str = "CLAUDE_STAND_IN_";
const TICK: Duration = Duration::from_millis(500);
/// Stands in a made event for the filling that brings its line to the wanted length.
const FILLING: &str = "@FILLING@";
/// Real memory use grows by this much at a time, slowly enough to be watched.
const OOM_STEP: usize = 16 << 20;
const OOM_PAUSE: Duration = Duration::from_millis(20);
/// How long the memory is held once the cap is reached.
const OOM_HOLD: Duration = Duration::from_secs(30);

// ---------------------------------------------------------------- recordings

/// What the real program printed in one run.
struct Recording {
    stdout: &'static str,
    stderr: &'static str,
}

macro_rules! recording {
    ($name:literal) => {
        Recording {
            stdout: include_str!(concat!("../../fixtures/claude-cli-2.1.197/", $name, ".jsonl")),
            stderr: include_str!(concat!("../../fixtures/claude-cli-2.1.197/", $name, ".stderr.txt")),
        }
    };
}

static SUCCESS: Recording = recording!("success");
static AUTH: Recording = recording!("auth");
static OVERLOAD: Recording = recording!("overload");
static MAX_TURNS: Recording = recording!("max-turns");
static UNREACHABLE: Recording = recording!("unreachable");
static UNKNOWN_SESSION: Recording = recording!("unknown-session");
static BAD_SESSION: Recording = recording!("bad-session");

/// The `--resume` values with which the two session errors were recorded.
const RECORDED_UNKNOWN: &str = "11111111-2222-4333-8444-555555555555";
const RECORDED_BAD: &str = "not-a-uuid";

impl Recording {
    fn events(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).expect("a recorded event is JSON");
        self.stdout.lines().map(parse).collect()
    }
}

/// One recorded event of each kind, from which other events are made.
struct Templates {
    init: Value,
    assistant: Value,
    user: Value,
    result: Value,
}

impl Templates {
    fn new() -> Self {
        let events = SUCCESS.events();
        let first = |kind: &str| {
            let found = events.iter().find(|event| event["type"] == kind);
            found.expect("success has every kind of event").clone()
        };
        Templates {
            init: first("system"),
            assistant: first("assistant"),
            user: first("user"),
            result: first("result"),
        }
    }
}

// ---------------------------------------------------------------- scenarios

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Exit {
    Code(i32),
    /// Killed by this signal, which it sends to itself.
    Signal(i32),
    /// Never by itself.
    Sleep,
    /// Uses memory until it is killed.
    EatMemory,
}

type Play = fn(&mut Player) -> io::Result<Exit>;

/// One row of the table of scenarios.
struct Scenario {
    name: &'static str,
    meaning: &'static str,
    play: Play,
    /// Checks `--resume` first, as the real program does.
    opens_session: bool,
    /// Lives on after SIGTERM, SIGINT and SIGHUP.
    stubborn: bool,
}

const fn scenario(name: &'static str, meaning: &'static str, play: Play) -> Scenario {
    Scenario { name, meaning, play, opens_session: true, stubborn: false }
}

const fn without_session(scenario: Scenario) -> Scenario {
    Scenario { opens_session: false, ..scenario }
}

const fn stubbornly(scenario: Scenario) -> Scenario {
    Scenario { stubborn: true, ..scenario }
}

static SCENARIOS: &[Scenario] = &[
    scenario("success", "recorded run with two tool calls, exit 0", play_success),
    scenario("long", "a numbered event every 500 ms for SECONDS, then the result, exit 0", play_long),
    scenario("auth", "recorded: HTTP 401, exit 1", |p| p.fail(&AUTH)),
    scenario("overload", "recorded: HTTP 529 after a retry, exit 1", |p| p.fail(&OVERLOAD)),
    scenario("max-turns", "recorded: out of turns, exit 1", |p| p.fail(&MAX_TURNS)),
    scenario("unreachable", "recorded: connection refused, exit 1", |p| p.fail(&UNREACHABLE)),
    without_session(scenario(
        "unknown-session",
        "recorded: --resume of an unknown session, exit 1",
        play_unknown_session,
    )),
    without_session(scenario(
        "bad-session",
        "recorded: --resume of something that is not a UUID, exit 1",
        play_bad_session,
    )),
    scenario("crash", "init, one assistant event, a line on stderr, then SIGSEGV or EXIT_CODE", play_crash),
    scenario("exit-code", "the success run with its result, then EXIT_CODE (3)", play_exit_code),
    scenario("oom", "init, one assistant event, then SIGKILL; REAL_OOM=1 uses the memory", play_oom),
    scenario("silent", "nothing for SECONDS, then the success run, exit 0", play_silent),
    without_session(scenario("mute", "no output at all, exit 0", |_| Ok(Exit::Code(0)))),
    scenario("flood", "LINES numbered lines of LINE_BYTES, then the result, exit 0", play_flood),
    scenario("big-line", "lines of 16 KiB (and one byte around), 1 MiB and 5 MiB, exit 0", play_big_line),
    scenario("no-newline", "the success run, no newline after the result, exit 0", play_no_newline),
    scenario("binary", "the success run, bytes that are not UTF-8 between events, exit 0", play_binary),
    scenario(
        "stderr-noise",
        "the success run, stderr between events and inside a long line, exit 0",
        play_stderr_noise,
    ),
    scenario("truncated", "init, one assistant event with tokens, then SIGKILL (137)", play_truncated),
    scenario("empty-llm", "init, an empty assistant event without tokens, no result, exit 1", play_empty_llm),
    scenario("hang", "init, then nothing until it is killed; 143 on SIGTERM", play_hang),
    stubbornly(scenario("stubborn", "as hang, but only SIGKILL ends it", play_hang)),
    without_session(scenario(
        "echo-env",
        "an event whose text is the JSON of env, argv, cwd, prompt and FILES, then the result, exit 0",
        play_echo_env,
    )),
    without_session(scenario(
        "script",
        "the lines of EVENTS, then STDERR, then EXIT_CODE (0) or SIGNAL",
        play_script,
    )),
    scenario("slow-result", "the success run, then lives for SECONDS, exit 0", play_slow_result),
];

fn find_scenario(name: &str) -> Result<&'static Scenario, String> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.ok_or_else(|| {
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        format!("unknown scenario \"{name}\", known are: {}", names.join(", "))
    })
}

/// The scenario that a line `scenario: NAME` of the prompt asks for.
fn scenario_in_prompt(prompt: &str) -> Option<&str> {
    let asked = |line: &str| line.trim_start().starts_with("scenario:");
    let names = prompt.lines().filter(|line| asked(line));
    let mut names = names.filter_map(|line| line.split_once(':')).map(|(_, name)| name.trim());
    names.find(|name| !name.is_empty() && !name.contains(char::is_whitespace))
}

fn play_success(player: &mut Player) -> io::Result<Exit> {
    player.replay(&SUCCESS)?;
    Ok(Exit::Code(0))
}

fn play_long(player: &mut Player) -> io::Result<Exit> {
    let seconds = player.settings.seconds_or(60);
    let ticks = (seconds.as_secs_f64() / TICK.as_secs_f64()).ceil() as u32;
    player.init()?;
    let start = Instant::now();
    let mut turn = Turn::default();
    let mut done = 0;
    while done < ticks && !player.settings.until.as_deref().is_some_and(Path::exists) {
        done += 1;
        player.sleep_until(start + TICK * done);
        if done == ticks {
            player.wait_for_release();
        }
        let event = player.turn_event(&mut turn, &format!("tick {done} of {ticks}"));
        player.print(&event)?;
    }
    player.result(&format!("All {done} ticks done."))?;
    Ok(Exit::Code(0))
}

fn play_unknown_session(player: &mut Player) -> io::Result<Exit> {
    let wanted = player.session.clone();
    player.session_error(&UNKNOWN_SESSION, RECORDED_UNKNOWN, &wanted)
}

fn play_bad_session(player: &mut Player) -> io::Result<Exit> {
    let wanted = player.invocation.resume.clone();
    let wanted = wanted.unwrap_or_else(|| RECORDED_BAD.to_owned());
    player.session_error(&BAD_SESSION, RECORDED_BAD, &wanted)
}

fn play_crash(player: &mut Player) -> io::Result<Exit> {
    player.begin()?;
    player.complain("claude: internal error: segmentation fault in the runtime")?;
    let exit = player.settings.exit_code.map(Exit::Code);
    Ok(exit.unwrap_or(Exit::Signal(libc::SIGSEGV)))
}

fn play_exit_code(player: &mut Player) -> io::Result<Exit> {
    player.replay(&SUCCESS)?;
    Ok(Exit::Code(player.settings.exit_code.unwrap_or(3)))
}

fn play_oom(player: &mut Player) -> io::Result<Exit> {
    player.begin()?;
    Ok(if player.settings.real_oom { Exit::EatMemory } else { Exit::Signal(libc::SIGKILL) })
}

fn play_silent(player: &mut Player) -> io::Result<Exit> {
    player.sleep(player.settings.seconds_or(20));
    play_success(player)
}

fn play_flood(player: &mut Player) -> io::Result<Exit> {
    let lines = player.settings.lines;
    player.init()?;
    let start = Instant::now();
    let mut turn = Turn::default();
    for seq in 1..=lines {
        if let Some(rate) = player.settings.rate {
            player.sleep_until(start + Duration::from_secs_f64(seq as f64 / rate));
        }
        let line = player.flood_line(&mut turn, seq);
        player.write(line.as_bytes())?;
    }
    player.result(&format!("flood of {lines} numbered lines done"))?;
    Ok(Exit::Code(0))
}

fn play_big_line(player: &mut Player) -> io::Result<Exit> {
    const KIB: usize = 1024;
    player.init()?;
    for bytes in [16 * KIB - 1, 16 * KIB, 16 * KIB + 1, KIB * KIB, 5 * KIB * KIB] {
        player.pause();
        let line = player.big_line(bytes) + "\n";
        player.write(line.as_bytes())?;
    }
    player.result("big lines done")?;
    Ok(Exit::Code(0))
}

fn play_no_newline(player: &mut Player) -> io::Result<Exit> {
    let mut events = SUCCESS.events();
    let last = events.pop().expect("success has a result");
    player.replay_events(events)?;
    player.pause();
    let last = player.renewed(last).to_string();
    player.write(last.as_bytes())?;
    Ok(Exit::Code(0))
}

/// Never valid UTF-8: lone bytes, a broken and a cut sequence, a surrogate; and a NUL.
const NOISE: [&[u8]; 5] = [
    b"\xff\xfe\x00\x80 binary\n",
    b"broken \xc3\x28 sequence\n",
    b"cut emoji \xf0\x9f\x98\n",
    b"surrogate \xed\xa0\x80 \x1b[31mred\x1b[0m\r\n",
    b"\x80\x81\x82\x83\n",
];

fn play_binary(player: &mut Player) -> io::Result<Exit> {
    let noises = NOISE.iter().cycle();
    for (event, noise) in SUCCESS.events().into_iter().zip(noises) {
        let last = event["type"] == "result";
        player.replay_events(vec![event])?;
        if !last {
            player.write(noise)?;
        }
    }
    Ok(Exit::Code(0))
}

fn play_stderr_noise(player: &mut Player) -> io::Result<Exit> {
    for (number, event) in (1..).zip(SUCCESS.events()) {
        let last = event["type"] == "result";
        if last {
            player.interrupted_line()?;
        }
        player.replay_events(vec![event])?;
        player.complain(&format!("(node:1) Warning: noise {number} between events"))?;
    }
    Ok(Exit::Code(0))
}

fn play_truncated(player: &mut Player) -> io::Result<Exit> {
    player.begin()?;
    Ok(Exit::Signal(libc::SIGKILL))
}

fn play_empty_llm(player: &mut Player) -> io::Result<Exit> {
    player.init()?;
    player.pause();
    let message_id = player.ids.fresh("msg");
    let mut event = player.assistant(&message_id, Value::Null);
    event["message"]["content"] = json!([]);
    for count in event["message"]["usage"].as_object_mut().into_iter().flatten() {
        *count.1 = json!(0);
    }
    player.print(&event)?;
    Ok(Exit::Code(1))
}

fn play_hang(player: &mut Player) -> io::Result<Exit> {
    player.init()?;
    Ok(Exit::Sleep)
}

fn play_echo_env(player: &mut Player) -> io::Result<Exit> {
    let mut json = player.invocation.to_json();
    if !player.settings.files.is_empty() {
        let roots = (1..).zip(player.settings.files.split(':'));
        let mut files = Map::new();
        roots.for_each(|(at, root)| read_files(Path::new(root), &at.to_string(), &mut files));
        json["files"] = Value::Object(files);
    }
    let text = json.to_string();
    player.init()?;
    player.pause();
    let message_id = player.ids.fresh("msg");
    let event = player.assistant(&message_id, text_block(&text));
    player.print(&event)?;
    player.result(&text)?;
    Ok(Exit::Code(0))
}

/// Adds the text of each file below `path` under its place there; what cannot be read has its error. The names that a
/// kubelet keeps for itself in a volume begin with two dots.
fn read_files(path: &Path, name: &str, files: &mut Map<String, Value>) {
    let Ok(entries) = fs::read_dir(path) else {
        let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        files.insert(name.to_owned(), json!(text.unwrap_or_else(|error| format!("{:?}", error.kind()))));
        return;
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|each| !each.starts_with("..")).collect();
    names.sort();
    names.iter().for_each(|each| read_files(&path.join(each), &format!("{name}/{each}"), files));
}

fn play_script(player: &mut Player) -> io::Result<Exit> {
    if player.settings.only_resumed && player.invocation.resume.is_none() {
        return play_success(player);
    }
    for line in player.settings.events.clone().lines() {
        match serde_json::from_str::<Value>(line) {
            Ok(event) if event.is_object() => player.replay_events(vec![event])?,
            _ => player.write(format!("{line}\n").as_bytes())?,
        }
    }
    let stderr = player.settings.stderr.clone();
    stderr.lines().try_for_each(|line| player.complain(line))?;
    let code = player.settings.exit_code.unwrap_or(0);
    Ok(player.settings.signal.map_or(Exit::Code(code), Exit::Signal))
}

fn play_slow_result(player: &mut Player) -> io::Result<Exit> {
    player.replay(&SUCCESS)?;
    player.sleep(player.settings.seconds_or(10));
    Ok(Exit::Code(0))
}

// ---------------------------------------------------------------- the player

/// The message and the tool call that the next event of a made conversation belongs to.
#[derive(Default)]
struct Turn {
    step: u8,
    message_id: String,
    tool_use_id: String,
}

/// Prints the events of one run.
struct Player<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    settings: Settings,
    invocation: Invocation,
    templates: Templates,
    ids: Ids,
    session: String,
    started: Instant,
    /// False in tests: no pause takes time.
    real_time: bool,
}

impl<'a> Player<'a> {
    fn new(
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
        settings: Settings,
        invocation: Invocation,
    ) -> Self {
        let mut ids = Ids::new(settings.seed);
        let resumed = invocation.resume.clone().filter(|id| is_uuid(id));
        Player {
            session: resumed.unwrap_or_else(|| ids.uuid()),
            out,
            err,
            settings,
            invocation,
            templates: Templates::new(),
            ids,
            started: Instant::now(),
            real_time: true,
        }
    }

    fn play(&mut self, scenario: &Scenario) -> io::Result<Exit> {
        match self.session_problem() {
            Some(error) if scenario.opens_session => error(self),
            _ => (scenario.play)(self),
        }
    }

    /// What the real program says instead of opening the session, if it does.
    fn session_problem(&self) -> Option<Play> {
        let resume = self.invocation.resume.as_deref()?;
        if !is_uuid(resume) {
            return Some(play_bad_session);
        }
        let known = self.settings.known_sessions.as_deref()?;
        (!lists_session(known, resume)).then_some(play_unknown_session as Play)
    }

    fn sleep(&self, duration: Duration) {
        if self.real_time {
            thread::sleep(duration);
        }
    }

    fn sleep_until(&self, moment: Instant) {
        self.sleep(moment.saturating_duration_since(Instant::now()));
    }

    /// Waits for the file that says that all has happened which is to happen before the end.
    fn wait_for_release(&self) {
        while self.settings.hold.as_ref().is_some_and(|file| !file.exists()) {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The pause between two events.
    fn pause(&self) {
        self.sleep(self.settings.delay);
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    fn print(&mut self, event: &Value) -> io::Result<()> {
        self.write(format!("{event}\n").as_bytes())
    }

    fn complain(&mut self, line: &str) -> io::Result<()> {
        self.err.write_all(format!("{line}\n").as_bytes())?;
        self.err.flush()
    }

    fn replay(&mut self, recording: &Recording) -> io::Result<()> {
        self.replay_events(recording.events())?;
        self.err.write_all(recording.stderr.as_bytes())?;
        self.err.flush()
    }

    /// Prints recorded events, each but the run's first after a pause.
    fn replay_events(&mut self, events: Vec<Value>) -> io::Result<()> {
        for event in events {
            if event["subtype"] != "init" {
                self.pause();
            }
            let event = self.renewed(event);
            self.print(&event)?;
        }
        Ok(())
    }

    fn fail(&mut self, recording: &Recording) -> io::Result<Exit> {
        self.replay(recording)?;
        Ok(Exit::Code(1))
    }

    /// Replays a session error as if it had been recorded with `wanted`.
    fn session_error(&mut self, recording: &Recording, recorded: &str, wanted: &str) -> io::Result<Exit> {
        for mut event in recording.events() {
            replace_in_strings(&mut event, recorded, wanted);
            let event = self.renewed(event);
            self.print(&event)?;
        }
        let stderr = recording.stderr.replace(recorded, wanted);
        self.err.write_all(stderr.as_bytes())?;
        self.err.flush()?;
        Ok(Exit::Code(1))
    }

    /// A recorded event as an event of this run.
    fn renewed(&mut self, mut event: Value) -> Value {
        self.ids.renew(&mut event);
        self.stamped(event)
    }

    /// The event with this run's session, event id, time, directory and model.
    fn stamped(&mut self, mut event: Value) -> Value {
        set_if_present(&mut event, "session_id", json!(self.session));
        set_if_present(&mut event, "uuid", json!(self.ids.uuid()));
        set_if_present(&mut event, "timestamp", json!(timestamp(SystemTime::now())));
        if event["subtype"] == "init" {
            self.stamp_init(&mut event);
        }
        if let Some(model) = &self.invocation.model {
            stamp_model(&mut event, model);
        }
        event
    }

    fn stamp_init(&self, event: &mut Value) {
        let mode = if self.invocation.skips_permissions() { "bypassPermissions" } else { "default" };
        event["cwd"] = json!(self.invocation.cwd);
        event["permissionMode"] = json!(mode);
        event["memory_paths"]["auto"] = json!(self.invocation.memory_path());
    }

    fn init(&mut self) -> io::Result<()> {
        let event = self.renewed(self.templates.init.clone());
        self.print(&event)
    }

    /// Init and one assistant event with tokens: a run that has begun.
    fn begin(&mut self) -> io::Result<()> {
        self.init()?;
        self.pause();
        let message_id = self.ids.fresh("msg");
        let mut event = self.assistant(&message_id, text_block("I will look at it first."));
        event["message"]["usage"]["output_tokens"] = json!(42);
        self.print(&event)
    }

    fn result(&mut self, text: &str) -> io::Result<()> {
        let mut event = self.templates.result.clone();
        event["result"] = json!(text);
        event["duration_ms"] = json!(self.started.elapsed().as_millis() as u64);
        let event = self.stamped(event);
        self.pause();
        self.print(&event)
    }

    fn assistant(&mut self, message_id: &str, block: Value) -> Value {
        let mut event = self.templates.assistant.clone();
        event["message"]["id"] = json!(message_id);
        event["message"]["content"] = json!([block]);
        self.stamped(event)
    }

    fn tool_result(&mut self, tool_use_id: &str, text: &str) -> Value {
        let mut event = self.templates.user.clone();
        let block = &mut event["message"]["content"][0];
        block["tool_use_id"] = json!(tool_use_id);
        block["content"] = json!(text);
        event["tool_use_result"]["stdout"] = json!(text);
        self.stamped(event)
    }

    /// The next event of a made conversation: a text, a tool call of the same message,
    /// the call's result, and again. All of them say `text`.
    fn turn_event(&mut self, turn: &mut Turn, text: &str) -> Value {
        let step = turn.step;
        turn.step = (step + 1) % 3;
        match step {
            0 => {
                turn.message_id = self.ids.fresh("msg");
                turn.tool_use_id = self.ids.fresh("toolu");
                self.assistant(&turn.message_id, text_block(text))
            }
            1 => {
                let call = tool_use_block(&turn.tool_use_id, text);
                self.assistant(&turn.message_id, call)
            }
            _ => self.tool_result(&turn.tool_use_id, text),
        }
    }

    fn flood_line(&mut self, turn: &mut Turn, seq: u64) -> String {
        let mut event = self.turn_event(turn, &format!("\"seq\":{seq} {FILLING}"));
        if let Some(event) = event.as_object_mut() {
            // It says the output once more, and a filling has one place only.
            event.remove("tool_use_result");
        }
        let wanted = self.settings.line_bytes.saturating_sub(1);
        filled(&event, wanted, |_, bytes| "x".repeat(bytes)) + "\n"
    }

    /// An event of exactly this many bytes, most of them in multi-byte characters.
    fn big_line(&mut self, bytes: usize) -> String {
        let message_id = self.ids.fresh("msg");
        let text = format!("line of {bytes} bytes {FILLING}");
        let event = self.assistant(&message_id, text_block(&text));
        filled(&event, bytes, straddling)
    }

    /// A long line on stdout with lines on stderr in the middle of it.
    fn interrupted_line(&mut self) -> io::Result<()> {
        let line = self.big_line(64 << 10) + "\n";
        for (number, part) in (1..).zip(line.as_bytes().chunks(20_000)) {
            self.write(part)?;
            self.complain(&format!("(node:1) Warning: noise {number} inside a line"))?;
            self.pause();
        }
        Ok(())
    }
}

// ---------------------------------------------------------------- events

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn tool_use_block(id: &str, command: &str) -> Value {
    let input = json!({"command": command, "description": "say"});
    json!({"type": "tool_use", "id": id, "name": "Bash", "input": input})
}

/// The event's line with its filling replaced so that it has `bytes` bytes, if it can.
/// `fill` gets the filling's place in the line and its length.
fn filled(event: &Value, bytes: usize, fill: fn(usize, usize) -> String) -> String {
    let line = event.to_string();
    let place = line.find(FILLING).unwrap_or(line.len());
    let missing = bytes.saturating_sub(line.len().saturating_sub(FILLING.len()));
    line.replacen(FILLING, &fill(place, missing), 1)
}

/// Four-byte characters placed so that every multiple of 4 bytes of the line, hence every
/// usual size of a buffer or of a log line's part, is in the middle of one.
fn straddling(place: usize, bytes: usize) -> String {
    let lead = ((6 - place % 4) % 4).min(bytes);
    let tail = (bytes - lead) % 4;
    "a".repeat(lead) + &"😀".repeat((bytes - lead) / 4) + &"z".repeat(tail)
}

fn set_if_present(event: &mut Value, key: &str, value: Value) {
    if let Some(old) = event.get_mut(key) {
        *old = value;
    }
}

fn stamp_model(event: &mut Value, model: &str) {
    set_if_present(event, "model", json!(model));
    let spoken = event["message"]["model"].is_string();
    if spoken && event["message"]["model"] != "<synthetic>" {
        event["message"]["model"] = json!(model);
    }
    if let Some(usage) = event.get_mut("modelUsage").and_then(Value::as_object_mut) {
        let renamed = std::mem::take(usage).into_iter();
        *usage = renamed.map(|(_, used)| (model.to_owned(), used)).collect();
    }
}

fn replace_in_strings(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => *text = text.replace(from, to),
        Value::Array(items) => items.iter_mut().for_each(|item| replace_in_strings(item, from, to)),
        Value::Object(map) => map.values_mut().for_each(|item| replace_in_strings(item, from, to)),
        _ => {}
    }
}

/// UTC with milliseconds, as JavaScript's `toISOString`.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    let (second, millis) = (seconds % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The Gregorian date this many days after 1970-01-01, counted in years from March on.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day + 2) / 153;
    let month = (march_month + 2) % 12 + 1;
    let day = day - (153 * march_month + 2) / 5 + 1;
    (era * 400 + year + u64::from(month <= 2), month, day)
}

// ---------------------------------------------------------------- ids

/// Makes ids, and remembers by which one it replaced each recorded one.
struct Ids {
    state: u64,
    renewed: HashMap<String, String>,
}

impl Ids {
    fn new(seed: Option<u64>) -> Self {
        Ids { state: seed.unwrap_or_else(entropy), renewed: HashMap::new() }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A UUID of version 4.
    fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 48) & 0x3fff,
            low & 0xffff_ffff_ffff
        )
    }

    /// An id as the API makes them, such as `msg_01…` or `toolu_01…`.
    fn fresh(&mut self, prefix: &str) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz123456789";
        let mut id = format!("{prefix}_01");
        for _ in 0..22 {
            let letter = self.next() as usize % LETTERS.len();
            id.push(char::from(LETTERS[letter]));
        }
        id
    }

    /// Replaces the ids of a recorded event's message and tool calls.
    fn renew(&mut self, event: &mut Value) {
        let Some(message) = event.get_mut("message") else {
            return;
        };
        self.renew_key(message, "id");
        let blocks = message.get_mut("content").and_then(Value::as_array_mut);
        for block in blocks.into_iter().flatten() {
            self.renew_key(block, "id");
            self.renew_key(block, "tool_use_id");
        }
    }

    fn renew_key(&mut self, value: &mut Value, key: &str) {
        let Some(Value::String(id)) = value.get_mut(key) else {
            return;
        };
        *id = self.successor(id);
    }

    fn successor(&mut self, recorded: &str) -> String {
        if let Some(known) = self.renewed.get(recorded) {
            return known.clone();
        }
        let made = match recorded.split_once('_') {
            Some((prefix, _)) => self.fresh(prefix),
            None => self.uuid(),
        };
        self.renewed.insert(recorded.to_owned(), made.clone());
        made
    }
}

fn entropy() -> u64 {
    let mut bytes = [0; 8];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    match read {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => since.unwrap_or_default().as_nanos() as u64 ^ u64::from(process::id()) << 32,
    }
}

fn is_uuid(text: &str) -> bool {
    let dash = |place| matches!(place, 8 | 13 | 18 | 23);
    let fits = |(place, byte): (usize, u8)| if dash(place) { byte == b'-' } else { byte.is_ascii_hexdigit() };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

/// Whether the file names the session; a file that cannot be read names none.
fn lists_session(file: &Path, session: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut words = text.split_whitespace();
    words.any(|word| word.eq_ignore_ascii_case(session))
}

// ---------------------------------------------------------------- input

/// The `CLAUDE_STAND_IN_*` variables.
#[derive(Debug, Default, Clone)]
struct Settings {
    scenario: Option<String>,
    delay: Duration,
    seconds: Option<Duration>,
    until: Option<PathBuf>,
    hold: Option<PathBuf>,
    lines: u64,
    line_bytes: usize,
    rate: Option<f64>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    events: String,
    files: String,
    stderr: String,
    only_resumed: bool,
    known_sessions: Option<PathBuf>,
    real_oom: bool,
    oom_bytes: usize,
    seed: Option<u64>,
}

impl Settings {
    /// `variable` gives a variable's value; an empty one counts as unset.
    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let variable = |name: &str| variable(&format!("{PREFIX}{name}")).filter(|value| !value.is_empty());
        let settings = Settings {
            scenario: variable("SCENARIO").map(|name| name.trim().to_owned()),
            delay: Duration::from_millis(number(&variable, "DELAY_MS")?.unwrap_or(150)),
            seconds: duration(&variable, "SECONDS")?,
            until: variable("UNTIL").map(PathBuf::from),
            hold: variable("HOLD").map(PathBuf::from),
            lines: number(&variable, "LINES")?.unwrap_or(100_000),
            line_bytes: number(&variable, "LINE_BYTES")?.unwrap_or(1200),
            rate: number(&variable, "RATE")?,
            exit_code: number::<u8>(&variable, "EXIT_CODE")?.map(i32::from),
            signal: number::<u8>(&variable, "SIGNAL")?.map(i32::from),
            events: variable("EVENTS").unwrap_or_default(),
            files: variable("FILES").unwrap_or_default(),
            stderr: variable("STDERR").unwrap_or_default(),
            only_resumed: number::<u8>(&variable, "ONLY_RESUMED")?.unwrap_or(0) != 0,
            known_sessions: variable("KNOWN_SESSIONS").map(PathBuf::from),
            real_oom: number::<u8>(&variable, "REAL_OOM")?.unwrap_or(0) != 0,
            oom_bytes: number(&variable, "OOM_BYTES")?.unwrap_or(4 << 30),
            seed: number(&variable, "SEED")?,
        };
        match settings.rate {
            Some(rate) if rate.is_nan() || rate < 0.001 => {
                Err(format!("{PREFIX}RATE is less than 0.001: {rate}"))
            }
            _ => Ok(settings),
        }
    }

    fn seconds_or(&self, default: u64) -> Duration {
        self.seconds.unwrap_or(Duration::from_secs(default))
    }
}

fn number<T: std::str::FromStr>(
    variable: &impl Fn(&str) -> Option<String>,
    name: &str,
) -> Result<Option<T>, String> {
    let Some(text) = variable(name) else {
        return Ok(None);
    };
    let parsed = text.trim().parse().map(Some);
    parsed.map_err(|_| format!("{PREFIX}{name} is not a valid number: {text}"))
}

fn duration(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<Duration>, String> {
    let seconds = number::<f64>(variable, name)?;
    let duration = seconds.map(Duration::try_from_secs_f64).transpose();
    duration.map_err(|error| format!("{PREFIX}{name}: {error}"))
}

/// What this run was called with.
#[derive(Debug, Default, Clone)]
struct Invocation {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    cwd: String,
    prompt: String,
    resume: Option<String>,
    model: Option<String>,
}

impl Invocation {
    /// The invocation of this process, its prompt not yet read.
    fn of_process() -> Self {
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        let argv: Vec<String> = std::env::args_os().map(text).collect();
        let mut env: Vec<_> = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        env.sort();
        let cwd = std::env::current_dir().unwrap_or_default();
        Invocation {
            resume: option(&argv, &["--resume", "-r"]),
            model: option(&argv, &["--model"]).filter(|model| !model.is_empty()),
            argv,
            env,
            cwd: cwd.to_string_lossy().into_owned(),
            prompt: String::new(),
        }
    }

    fn has(&self, flags: &[&str]) -> bool {
        let mut arguments = self.argv.iter().skip(1);
        arguments.any(|argument| flags.contains(&argument.as_str()))
    }

    fn skips_permissions(&self) -> bool {
        self.has(&["--dangerously-skip-permissions"])
    }

    fn variable(&self, name: &str) -> Option<String> {
        let found = self.env.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone())
    }

    /// Where the real program would keep its memory of this working directory.
    fn memory_path(&self) -> String {
        let home = self.variable("HOME").unwrap_or_default();
        let project = self.cwd.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        format!("{home}/.claude/projects/{project}/memory/")
    }

    fn to_json(&self) -> Value {
        let env = self.env.iter();
        let env: Map<_, _> = env.map(|(key, value)| (key.clone(), json!(value))).collect();
        json!({"env": env, "argv": self.argv, "cwd": self.cwd, "prompt": self.prompt})
    }
}

/// The value of an option, `--name value` or `--name=value`; empty if it has none.
fn option(argv: &[String], names: &[&str]) -> Option<String> {
    for (place, argument) in argv.iter().enumerate().skip(1) {
        let next = argv.get(place + 1).filter(|next| !next.starts_with('-'));
        match argument.split_once('=') {
            Some((name, value)) if names.contains(&name) => return Some(value.to_owned()),
            None if names.contains(&argument.as_str()) => {
                return Some(next.cloned().unwrap_or_default());
            }
            _ => {}
        }
    }
    None
}

/// Standard input to its end; nothing from a terminal.
fn read_prompt() -> String {
    let mut bytes = Vec::new();
    let mut stdin = io::stdin();
    if !stdin.is_terminal() {
        // An unreadable prompt is as good as none.
        let _ = stdin.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

// ---------------------------------------------------------------- the process

extern "C" fn exit_on_sigterm(_signal: libc::c_int) {
    // SAFETY: _exit may be called in a signal handler.
    #[expect(unsafe_code, reason = "exit without running destructors, as a signal handler must")]
    unsafe {
        libc::_exit(128 + libc::SIGTERM)
    }
}

fn handle_signal(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: the handler is a disposition constant, or only calls _exit.
    #[expect(unsafe_code, reason = "signal dispositions of process 1 have no safe interface")]
    unsafe {
        libc::signal(signal, handler)
    };
}

/// Says 143 on SIGTERM, also as process 1 of a namespace, or ignores it.
fn install_signals(stubborn: bool) {
    if stubborn {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            handle_signal(signal, libc::SIG_IGN);
        }
    } else {
        let handler = exit_on_sigterm as extern "C" fn(libc::c_int);
        handle_signal(libc::SIGTERM, handler as libc::sighandler_t);
    }
}

/// Dies by the signal, without a core file; by the like exit code if the signal has no
/// effect, as in process 1 of a namespace.
fn die_by(signal: libc::c_int) -> ! {
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls; the pointer is to a live value.
    #[expect(unsafe_code, reason = "dying by a signal has no safe interface")]
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
        libc::_exit(128 + signal)
    }
}

/// Allocates and touches memory up to the cap, and holds it for a while, so that a memory
/// limit can act. Without a limit the process survives, which is an error of the test's
/// surroundings: exit 1.
fn eat_memory(cap: usize) -> ! {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    for _ in 0..cap / OOM_STEP {
        let mut step = Vec::new();
        if step.try_reserve_exact(OOM_STEP).is_err() {
            eprintln!("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory");
            die_by(libc::SIGABRT);
        }
        step.resize(OOM_STEP, 1);
        eaten.push(std::hint::black_box(step));
        thread::sleep(OOM_PAUSE);
    }
    thread::sleep(OOM_HOLD);
    eprintln!("fake claude: used {cap} bytes and was not killed");
    drop(eaten);
    process::exit(1)
}

fn finish(exit: Exit, oom_bytes: usize) -> ! {
    match exit {
        Exit::Code(code) => process::exit(code),
        Exit::Signal(signal) => die_by(signal),
        Exit::EatMemory => eat_memory(oom_bytes),
        Exit::Sleep => loop {
            thread::sleep(Duration::from_secs(3600));
        },
    }
}

fn list_scenarios() -> String {
    let row = |scenario: &Scenario| format!("{:<16} {}\n", scenario.name, scenario.meaning);
    SCENARIOS.iter().map(row).collect()
}

/// Reads the settings and the prompt, and picks the scenario.
fn prepare(invocation: &mut Invocation) -> Result<(Settings, &'static Scenario), String> {
    let settings = Settings::read(|name| invocation.variable(name))?;
    invocation.prompt = read_prompt();
    let asked = scenario_in_prompt(&invocation.prompt);
    let name = settings.scenario.as_deref().or(asked);
    let scenario = find_scenario(name.unwrap_or("success"))?;
    Ok((settings, scenario))
}

fn run(mut invocation: Invocation) -> Result<(), String> {
    install_signals(false);
    let (settings, scenario) = prepare(&mut invocation)?;
    install_signals(scenario.stubborn);
    let oom_bytes = settings.oom_bytes;
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let mut player = Player::new(&mut out, &mut err, settings, invocation);
    match player.play(scenario) {
        Ok(exit) => finish(exit, oom_bytes),
        // The reader is gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => process::exit(1),
        Err(error) => Err(format!("cannot write: {error}")),
    }
}

fn main() {
    let invocation = Invocation::of_process();
    if invocation.has(&["--version", "-v"]) {
        return println!("{VERSION}");
    }
    if invocation.has(&["--list-scenarios"]) {
        return print!("{}", list_scenarios());
    }
    if let Err(error) = run(invocation) {
        eprintln!("fake claude: {error}");
        process::exit(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const SESSION: &str = "0f0e0d0c-0b0a-4908-8706-050403020100";

    struct Run {
        out: Vec<u8>,
        err: String,
        exit: Exit,
    }

    impl Run {
        /// Every line that is UTF-8, as JSON.
        fn events(&self) -> Vec<Value> {
            let lines = self.out.split(|byte| *byte == b'\n');
            let texts = lines.filter_map(|line| std::str::from_utf8(line).ok());
            let texts = texts.filter(|line| !line.is_empty());
            texts.map(|line| serde_json::from_str(line).expect(line)).collect()
        }
    }

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::read(|name| {
            let found = pairs.iter().find(|(key, _)| name == format!("{PREFIX}{key}"));
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn small() -> Settings {
        settings(&[("SECONDS", "3"), ("LINES", "20"), ("SEED", "7")]).unwrap()
    }

    fn resuming(id: &str) -> Invocation {
        Invocation { resume: Some(id.to_owned()), ..Invocation::default() }
    }

    fn run_with(name: &str, settings: Settings, invocation: Invocation) -> Run {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut player = Player::new(&mut out, &mut err, settings, invocation);
        player.real_time = false;
        let exit = player.play(find_scenario(name).unwrap()).unwrap();
        let err = String::from_utf8(err).unwrap();
        Run { out, err, exit }
    }

    fn run(name: &str) -> Run {
        run_with(name, small(), Invocation::default())
    }

    fn strings(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn scenario_names_are_unique_words() {
        let names: HashSet<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
        for name in names {
            let asked = format!("please\n  scenario: {name} \nthanks");
            assert_eq!(scenario_in_prompt(&asked), Some(name));
        }
    }

    #[test]
    fn scenario_prints_json_of_one_session() {
        for scenario in SCENARIOS {
            let events = run_with(scenario.name, small(), resuming(SESSION)).events();
            let mut uuids = HashSet::new();
            for event in &events {
                let uuid = event["uuid"].as_str().expect(scenario.name);
                assert!(is_uuid(uuid) && uuids.insert(uuid), "{}", scenario.name);
                assert_eq!(event["session_id"], SESSION, "{}", scenario.name);
            }
            assert_eq!(events.is_empty(), ["mute", "script"].contains(&scenario.name));
        }
    }

    #[test]
    fn keys_keep_their_recorded_order() {
        let text = String::from_utf8(run("success").out).unwrap();
        let start = "{\"type\":\"system\",\"subtype\":\"init\",";
        assert!(text.starts_with(start), "serde_json needs its feature preserve_order");
    }

    #[test]
    fn recorded_ids_are_replaced_in_every_run() {
        let run = run("success");
        let text = String::from_utf8(run.out).unwrap();
        for event in SUCCESS.events() {
            let recorded = [&event["session_id"], &event["uuid"], &event["message"]["id"]];
            for id in recorded.iter().filter_map(|id| id.as_str()) {
                assert!(!text.contains(id), "{id}");
            }
        }
    }

    #[test]
    fn tool_results_answer_tool_calls() {
        for name in ["success", "long", "flood"] {
            let mut calls = HashSet::new();
            for event in run(name).events() {
                let block = &event["message"]["content"][0];
                if let Some(id) = block["id"].as_str() {
                    assert!(id.starts_with("toolu_01") && calls.insert(id.to_owned()));
                }
                if let Some(id) = block["tool_use_id"].as_str() {
                    assert!(calls.contains(id), "{name}: {id}");
                }
            }
            assert!(!calls.is_empty());
        }
    }

    #[test]
    fn session_is_new_unless_resumed() {
        let fresh = |run: Run| run.events()[0]["session_id"].as_str().unwrap().to_owned();
        let unseeded = || run_with("success", settings(&[]).unwrap(), Invocation::default());
        let (one, other) = (fresh(unseeded()), fresh(unseeded()));
        assert!(is_uuid(&one) && one.as_bytes()[14] == b'4' && one != other);
        assert_eq!(fresh(run("success")), fresh(run("success")), "seeded");
    }

    #[test]
    fn session_that_is_not_a_uuid_is_refused() {
        let run = run_with("success", small(), resuming("my \"title\""));
        assert_eq!(run.exit, Exit::Code(1));
        assert!(run.err.contains("value \"my \"title\"\" is not a UUID"));
        let error = run.events()[0]["errors"][0].as_str().unwrap().to_owned();
        assert_eq!(error, run.err.trim_end());
    }

    #[test]
    fn resume_finds_only_the_sessions_of_the_file() {
        let file = std::env::temp_dir().join(format!("known-sessions-{}", process::id()));
        let known = || Settings { known_sessions: Some(file.clone()), ..small() };
        let missing = run_with("success", known(), resuming(SESSION));
        fs::write(&file, format!("{RECORDED_UNKNOWN}\n{SESSION}\n")).unwrap();
        let found = run_with("success", known(), resuming(SESSION));
        let echoed = run_with("echo-env", known(), resuming("x"));
        fs::remove_file(&file).unwrap();
        let said = format!("No conversation found with session ID: {SESSION}");
        assert_eq!(missing.err.trim_end(), said);
        assert_eq!(missing.events()[0]["errors"], json!([said]));
        assert_eq!((missing.exit, found.exit), (Exit::Code(1), Exit::Code(0)));
        assert_eq!(echoed.exit, Exit::Code(0));
    }

    #[test]
    fn echo_env_prints_the_files_that_are_asked_for() {
        let root = std::env::temp_dir().join(format!("echoed-files-{}", process::id()));
        fs::create_dir_all(root.join("a/..data")).unwrap();
        fs::write(root.join("a/b"), "text").unwrap();
        fs::write(root.join("a/..data/b"), "twice").unwrap();
        let list = format!("{0}:{0}/a/b:{0}/none", root.display());
        let echoed = run_with("echo-env", settings(&[("FILES", &list)]).unwrap(), Invocation::default());
        fs::remove_dir_all(&root).unwrap();
        let text = echoed.events()[1]["message"]["content"][0]["text"].as_str().unwrap().to_owned();
        let files = serde_json::from_str::<Value>(&text).unwrap()["files"].clone();
        assert_eq!(files, json!({"1/a/b": "text", "2": "text", "3": "NotFound"}));
    }

    #[test]
    fn scenario_exits_as_documented() {
        let exits = |names: &[&str], exit| {
            for name in names {
                assert_eq!(run(name).exit, exit, "{name}");
            }
        };
        exits(&["auth", "overload", "max-turns", "unreachable"], Exit::Code(1));
        exits(&["unknown-session", "bad-session", "empty-llm"], Exit::Code(1));
        exits(&["oom", "truncated"], Exit::Signal(libc::SIGKILL));
        exits(&["crash"], Exit::Signal(libc::SIGSEGV));
        exits(&["exit-code"], Exit::Code(3));
        exits(&["hang", "stubborn"], Exit::Sleep);
        exits(&["success", "mute", "slow-result"], Exit::Code(0));
    }

    #[test]
    fn script_prints_its_events_as_those_of_its_run() {
        let lines = "{\"type\":\"result\",\"session_id\":\"recorded\"}\nno JSON";
        let script = [("EVENTS", lines), ("STDERR", "said"), ("EXIT_CODE", "7")];
        let printed = run_with("script", settings(&script).unwrap(), resuming(SESSION));
        let text = String::from_utf8(printed.out).unwrap();
        assert_eq!(text, format!("{{\"type\":\"result\",\"session_id\":\"{SESSION}\"}}\nno JSON\n"));
        assert_eq!((printed.err.as_str(), printed.exit), ("said\n", Exit::Code(7)));
        let killed = run_with("script", settings(&[("SIGNAL", "9")]).unwrap(), Invocation::default());
        assert_eq!(killed.exit, Exit::Signal(libc::SIGKILL));
    }

    #[test]
    fn script_for_resumed_runs_succeeds_in_a_fresh_one() {
        let script = || settings(&[("ONLY_RESUMED", "1"), ("EXIT_CODE", "7")]).unwrap();
        let fresh = run_with("script", script(), Invocation::default());
        assert_eq!((fresh.events().len(), fresh.exit), (SUCCESS.events().len(), Exit::Code(0)));
        assert_eq!(run_with("script", script(), resuming(SESSION)).exit, Exit::Code(7));
    }

    #[test]
    fn exit_code_variable_sets_the_exit_code() {
        for name in ["crash", "exit-code"] {
            let settings = settings(&[("EXIT_CODE", "42")]).unwrap();
            let run = run_with(name, settings, Invocation::default());
            assert_eq!(run.exit, Exit::Code(42));
        }
    }

    #[test]
    fn long_scenario_ticks_until_its_end() {
        let run = run("long");
        let text = String::from_utf8(run.out.clone()).unwrap();
        for (line, tick) in text.lines().skip(1).zip(1..=6) {
            assert!(line.contains(&format!("tick {tick} of 6")), "{line}");
        }
        let events = run.events();
        assert_eq!(events.len(), 8);
        assert_eq!(events[1]["message"]["id"], events[2]["message"]["id"]);
        assert_ne!(events[1]["message"]["id"], events[4]["message"]["id"]);
    }

    #[test]
    fn long_scenario_ends_once_its_file_exists() {
        let until = settings(&[("UNTIL", "/")]).unwrap();
        let events = run_with("long", until, Invocation::default()).events();
        assert_eq!(events[1]["result"], "All 0 ticks done.");
    }

    #[test]
    fn flood_lines_are_numbered_and_sized() {
        let run = run("flood");
        let text = String::from_utf8(run.out.clone()).unwrap();
        for (line, seq) in text.lines().skip(1).zip(1..=20) {
            assert!(line.contains(&format!("\\\"seq\\\":{seq} ")), "{line}");
            assert_eq!(line.len() + 1, 1200);
        }
        let events = run.events();
        assert_eq!(events.len(), 22);
        assert!(events[21]["result"].as_str().unwrap().contains("20"));
    }

    #[test]
    fn big_lines_are_cut_inside_characters() {
        let run = run("big-line");
        let text = String::from_utf8(run.out).unwrap();
        let sizes: Vec<_> = text.lines().skip(1).map(str::len).take(5).collect();
        assert_eq!(sizes, [16_383, 16_384, 16_385, 1 << 20, 5 << 20]);
        let line = text.lines().nth(4).unwrap();
        let cuts = (1..64).map(|part| part * 16_384);
        assert_eq!(cuts.filter(|cut| line.is_char_boundary(*cut)).count(), 0);
    }

    #[test]
    fn odd_scenarios_print_odd_output() {
        assert!(!run("no-newline").out.ends_with(b"\n"));
        assert!(NOISE.iter().all(|noise| std::str::from_utf8(noise).is_err()));
        assert!(run("binary").out.windows(2).any(|pair| pair == b"\xff\xfe"));
        let noise = run("stderr-noise").err;
        assert!(noise.contains("between events") && noise.contains("inside a line"));
        let empty = run("empty-llm").events();
        assert_eq!(empty[1]["message"]["usage"]["output_tokens"], 0);
        assert!(empty[1]["message"]["stop_reason"].is_null());
    }

    #[test]
    fn echo_env_prints_arguments_and_environment() {
        let invocation = Invocation {
            argv: strings("claude --print -"),
            env: vec![("KEY".to_owned(), "quoted \"✓\"".to_owned())],
            cwd: "/somewhere".to_owned(),
            prompt: "two\nlines".to_owned(),
            ..Invocation::default()
        };
        let wanted = invocation.to_json();
        let events = run_with("echo-env", small(), invocation).events();
        let said = |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap();
        assert_eq!(said(&events[1]["message"]["content"][0]["text"]), wanted);
        assert_eq!(said(&events[2]["result"]), wanted);
        assert_eq!(events[0]["cwd"], "/somewhere");
    }

    #[test]
    fn model_option_sets_the_model() {
        let invocation = Invocation { model: Some("claude-x".to_owned()), ..Invocation::default() };
        let events = run_with("success", small(), invocation.clone()).events();
        assert_eq!(events[0]["model"], "claude-x");
        assert_eq!(events[1]["message"]["model"], "claude-x");
        assert!(events[7]["modelUsage"]["claude-x"].is_object());
        let failed = run_with("auth", small(), invocation).events();
        assert_eq!(failed[2]["message"]["model"], "<synthetic>");
    }

    #[test]
    fn options_are_read_with_their_values() {
        let resume = |line| option(&strings(line), &["--resume", "-r"]);
        assert_eq!(resume("claude --print - --resume a --verbose").as_deref(), Some("a"));
        assert_eq!(resume("claude --resume=b").as_deref(), Some("b"));
        assert_eq!(resume("claude --resume --verbose").as_deref(), Some(""));
        assert_eq!(resume("claude --print -"), None);
    }

    #[test]
    fn settings_have_defaults_and_limits() {
        let defaults = settings(&[("EXIT_CODE", "")]).unwrap();
        assert_eq!(defaults.delay, Duration::from_millis(150));
        assert_eq!((defaults.lines, defaults.line_bytes), (100_000, 1200));
        assert_eq!(defaults.exit_code, None);
        for pair in [("EXIT_CODE", "256"), ("RATE", "0"), ("RATE", "NaN"), ("SECONDS", "-1")] {
            let error = settings(&[pair]).unwrap_err();
            assert!(error.contains(pair.0), "{error}");
        }
    }

    #[test]
    fn unknown_scenario_error_lists_the_known_ones() {
        let error = find_scenario("nope").err().unwrap();
        assert!(SCENARIOS.iter().all(|scenario| error.contains(scenario.name)));
        assert_eq!(scenario_in_prompt("a scenario: long one\nscenario: a b"), None);
    }

    #[test]
    fn timestamps_are_iso_8601() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_millis(seconds * 1000_u64 + 47));
        assert_eq!(at(0), "1970-01-01T00:00:00.047Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.047Z");
        assert_eq!(at(1_709_164_800), "2024-02-29T00:00:00.047Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.047Z");
    }
}
