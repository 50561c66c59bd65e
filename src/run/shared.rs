//! Which files of the host's machine agents can write, and so must not choose for it.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use crate::cluster::{ApiError, ApiErrorKind};
use crate::request::{HostEnv, Request};

use super::folder::Folder;
use super::start::bundle::{BundleError, make_folders};
use super::{RunError, timing};
use crate::manifest::{self, PromptBundle, ScopedFolder};

/// Where the shared volume is mounted in the pods of host and agents.
const MOUNT: &str = "/paperclip";

/// The folders that agents may write, what they really are, and where else the same files are mounted.
async fn written_by_agents(env: &HostEnv) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from(MOUNT)];
    folders.extend(env.paperclip_home().and_then(|home| std::path::absolute(home).ok()));
    // Linux alone has this list.
    let mounts = tokio::fs::read("/proc/self/mountinfo").await.unwrap_or_default();
    let mounts: Vec<Mounted> = mounts.split(|byte| *byte == b'\n').filter_map(Mounted::of).collect();
    for at in 0..folders.len() {
        if let Ok(real) = tokio::fs::canonicalize(&folders[at]).await {
            folders.extend(also_at(&mounts, &real));
            folders.push(real);
        }
    }
    folders
}

/// A mount of this process.
#[derive(Debug)]
struct Mounted {
    /// The number of the file system.
    device: Vec<u8>,
    /// Which folder of it is mounted.
    root: PathBuf,
    /// Where.
    at: PathBuf,
}

impl Mounted {
    /// A line of `/proc/self/mountinfo`.
    fn of(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let device = fields.next()?.to_owned();
        let mut path = || fields.next().map(unescaped);
        Some(Self { device, root: path()?, at: path()? })
    }
}

/// A path of `/proc/self/mountinfo`: what would end a field there is written as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let (mut path, mut left) = (Vec::new(), field);
    while let Some((first, rest)) = left.split_first() {
        let digits =
            rest.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                left = &rest[3..];
            }
            None => {
                path.push(*first);
                left = rest;
            }
        }
    }
    OsString::from_vec(path).into()
}

/// Where else the files of a folder, or of a part of it, are found: a volume can be mounted more than once.
fn also_at(mounts: &[Mounted], folder: &Path) -> Vec<PathBuf> {
    // Of two mounts at one place the later one counts.
    let own = mounts.iter().filter(|mount| folder.starts_with(&mount.at));
    let Some(own) = own.max_by_key(|mount| mount.at.components().count()) else { return Vec::new() };
    let Ok(inside) = folder.strip_prefix(&own.at) else { return Vec::new() };
    let origin = own.root.join(inside);
    let same = mounts.iter().filter(|mount| mount.device == own.device);
    let place = |mount: &Mounted| match origin.strip_prefix(&mount.root) {
        Ok(rest) if rest == Path::new("") => Some(mount.at.clone()),
        Ok(rest) => Some(mount.at.join(rest)),
        Err(_) => mount.root.starts_with(&origin).then(|| mount.at.clone()),
    };
    same.filter_map(place).filter(|place| place != folder).collect()
}

