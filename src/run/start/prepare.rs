//! What the Job's container finds on the shared volume: skills and instructions
//! (`docs/contract.md`, "Skills and instructions").

use super::bundle::{self, BundleSpec};
use crate::manifest::{Prepared, PromptBundle};
use crate::request::{Request, VolumeMode};
use crate::run::context::RunContext;
use crate::run::shared::{self, Unread};
use crate::run::{Host, LogSink, RunError};

/// Logs the skills, reads the instructions and makes the bundle.
pub(super) async fn prepare_bundle<C, H: Host>(
    run: &RunContext<C, H>,
    prepared: &Prepared,
) -> Result<PromptBundle, RunError> {
    let RunContext { request, host, log, .. } = run;
    log.out(format!("[paperclip] Skills bundled {}", skill_summary(prepared))).await;
    for warning in &prepared.warnings {
        log.err(warning.clone()).await;
    }
    let read = match &request.config.instructions_file_path {
        Some(path) => read_instructions(log, request, path).await?,
        None => None,
    };
    let parts = [read.as_deref().unwrap_or_default(), prepared.skill_library.as_str()];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let instructions = Some(parts.join("\n\n")).filter(|text| !text.is_empty());
    let env = |name: &str| request.host_env.get(name).map(str::to_owned);
    let spec = BundleSpec {
        company_id: request.agent.company_id.clone(),
        paperclip_home: env("PAPERCLIP_HOME"),
        user_home: request.host_env.home_dir.clone(),
        instance_id: env("PAPERCLIP_INSTANCE_ID"),
        skills: prepared.skills.clone(),
        instructions,
        copies: request.grants.volume == VolumeMode::Scoped,
    };
    let link = async |source: String, target: String| host.link(&source, &target).await;
    let (bundle, warnings) = bundle::prepare(spec, link).await?;
    for warning in warnings {
        log.err(warning).await;
    }
    shared::make_scoped_folders(request, Some(&bundle)).await?;
    Ok(bundle)
}

/// `(2): a, b`, or `(0): none`.
pub(super) fn skill_summary(prepared: &Prepared) -> String {
    let names: Vec<&str> = prepared.skills.iter().map(|skill| skill.runtime_name.as_str()).collect();
    let listed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    format!("({}): {listed}", names.len())
}

/// The agent's instructions with their directive; `None` and a warning when the file cannot be read.
async fn read_instructions(log: &LogSink, request: &Request, path: &str) -> Result<Option<String>, RunError> {
    match shared::read_instructions(request, path).await {
        Ok(bytes) => Ok(Some(with_directive(&String::from_utf8_lossy(&bytes), path))),
        Err(Unread::NotGranted(why)) => Err(RunError::NotGranted(why)),
        Err(Unread::Failed(error)) => {
            log.err(format!(
                "[paperclip] Warning: could not read agent instructions file \"{path}\": {}",
                node_read_error(&error, path)
            ))
            .await;
            Ok(None)
        }
    }
}

/// Node's wording for the most common failures; operators search for it.
fn node_read_error(error: &std::io::Error, path: &str) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("ENOENT: no such file or directory, open '{path}'"),
        std::io::ErrorKind::PermissionDenied => format!("EACCES: permission denied, open '{path}'"),
        _ => error.to_string(),
    }
}

fn with_directive(text: &str, path: &str) -> String {
    let dir = path.rfind('/').map_or("./".to_owned(), |at| path[..=at].to_owned());
    format!(
        "{text}\nThe agent instructions above come from {path}. Resolve every relative file reference in them \
         against {dir}. For sibling instruction files such as ./HEARTBEAT.md, ./SOUL.md and ./TOOLS.md that \
         directory is authoritative: do not look for them in the parent agent directory."
    )
}
