//! The part of the shared volume that an agent gets with `PAPERCLIP_K8S_VOLUME=scoped`: Claude's folder and the workspace,
//! and the bundle to read. The rest, with the host's plugins, keys and database, is not in its pod.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Volume, VolumeMount};

use super::labels::{DATA_VOLUME, HOME_VOLUME};
use super::limits::ManifestError;
use super::self_pod::Inherited;
use super::volumes::mount;
use super::{HOME, PromptBundle, claude_home, working_dir};
use crate::request::{Request, VolumeMode};

/// A folder of the shared volume in the agent's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScopedFolder {
    /// Its path below `/paperclip`, without a slash at either end.
    pub(crate) path: String,
    /// Whether the agent can only read it.
    pub(crate) read_only: bool,
}

/// The folders that the agent of this request gets; `None` where it gets the whole volume.
///
/// # Errors
///
/// When the agent would work in a folder that is not one that agents get.
pub(crate) fn scoped_folders(
    request: &Request,
    bundle: Option<&PromptBundle>,
) -> Result<Option<Vec<ScopedFolder>>, ManifestError> {
    if request.grants.volume == VolumeMode::Whole {
        return Ok(None);
    }
    let host_home = request.host_env.paperclip_home().unwrap_or_default();
    let host_home = below_home(&host_home);
    let claude = claude_home(request).unwrap_or_else(|| format!("{HOME}/.claude"));
    let mut folders =
        vec![ScopedFolder { path: below_home(&claude).unwrap_or_default().join("/"), read_only: false }];

    let cwd = working_dir(request);
    match below_home(cwd) {
        // Not on the shared volume, or in the agent's own, empty home.
        None => {}
        Some(path) if path.is_empty() => {}
        Some(path) => {
            let by_agent = request.context.workspace_cwd().is_none();
            let depth = root_depth(&path, host_home.as_deref(), request, by_agent)
                .ok_or_else(|| ManifestError::NotScoped { path: cwd.to_owned() })?;
            folders.push(ScopedFolder { path: path[..depth].join("/"), read_only: false });
        }
    }
    // Where the agent keeps its own files, whatever it works on.
    if let Some(path) = request.context.workspace_text("agentHome").and_then(below_home)
        && let Some(depth) = root_depth(&path, host_home.as_deref(), request, true)
    {
        folders.push(ScopedFolder { path: path[..depth].join("/"), read_only: false });
    }
    if let Some(path) = bundle.and_then(|bundle| below_home(&bundle.root_dir)).filter(|path| !path.is_empty())
    {
        folders.push(ScopedFolder { path: path.join("/"), read_only: true });
    }
    folders.sort_by(|a, b| a.path.cmp(&b.path));
    folders.dedup_by(|b, a| b.path == a.path);
    // A mount inside of a folder that the agent can write could be led elsewhere by a link.
    let is_inside = |path: &str| folders.iter().any(|of| path.starts_with(&format!("{}/", of.path)));
    Ok(Some(folders.iter().filter(|each| !is_inside(&each.path)).cloned().collect()))
}

/// The parts of a path below `/paperclip`; `None` for another path, and for one with `..`.
fn below_home(path: &str) -> Option<Vec<&str>> {
    let rest = path.strip_prefix(HOME)?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let parts: Vec<&str> = rest.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.contains(&"..")).then_some(parts)
}

/// How many parts of a working folder's path are those of the folder that the agent gets; `None` where it gets none.
///
/// The host's own workspaces are given whole, so that nothing above a mounted folder is a folder that an agent can write: a
/// link there would lead the kubelet elsewhere. `by_agent`: the path is from the agent's configuration.
fn root_depth(path: &[&str], home: Option<&[&str]>, request: &Request, by_agent: bool) -> Option<usize> {
    let inside = home.and_then(|home| path.strip_prefix(home));
    let above = path.len() - inside.map_or(0, <[&str]>::len);
    match inside {
        Some(["instances", _, "workspaces", agent, ..]) => {
            (!by_agent || *agent == request.agent.id).then_some(above + 4)
        }
        Some(["instances", _, "projects", company, _, _, ..]) => {
            (*company == request.agent.company_id).then_some(above + 6)
        }
        Some(["instances", ..]) => None,
        _ if by_agent || home.is_some_and(|home| home.starts_with(path)) => None,
        _ => {
            let first = inside.unwrap_or(path).first()?;
            let is_own = first.starts_with('.') || first.ends_with("plugins");
            (!is_own && !path[0].starts_with('.')).then_some(path.len())
        }
    }
}