/// The file to read for a request's `kubeconfig`, where the operator grants it. Such a file runs commands on the host (exec
/// plugins) and sends files of it as tokens (`tokenFile`): an agent that could write it would be the host. So it is read by
/// a path on which agents can put nothing else meanwhile, which may not be the path that was asked for.
pub(super) async fn granted_kubeconfig(request: &Request) -> Result<Option<String>, ApiError> {
    let Some(path) = request.config.kubeconfig.as_deref() else { return Ok(None) };
    let refuse = |text: String| Err(ApiError::local(ApiErrorKind::Setup, "check the kubeconfig", text));
    let real = match tokio::fs::canonicalize(path).await {
        Ok(real) => real,
        Err(error) => return refuse(node_words(&error, "the kubeconfig", path)),
    };
    if let Some(granted) = &request.grants.kubeconfigs {
        for file in granted {
            if tokio::fs::canonicalize(file).await.is_ok_and(|file| file == real) {
                // As the operator names it: the other path may be a link of the agent's.
                return Ok(Some(file.clone()));
            }
        }
        return refuse(format!(
            "kubeconfig = {path:?} is not on the operator's list PAPERCLIP_K8S_KUBECONFIGS"
        ));
    }
    let folders = written_by_agents(&request.host_env).await;
    let given = std::path::absolute(path).unwrap_or_else(|_| real.clone());
    let passed = passed_through(&given, &folders).unwrap_or_else(|_| folders.first().cloned());
    let folder = passed.or_else(|| folders.iter().find(|folder| real.starts_with(folder)).cloned());
    match folder {
        Some(folder) => refuse(format!(
            "kubeconfig = {path:?} is below {}, where agents can write: a kubeconfig can run commands as Paperclip. Move it, \
             or name it in PAPERCLIP_K8S_KUBECONFIGS in Paperclip's environment",
            folder.display()
        )),
        // One file has one client, however it is spelled.
        None if given.components().any(|part| part == Component::ParentDir) || given.starts_with("/proc") => {
            Ok(Some(real.into_os_string().into_string().unwrap_or_else(|_| path.to_owned())))
        }
        None => Ok(Some(given.into_os_string().into_string().unwrap_or_else(|_| path.to_owned()))),
    }
}

/// The most links on the way to a file, as Linux has it.
const MOST_LINKS: usize = 40;

/// The first of these folders that an absolute path leads through, by whatever links: what is in it can be swapped between
/// one look and the next.
fn passed_through(path: &Path, folders: &[PathBuf]) -> io::Result<Option<PathBuf>> {
    let parts = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
    };
    let mut left = parts(path);
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next() {
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            Some(Component::Normal(name)) => at.push(name),
            Some(Component::RootDir) => at = PathBuf::from("/"),
            _ => continue,
        }
        if let Some(folder) = folders.iter().find(|folder| at.starts_with(folder)) {
            return Ok(Some(folder.clone()));
        }
        if std::fs::symlink_metadata(&at)?.is_symlink() {
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::other("too many links"));
            }
            let target = std::fs::read_link(&at)?;
            at.pop();
            left.extend(parts(&target));
        }
    }
    Ok(None)
}

/// Makes the folders that an agent gets of the shared volume and that are not there: a kubelet would make them as root.
pub(super) async fn make_scoped_folders(
    request: &Request,
    bundle: Option<&PromptBundle>,
) -> Result<(), RunError> {
    let folders = manifest::scoped_folders(request, bundle);
    let folders = folders.map_err(|error| RunError::NotGranted(error.to_string()))?.unwrap_or_default();
    let made = tokio::task::spawn_blocking(move || make_below(Path::new(MOUNT), &folders));
    match tokio::time::timeout(timing::FILES_LIMIT, made).await {
        Ok(Ok(made)) => made.map_err(RunError::Bundle),
        _ => Err(RunError::NotGranted(format!("the folders below {MOUNT} cannot be made"))),
    }
}

fn make_below(mount: &Path, folders: &[ScopedFolder]) -> Result<(), BundleError> {
    // Outside of a pod there is no volume.
    if !mount.is_dir() {
        return Ok(());
    }
    let mut writable = folders.iter().filter(|folder| !folder.read_only);
    writable.try_for_each(|folder| make_folders(mount, Path::new(&folder.path), 0o770).map(drop))
}

/// The most instances that are checked.
const MOST_INSTANCES: usize = 16;

/// What of the host's own lies in its home, where an agent that has the whole volume reads and writes it.
pub(super) async fn of_the_server_in(home: PathBuf) -> Vec<String> {
    let find = move || {
        let mut found: Vec<String> = ["plugins", "adapter-plugins", ".env"].map(str::to_owned).into();
        // Agents can make more of these than there are.
        let instances = std::fs::read_dir(home.join("instances")).into_iter().flatten().flatten();
        for instance in instances.take(MOST_INSTANCES) {
            let name = instance.file_name().to_string_lossy().into_owned();
            found.extend(["secrets", "db", ".env"].map(|of| format!("instances/{name}/{of}")));
        }
        found.retain(|name| home.join(name).exists());
        found
    };
    tokio::task::spawn_blocking(find).await.unwrap_or_default()
}

