//! Starts an embedded cluster and prints where it is.

use embedded_cluster::{Cluster, Options};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: embedded-cluster [--port N] [--dir DIR] [--bin-dir DIR]... [--namespace NAME] [--condition-lag-ms N] [--no-seed] [--exit-on-stdin-eof]";

fn arguments(mut args: impl Iterator<Item = String>) -> Result<(Options, bool), String> {
    let mut options = Options::default();
    let mut until_eof = false;
    while let Some(flag) = args.next() {
        let (name, inline) = match flag.split_once('=') {
            Some((n, v)) => (n.to_string(), Some(v.to_string())),
            None => (flag, None),
        };
        let mut value = || inline.clone().or_else(|| args.next()).ok_or(format!("{name} needs a value"));
        let bad = |v: &str| format!("{name}: {v:?} is not a number in range");
        match name.as_str() {
            "--port" => {
                let v = value()?;
                options.port = v.parse().map_err(|_| bad(&v))?;
            }
            "--condition-lag-ms" => {
                let v = value()?;
                options.condition_lag_ms = v.parse().map_err(|_| bad(&v))?;
            }
            "--dir" => options.dir = Some(PathBuf::from(value()?)),
            "--bin-dir" => {
                let dir = PathBuf::from(value()?);
                let dir = dir.canonicalize().map_err(|e| format!("--bin-dir {}: {e}", dir.display()))?;
                options.bin_dirs.push(dir);
            }
            "--namespace" => options.namespace = value()?,
            "--no-seed" => options.seed = false,
            "--exit-on-stdin-eof" => until_eof = true,
            _ => return Err(format!("unknown argument {name:?}; {USAGE}")),
        }
    }
    Ok((options, until_eof))
}

async fn stdin_eof() {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 256];
    while matches!(input.read(&mut buffer).await, Ok(n) if n > 0) {}
}

async fn run(options: Options, until_eof: bool) -> Result<(), String> {
    let port = options.port;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let cluster = Cluster::start(options).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => format!("port {port} is in use"),
        _ => e.to_string(),
    })?;
    let ready = json!({
        "url": cluster.url, "port": cluster.port, "kubeconfig": cluster.kubeconfig,
        "caFile": cluster.ca_file, "token": cluster.token, "namespace": cluster.namespace,
        "dir": cluster.dir, "pid": std::process::id(),
    });
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{ready}").and_then(|()| out.flush());
    drop(out);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = stdin_eof(), if until_eof => {}
    }
    cluster.shutdown().await;
    Ok(())
}

fn main() -> ExitCode {
    let fail = |why: String| {
        eprintln!("embedded-cluster: {why}");
        ExitCode::from(2)
    };
    if std::env::args().skip(1).any(|a| a == "--help" || a == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (options, until_eof) = match arguments(std::env::args().skip(1)) {
        Ok(parsed) => parsed,
        Err(why) => return fail(why),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(r) => r,
        Err(e) => return fail(e.to_string()),
    };
    let done = runtime.block_on(run(options, until_eof));
    // A blocked read of stdin must not hold the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(why),
    }
}
