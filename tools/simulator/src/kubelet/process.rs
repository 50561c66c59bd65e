//! Processes that do not outlive this one.

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

type Reply = oneshot::Sender<std::io::Result<Child>>;

/// Starts processes from one thread that lives as long as the cluster: the parent-death signal is
/// tied to the thread that forks, not to the process.
pub(super) struct Spawner {
    jobs: Mutex<Option<mpsc::Sender<(Command, Reply)>>>,
    watchdog: Mutex<Option<ChildStdin>>,
}

// Kills the registered process groups when its input ends, however this process ended.
const WATCHDOG: &str = r#"groups=" "
while read -r op id; do
  case $op in
    +) groups="$groups$id " ;;
    -) groups="${groups%% $id *} ${groups#* $id }" ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g" 2>/dev/null; done
"#;

impl Spawner {
    /// Starts the thread and the watchdog.
    pub(super) fn start(runtime: tokio::runtime::Handle) -> std::io::Result<Self> {
        let mut dog = std::process::Command::new("/bin/sh")
            .args(["-c", WATCHDOG])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let input = dog.stdin.take();
        let (send, receive) = mpsc::channel::<(Command, Reply)>();
        std::thread::Builder::new().name("spawner".to_string()).spawn(move || {
            let _inside = runtime.enter();
            while let Ok((mut command, reply)) = receive.recv() {
                let _ = reply.send(command.spawn());
            }
            let _ = dog.wait();
        })?;
        Ok(Spawner { jobs: Mutex::new(Some(send)), watchdog: Mutex::new(input) })
    }

    fn send(&self, op: char, group: u32) {
        if let Some(input) = crate::util::lock(&self.watchdog).as_mut() {
            let _ = input.write_all(format!("{op} {group}\n").as_bytes());
        }
    }

    /// Starts a process in a session of its own.
    pub(super) async fn spawn(&self, mut command: std::process::Command) -> std::io::Result<Child> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: both calls are async-signal-safe and touch nothing but the new process.
        #[expect(unsafe_code, reason = "`pre_exec` runs between fork and exec")]
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                #[cfg(target_os = "linux")]
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                Ok(())
            });
        }
        let gone = || std::io::Error::other("the cluster is shutting down");
        let (reply, answer) = oneshot::channel();
        let sender = crate::util::lock(&self.jobs).clone().ok_or_else(gone)?;
        sender.send((Command::from(command), reply)).map_err(|_| gone())?;
        let child = answer.await.map_err(|_| gone())??;
        if let Some(pid) = child.id() {
            self.send('+', pid);
        }
        Ok(child)
    }

    /// Kills what is left of a process group and forgets it.
    pub(super) fn reap(&self, group: u32) {
        signal(group, Signal::SIGKILL);
        self.send('-', group);
    }

    /// Ends the thread and the watchdog; the watchdog kills what it still knows.
    pub(super) fn stop(&self) {
        crate::util::lock(&self.jobs).take();
        crate::util::lock(&self.watchdog).take();
    }
}

/// Sends a signal to a process group.
pub(super) fn signal(group: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(group)
        && pid > 1
    {
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

/// Sends a signal as the first process of a PID namespace gets it: no other process gets it, and a
/// signal without a handler changes nothing.
pub(super) fn signal_first(leader: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(leader)
        && pid > 1
        && handles(leader, signal)
    {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

// Where the system does not say, every signal counts as handled.
fn handles(pid: u32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask >> (signal as u32 - 1) & 1 == 1)
}