/// Whether a path is on the volume that agents share.
pub(super) fn is_on_the_volume(path: &Path) -> bool {
    path.starts_with(MOUNT)
}

/// Why instructions were not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The operator does not grant this file.
    NotGranted(String),
    /// The file system refused, or did not answer in time.
    Failed(io::Error),
}

/// The most that instructions may have, in bytes.
const MAX_INSTRUCTIONS: u64 = 1 << 20;

/// What a host keeps for itself in the folder of an instance.
const OF_THE_SERVER: [&str; 11] = [
    ".env",
    "ai-local-logins",
    "config.json",
    "context.json",
    "data",
    "db",
    "import-transfers",
    "logs",
    "runtime-services",
    "secrets",
    "telemetry",
];

/// Reads an agent's instructions: a regular file of at most 1 MiB below the host's home or a folder that the operator
/// names, and not one that the host keeps for itself. With a scoped volume it must be one of the agent's own, or of those
/// folders: the agent would see a file that its pod does not have.
pub(super) async fn read_instructions(request: &Request, path: &str) -> Result<Vec<u8>, Unread> {
    let home = request.host_env.paperclip_home().map(PathBuf::from);
    let granted = request.grants.instructions_dirs.clone();
    let owner = Owner::of(request);
    let file = PathBuf::from(path);
    let master_key = manifest::master_key_file(&request.host_env).map(PathBuf::from);
    let read = tokio::task::spawn_blocking(move || {
        read_granted(&file, home.as_deref(), &granted, owner.as_ref(), master_key.as_deref())
    });
    match tokio::time::timeout(timing::FILES_LIMIT, read).await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => Err(Unread::Failed(io::Error::other(error))),
        Err(_) => Err(Unread::Failed(io::Error::from(io::ErrorKind::TimedOut))),
    }
}

/// Whose instructions are read, where that limits them.
#[derive(Debug)]
struct Owner {
    agent: String,
    company: String,
    /// The folders that the agent gets of the shared volume.
    folders: Vec<PathBuf>,
}

impl Owner {
    /// The agent of a request; `None` where it has the whole volume.
    fn of(request: &Request) -> Option<Self> {
        // A folder that an agent may not have ends its run later.
        let folders = manifest::scoped_folders(request, None).unwrap_or_else(|_| Some(Vec::new()))?;
        Some(Self {
            agent: request.agent.id.clone(),
            company: request.agent.company_id.clone(),
            folders: folders.into_iter().map(|folder| Path::new(MOUNT).join(folder.path)).collect(),
        })
    }

    /// Whether a file, by its real path and by that from the host's home, is the agent's own.
    fn owns(&self, real: &Path, inside: &Path) -> bool {
        match names(inside).as_slice() {
            ["instances", _, "companies", company, "agents", agent, ..] => {
                *company == self.company && *agent == self.agent
            }
            ["instances", _, "companies" | "projects", company, ..] => *company == self.company,
            ["instances", _, "workspaces", agent, ..] => *agent == self.agent,
            _ => self.folders.iter().any(|folder| real.starts_with(folder)),
        }
    }
}