/// The volumes and mounts of the scoped home: an empty one, and the folders of the shared volume in it.
pub(super) fn home(inherited: &Inherited, folders: &[ScopedFolder]) -> (Vec<Volume>, Vec<VolumeMount>) {
    let Inherited { volume, mount: whole } = inherited;
    let empty = Volume {
        name: HOME_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let volumes = vec![empty, Volume { name: DATA_VOLUME.to_owned(), ..volume.clone() }];
    let above = whole.sub_path.as_deref().map(|path| path.trim_matches('/')).filter(|path| !path.is_empty());
    let of = |folder: &ScopedFolder| VolumeMount {
        name: DATA_VOLUME.to_owned(),
        mount_path: format!("{HOME}/{}", folder.path),
        sub_path: Some(above.map_or_else(|| folder.path.clone(), |above| format!("{above}/{}", folder.path))),
        read_only: if folder.read_only { Some(true) } else { whole.read_only },
        ..VolumeMount::default()
    };
    (volumes, std::iter::once(mount(HOME_VOLUME, HOME)).chain(folders.iter().map(of)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn folders(config: Value, workspace: Value) -> Result<Vec<String>, String> {
        let request = json!({
            "runId": "r", "agent": {"id": "a-1", "companyId": "c-1"}, "config": config,
            "context": {"paperclipWorkspace": workspace},
            "hostEnv": {"PAPERCLIP_HOME": "/paperclip", "PAPERCLIP_K8S_VOLUME": "scoped"},
        });
        let request = Request::parse(&request.to_string()).unwrap();
        let bundle = PromptBundle {
            root_dir: "/paperclip/instances/default/companies/c-1/claude-prompt-cache/k".to_owned(),
            ..PromptBundle::default()
        };
        let folders = scoped_folders(&request, Some(&bundle)).map_err(|error| error.to_string())?.unwrap();
        Ok(folders
            .into_iter()
            .map(|each| format!("{}{}", each.path, if each.read_only { " ro" } else { "" }))
            .collect())
    }

    const BUNDLE: &str = "instances/default/companies/c-1/claude-prompt-cache/k ro";

    #[test]
    fn agent_gets_claude_workspace_and_bundle() {
        assert_eq!(folders(json!({}), json!({})).unwrap(), [".claude", BUNDLE]);
        let cwd = "/paperclip/instances/default/projects/c-1/p-1/repo/.paperclip/worktrees/x";
        let home = "/paperclip/instances/default/workspaces/a-1";
        assert_eq!(
            folders(json!({"claudeHome": "agent"}), json!({"cwd": cwd, "agentHome": home})).unwrap()[1..],
            [BUNDLE, "instances/default/projects/c-1/p-1/repo", "instances/default/workspaces/a-1"]
        );
        assert_eq!(folders(json!({}), json!({"cwd": "/paperclip/repos/x"})).unwrap()[2..], ["repos/x"]);
        assert_eq!(folders(json!({}), json!({"cwd": "/tmp/x"})).unwrap(), [".claude", BUNDLE]);
        let own = folders(json!({"cwd": home}), json!({})).unwrap();
        assert_eq!(own[2..], ["instances/default/workspaces/a-1"]);
    }

    #[test]
    fn folders_of_server_and_neighbours_are_refused() {
        for cwd in [
            "/paperclip/instances",
            "/paperclip/instances/default",
            "/paperclip/instances/default/secrets",
            "/paperclip/instances/default/companies/c-1",
            "/paperclip/instances/default/projects/c-2/p/repo",
            "/paperclip/instances/default/projects/c-1/p",
            "/paperclip/plugins/x",
            "/paperclip/.claude/x",
        ] {
            let error = folders(json!({}), json!({"cwd": cwd})).unwrap_err();
            assert!(error.starts_with(&format!("The folder {cwd} is not one that agents get")), "{error}");
        }
        for cwd in ["/paperclip/instances/default/workspaces/a-2", "/paperclip/repos/x"] {
            assert!(folders(json!({"cwd": cwd}), json!({})).is_err(), "an agent chose {cwd}");
        }
        assert_eq!(
            folders(json!({"cwd": "/paperclip/x/../instances/default"}), json!({})).unwrap(),
            [".claude", BUNDLE],
            "a path with .. mounts nothing"
        );
    }

    #[test]
    fn scoped_home_keeps_the_sub_path_of_the_host() {
        let inherited = Inherited {
            volume: Volume { name: "store".to_owned(), ..Volume::default() },
            mount: VolumeMount { sub_path: Some("tenant/".to_owned()), ..mount("store", HOME) },
        };
        let folder = |path: &str, read_only| ScopedFolder { path: path.to_owned(), read_only };
        let (volumes, mounts) = home(&inherited, &[folder(".claude", false), folder("b", true)]);
        assert_eq!(
            serde_json::to_value(volumes).unwrap(),
            json!([{"name": "home", "emptyDir": {}}, {"name": "data"}])
        );
        assert_eq!(
            serde_json::to_value(mounts).unwrap(),
            json!([
                {"name": "home", "mountPath": "/paperclip"},
                {"name": "data", "mountPath": "/paperclip/.claude", "subPath": "tenant/.claude"},
                {"name": "data", "mountPath": "/paperclip/b", "subPath": "tenant/b", "readOnly": true}])
        );
    }
}