fn read_granted(
    path: &Path,
    home: Option<&Path>,
    granted: &[String],
    owner: Option<&Owner>,
    master_key: Option<&Path>,
) -> Result<Vec<u8>, Unread> {
    let refuse =
        |why: &str| Err(Unread::NotGranted(format!("instructionsFilePath = \"{}\": {why}", path.display())));
    let real = std::fs::canonicalize(path).map_err(Unread::Failed)?;
    let below = |folder: &Path| {
        let folder = std::fs::canonicalize(folder).ok()?;
        let inside = real.strip_prefix(&folder).ok()?.to_owned();
        Some((folder, inside))
    };
    let listed = granted.iter().find_map(|folder| below(Path::new(folder)));
    let is_listed = listed.is_some();
    let (folder, inside) = match listed {
        Some(listed) => listed,
        None => {
            let Some((home, inside)) = home.and_then(below) else {
                return refuse(
                    "is not below PAPERCLIP_HOME, nor below a folder of PAPERCLIP_K8S_INSTRUCTIONS_DIRS in Paperclip's environment",
                );
            };
            let is_master_key =
                || master_key.and_then(|key| std::fs::canonicalize(key).ok()).is_some_and(|key| key == real);
            if is_of_the_server(&inside) || is_master_key() {
                return refuse("is a file that only the server may read");
            }
            if owner.is_some_and(|owner| !owner.owns(&real, &inside)) {
                return refuse(
                    "is not one of this agent's files (PAPERCLIP_K8S_VOLUME=scoped), nor below a folder of \
                     PAPERCLIP_K8S_INSTRUCTIONS_DIRS in Paperclip's environment",
                );
            }
            (home, inside)
        }
    };
    let unusable = "is not a regular file of at most 1 MiB";
    let (Some(above), Some(name)) = (inside.parent(), inside.file_name()) else { return refuse(unusable) };
    // From the folder's descriptor on: what an agent puts there meanwhile is not followed.
    let file =
        Folder::open(&folder).and_then(|folder| folder.below(above)).and_then(|above| above.file(name));
    let file = file.map_err(Unread::Failed)?;
    let meta = file.metadata().map_err(Unread::Failed)?;
    if !meta.is_file() || meta.len() > MAX_INSTRUCTIONS {
        return refuse(unusable);
    }
    // The other name may be one that only the server may read.
    if !is_listed && meta.nlink() > 1 {
        return refuse("is a file with more than one name (a hard link): its other name cannot be checked");
    }
    let mut text = Vec::new();
    // It may grow meanwhile.
    file.take(MAX_INSTRUCTIONS + 1).read_to_end(&mut text).map_err(Unread::Failed)?;
    if text.len() as u64 > MAX_INSTRUCTIONS { refuse(unusable) } else { Ok(text) }
}

/// The names of a path's parts; what is not UTF-8 is empty.
fn names(path: &Path) -> Vec<&str> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_str().unwrap_or_default()),
            _ => None,
        })
        .collect()
}

/// Whether a host keeps this file, named from its home, for itself. Some volumes, such as shares of Windows, find a file by
/// its name in other letter case, too.
fn is_of_the_server(inside: &Path) -> bool {
    // First to upper case: some letters have more than one lower case.
    let folded = OsString::from(inside.to_string_lossy().to_uppercase().to_lowercase());
    let parts = names(Path::new(&folded));
    let is_kept = match parts.as_slice() {
        ["instances", _, name, ..] => OF_THE_SERVER.contains(name),
        // Credentials of tools are in hidden folders of a home, plugins are the host's code.
        [name, ..] => name.starts_with('.') || OF_THE_SERVER.contains(name) || name.ends_with("plugins"),
        [] => true,
    };
    is_kept || parts.last().is_some_and(|name| manifest::is_key_file(name))
}

/// Node's wording for the most common failures; operators search for it.
pub(super) fn node_words(error: &std::io::Error, what: &str, path: &str) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("ENOENT: no such file or directory, open '{path}'"),
        std::io::ErrorKind::PermissionDenied => format!("EACCES: permission denied, open '{path}'"),
        _ => format!("cannot read {what} {path}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(kubeconfig: &Path, env: serde_json::Value) -> Request {
        let request = json!({"config": {"kubeconfig": kubeconfig}, "hostEnv": env});
        Request::parse(&request.to_string()).expect("a request")
    }

    /// A folder with the home of a host in it, and a kubeconfig beside and inside of that.
    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("shared-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("home/agent")).expect("made");
        for file in ["home/agent/config", "config"] {
            std::fs::write(dir.join(file), "apiVersion: v1").expect("written");
        }
        dir
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn kubeconfig_that_agents_can_write_is_refused() {
        let dir = folder("written");
        let home = dir.join("home");
        std::os::unix::fs::symlink("home/agent/config", dir.join("link")).expect("linked");
        std::os::unix::fs::symlink("../../config", home.join("agent/out")).expect("linked");
        std::os::unix::fs::symlink("home", dir.join("linked-home")).expect("linked");
        for path in ["home/agent/config", "link", "home/agent/out", "linked-home/agent/config"] {
            for home in ["home", "linked-home"] {
                let request = request(&dir.join(path), json!({"PAPERCLIP_HOME": dir.join(home)}));
                let error = granted_kubeconfig(&request).await.expect_err(path).to_string();
                assert!(error.contains("where agents can write"), "{path}: {error}");
            }
        }
        let env = json!({"PAPERCLIP_HOME": home});
        // The end of the way is the operator's file, and agents can swap what is on it.
        let name = dir.file_name().and_then(|name| name.to_str()).expect("text");
        std::os::unix::fs::symlink(home.join("agent"), dir.join("way")).expect("linked");
        for way in [format!("../{name}/home/agent/out"), "way/out".to_owned(), "way/../../config".to_owned()]
        {
            let request = request(&dir.join(&way), env.clone());
            let error = granted_kubeconfig(&request).await.expect_err(&way).to_string();
            assert!(error.contains("where agents can write"), "{way}: {error}");
        }
        let root =
            Path::new("/proc/self/root").join(home.join("agent/out").strip_prefix("/").expect("absolute"));
        if Path::new("/proc/self/root").exists() {
            assert!(
                granted_kubeconfig(&request(&root, env.clone())).await.is_err(),
                "by the root of a process"
            );
        }
        let spelled = dir.join("../").join(name).join("./config");
        let used = granted_kubeconfig(&request(&spelled, env.clone())).await.expect("outside of the home");
        let real = dir.join("config").canonicalize().expect("there");
        assert_eq!(used.as_deref().map(Path::new), Some(real.as_path()), "one file has one name");
        granted_kubeconfig(&request(&dir.join("config"), env)).await.expect("outside of the home");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[cfg(unix)]
    #[test]
    fn instructions_are_a_small_file_of_the_home() {
        let dir = folder("instructions");
        let home = dir.join("home");
        for folder in ["instances/default/secrets", "instances/default/companies/c", "plugins", ".claude"] {
            std::fs::create_dir_all(home.join(folder)).expect("made");
        }
        let good = home.join("instances/default/companies/c/AGENTS.md");
        std::fs::write(&good, "Be brief.").expect("written");
        for own in
            ["instances/default/secrets/master.key", "instances/default/.env", "plugins/p.js", ".claude/x"]
        {
            std::fs::write(home.join(own), "s3cret").expect("written");
        }
        std::fs::write(home.join("agent/large"), vec![b'x'; (1 << 20) + 1]).expect("written");
        for (at, to) in [
            ("agent/zero", "/dev/zero"),
            ("agent/out", "../../config"),
            ("agent/key", "../instances/default/secrets/master.key"),
        ] {
            std::os::unix::fs::symlink(to, home.join(at)).expect("linked");
        }
        let pipe = home.join("agent/pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("run").success());
        assert_eq!(read_granted(&good, Some(&home), &[], None, None).expect("read"), b"Be brief.");
        for (path, why) in [
            ("agent/zero", "is not below PAPERCLIP_HOME"),
            ("agent/out", "is not below PAPERCLIP_HOME"),
            ("../config", "is not below PAPERCLIP_HOME"),
            ("agent/key", "only the server may read"),
            ("instances/default/secrets/master.key", "only the server may read"),
            ("instances/default/.env", "only the server may read"),
            ("plugins/p.js", "only the server may read"),
            (".claude/x", "only the server may read"),
            ("agent/large", "is not a regular file of at most 1 MiB"),
            ("agent/pipe", "is not a regular file of at most 1 MiB"),
            ("agent", "is not a regular file of at most 1 MiB"),
        ] {
            match read_granted(&home.join(path), Some(&home), &[], None, None) {
                Err(Unread::NotGranted(text)) => assert!(text.contains(why), "{path}: {text}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        let listed = [dir.display().to_string()];
        assert!(
            read_granted(&dir.join("config"), Some(&home), &listed, None, None).is_ok(),
            "the operator names the folder"
        );
        let zero = ["/dev".to_owned()];
        assert!(matches!(
            read_granted(Path::new("/dev/zero"), Some(&home), &zero, None, None),
            Err(Unread::NotGranted(_))
        ));
        assert!(matches!(
            read_granted(&home.join("gone"), Some(&home), &[], None, None),
            Err(Unread::Failed(_))
        ));
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn key_of_the_server_is_no_instructions_by_any_name() {
        let dir = folder("key-names");
        let home = dir.join("home");
        let secrets = home.join("instances/default/secrets");
        std::fs::create_dir_all(&secrets).expect("made");
        std::fs::create_dir_all(home.join("instances/default/SECRETS")).expect("made");
        std::fs::create_dir_all(home.join("instances/default/\u{17f}ecrets")).expect("made");
        for file in [
            "instances/default/secrets/master.key",
            "instances/default/SECRETS/x",
            "instances/default/\u{17f}ecrets/x",
            "agent/Master.Key",
            "agent/tls.key",
            "agent/of-the-server",
            "agent/own",
        ] {
            std::fs::write(home.join(file), "s3cret").expect("written");
        }
        std::fs::hard_link(secrets.join("master.key"), home.join("agent/linked")).expect("linked");
        let key = home.join("agent/../agent/of-the-server");
        let read = |path: &str, listed: &[String]| {
            read_granted(&home.join(path), Some(&home), listed, None, Some(&key))
        };
        for (path, why) in [
            ("instances/default/SECRETS/x", "only the server may read"),
            ("instances/default/\u{17f}ecrets/x", "only the server may read"),
            ("agent/Master.Key", "only the server may read"),
            ("agent/tls.key", "only the server may read"),
            ("agent/of-the-server", "only the server may read"),
            ("agent/linked", "more than one name"),
        ] {
            match read(path, &[]) {
                Err(Unread::NotGranted(text)) => assert!(text.contains(why), "{path}: {text}"),
                other => panic!("{path}: {other:?}"),
            }
        }
        assert!(read("agent/own", &[]).is_ok());
        let listed = [home.join("agent").display().to_string()];
        assert!(read("agent/linked", &listed).is_ok(), "the operator names the folder");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn folder_that_is_mounted_again_is_found_there() {
        let of = |line: &str| Mounted::of(line.as_bytes()).expect("a mount");
        let mounts = [
            of("1 0 0:50 / / rw,relatime master:1 - overlay overlay rw"),
            of("2 1 8:1 /var/volumes/pvc-1/home /paperclip rw shared:1 - ext4 /dev/sda1 rw"),
            of("3 1 8:1 /var/volumes/pvc-1 /mnt/all\\040of\\040it rw - ext4 /dev/sda1 rw"),
            of("4 1 8:1 /var/volumes/pvc-1/home/repos /repos rw - ext4 /dev/sda1 rw"),
            of("5 1 8:1 /var/volumes/pvc-2 /other rw - ext4 /dev/sda1 rw"),
            of("6 1 8:1 /var/lib/kubelet/pods/u/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw"),
            of("7 1 8:2 /var/volumes/pvc-1/home /elsewhere rw - ext4 /dev/sdb1 rw"),
        ];
        let places = |folder: &str| -> Vec<String> {
            let places = also_at(&mounts, Path::new(folder));
            places.iter().map(|place| place.display().to_string()).collect()
        };
        assert_eq!(places("/paperclip"), ["/mnt/all of it/home", "/repos"]);
        assert_eq!(places("/paperclip/instances"), ["/mnt/all of it/home/instances"]);
        assert_eq!(places("/repos"), ["/paperclip/repos", "/mnt/all of it/home/repos"]);
        assert!(places("/home/node/.paperclip").is_empty());
        assert!(Mounted::of(b"1 0").is_none() && Mounted::of(b"").is_none());
    }

    #[test]
    fn instructions_of_others_are_not_shown_to_a_scoped_agent() {
        let dir = folder("scoped-instructions");
        let home = dir.join("home");
        let request = json!({
            "agent": {"id": "a-1", "companyId": "c-1"},
            "context": {"paperclipWorkspace": {"cwd": "/paperclip/repos/x"}},
            "hostEnv": {"PAPERCLIP_HOME": "/paperclip", "PAPERCLIP_K8S_VOLUME": "scoped"},
        });
        let owner = Owner::of(&Request::parse(&request.to_string()).expect("a request")).expect("scoped");
        let within = Path::new(MOUNT).join("repos/x/AGENTS.md");
        assert!(owner.owns(&within, Path::new("repos/x/AGENTS.md")), "its workspace");
        for (path, is_own) in [
            ("companies/c-1/agents/a-1/instructions/AGENTS.md", true),
            ("companies/c-1/shared.md", true),
            ("projects/c-1/p/repo/AGENTS.md", true),
            ("workspaces/a-1/AGENTS.md", true),
            ("companies/c-1/agents/a-2/instructions/AGENTS.md", false),
            ("companies/c-2/agents/a-1/instructions/AGENTS.md", false),
            ("projects/c-2/p/repo/.env", false),
            ("workspaces/a-2/notes.md", false),
            ("other/notes.md", false),
            ("../../elsewhere/notes.md", false),
        ] {
            let file = home.join("instances/default").join(path);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            std::fs::write(&file, "text").expect("written");
            let read = read_granted(&file, Some(&home), &[], Some(&owner), None);
            assert_eq!(read.is_ok(), is_own, "{path}");
            assert!(
                read_granted(&file, Some(&home), &[], None, None).is_ok(),
                "{path}: it has the whole volume"
            );
            let listed = [file.parent().expect("a folder").display().to_string()];
            assert!(
                read_granted(&file, Some(&home), &listed, Some(&owner), None).is_ok(),
                "{path}: it is listed"
            );
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn scoped_folders_are_made_and_no_link_is_followed() {
        let dir = folder("scoped");
        let scoped = |path: &str, read_only| ScopedFolder { path: path.to_owned(), read_only };
        make_below(&dir, &[scoped("w/a", false), scoped("bundle", true)]).expect("made");
        assert!(dir.join("w/a").is_dir() && !dir.join("bundle").exists());
        std::os::unix::fs::symlink("../home", dir.join("w/b")).expect("linked");
        let error = make_below(&dir, &[scoped("w/b", false)]).expect_err("a link").to_string();
        assert!(error.contains("it is not a folder"), "{error}");
        make_below(&dir.join("nowhere"), &[scoped("w", false)]).expect("outside of a pod");

        std::fs::create_dir_all(dir.join("instances/default/secrets")).expect("made");
        std::fs::create_dir_all(dir.join("plugins")).expect("made");
        assert_eq!(of_the_server_in(dir.clone()).await, ["plugins", "instances/default/secrets"]);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[tokio::test]
    async fn kubeconfig_list_is_closed_and_opens_what_it_names() {
        let dir = folder("listed");
        let inside = dir.join("home/agent/config");
        let list = format!("/nowhere:{}", inside.display());
        let env = json!({"PAPERCLIP_HOME": dir.join("home"), "PAPERCLIP_K8S_KUBECONFIGS": list});
        granted_kubeconfig(&request(&inside, env.clone())).await.expect("it is listed");
        #[cfg(unix)]
        {
            let link = dir.join("home/agent/link");
            std::os::unix::fs::symlink(&inside, &link).expect("linked");
            let used =
                granted_kubeconfig(&request(&link, env.clone())).await.expect("what it leads to is listed");
            assert_eq!(used.as_deref(), inside.to_str(), "an agent can swap its own link");
        }
        let error = granted_kubeconfig(&request(&dir.join("config"), env)).await.expect_err("not listed");
        assert!(error.to_string().ends_with("is not on the operator's list PAPERCLIP_K8S_KUBECONFIGS"));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
