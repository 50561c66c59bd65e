//! The prompt bundle: instructions and skills laid out once per content on the shared volume
//! (`docs/contract.md`, "Prompt bundle").

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use super::claim::unique;
use crate::manifest::{PromptBundle, Skill};
use crate::run::folder::Folder;
use crate::run::{HostError, timing};

/// What a bundle is made of, and where.
#[derive(Debug, Clone)]
pub(crate) struct BundleSpec {
    /// `agent.companyId`, a path segment of the bundle.
    pub(crate) company_id: String,
    /// `PAPERCLIP_HOME`, or `None` for `{home}/.paperclip`.
    pub(crate) paperclip_home: Option<String>,
    /// The home directory of the host's user; empty when there is none.
    pub(crate) user_home: String,
    /// `PAPERCLIP_INSTANCE_ID`, or `None` for `default`.
    pub(crate) instance_id: Option<String>,
    /// Skills to link, in order.
    pub(crate) skills: Vec<Skill>,
    /// The agent's instructions with their directive.
    pub(crate) instructions: Option<String>,
    /// Whether skills are copied, because pods see nothing but the bundle.
    pub(crate) copies: bool,
}

/// Why a bundle could not be made. The messages are the contract's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// A path segment that is empty or would leave its folder.
    #[error("Invalid {field}: {why}")]
    Segment {
        /// `companyId` or `instanceId`.
        field: &'static str,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// `PAPERCLIP_HOME` is not set, and neither is there a home directory to use instead.
    #[error("PAPERCLIP_HOME is not set and the user has no home directory")]
    NoHome,
    /// The file system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: String,
        /// What came back.
        source: io::Error,
    },
}

/// The largest file of a skill, in bytes: an agent can make one that takes hours to read.
const MAX_FILE: u64 = 256 << 20;
/// The most that the skills of a bundle may have together, in bytes.
const MAX_BYTES: u64 = 1 << 30;
/// The most files and folders of the skills of a bundle: through a link an agent can make a whole disk part of a skill.
const MAX_ENTRIES: usize = 100_000;
/// The file of the instructions in a bundle.
const INSTRUCTIONS: &str = "agent-instructions.md";

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BundleError {
    let path = path.display().to_string();
    move |source| BundleError::Io { what, path, source }
}

/// Makes the bundle: hash, folders, links, instructions file. `link` is the host's own helper ([`Host::link`]). Returns
/// the bundle with the warnings about skills that could not be linked, one line each.
///
/// [`Host::link`]: crate::run::Host::link
pub(crate) async fn prepare<F: Future<Output = Result<(), HostError>>>(
    mut spec: BundleSpec,
    link: impl Fn(String, String) -> F,
) -> Result<(PromptBundle, Vec<String>), BundleError> {
    let mut refused = Vec::new();
    spec.skills.retain(|skill| match checked_segment("runtimeName", &skill.runtime_name) {
        Ok(()) => true,
        Err(error) => {
            refused.push((skill.key.clone(), error.to_string()));
            false
        }
    });
    let hashed = spec.clone();
    let given_up = GivenUp::default();
    let stop = given_up.0.clone();
    let key = blocking(move || bundle_key(&hashed.skills, hashed.instructions.as_deref(), &stop)).await;
    drop(given_up);
    let key = key?;
    let key = if spec.copies { format!("{key}-copies") } else { key };
    let (home, below) = root_of(&spec)?;
    let below = below.join(&key);
    let root = home.join(&below);
    let skills_dir = root.join(".claude").join("skills");
    let folder = blocking(move || {
        let root = make_folders(&home, &below, 0o750)?;
        make_inside(&root, &home.join(&below), Path::new(".claude/skills"), 0o750)?;
        Ok(root)
    })
    .await?;
    for skill in &spec.skills {
        let target = skills_dir.join(&skill.runtime_name);
        if let Err(error) = link(skill.source.clone(), target.display().to_string()).await {
            refused.push((skill.key.clone(), error.to_string()));
        }
    }
    let into = skills_dir.display();
    let warning = |(key, error)| {
        format!("[paperclip] Failed to materialize Claude skill \"{key}\" into {into}: {error}")
    };
    let warnings: Vec<String> = refused.into_iter().map(warning).collect();
    let mut instructions_file_path = None;
    if let Some(text) = spec.instructions.filter(|text| !text.is_empty()) {
        let file = root.join(INSTRUCTIONS);
        let written = file.clone();
        blocking(move || write_instructions(&folder, &text).map_err(io_error("write", &written))).await?;
        instructions_file_path = Some(file.display().to_string());
    }
    let root_dir = root.display().to_string();
    let bundle =
        PromptBundle { bundle_key: key, add_dir: root_dir.clone(), root_dir, instructions_file_path };
    Ok((bundle, warnings))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
) -> Result<T, BundleError> {
    let failed = |source: io::Error| {
        Err(BundleError::Io { what: "prepare", path: "the prompt bundle".to_owned(), source })
    };
    match tokio::time::timeout(timing::FILES_LIMIT, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => failed(io::Error::other(error)),
        Err(_) => failed(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

/// The host's home, absolute, and `instances/{instance}/companies/{company}/claude-prompt-cache` below it.
fn root_of(spec: &BundleSpec) -> Result<(PathBuf, PathBuf), BundleError> {
    let given = |value: &Option<String>| {
        value.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let home = match given(&spec.paperclip_home) {
        Some(home) => PathBuf::from(home),
        None if spec.user_home.is_empty() => return Err(BundleError::NoHome),
        None => Path::new(&spec.user_home).join(".paperclip"),
    };
    let instance = given(&spec.instance_id).unwrap_or_else(|| "default".to_owned());
    checked_segment("companyId", &spec.company_id)?;
    checked_segment("instanceId", &instance)?;
    let below = Path::new("instances")
        .join(instance)
        .join("companies")
        .join(&spec.company_id)
        .join("claude-prompt-cache");
    Ok((std::path::absolute(&home).map_err(io_error("resolve", &home))?, below))
}

/// Makes the folders of a path below `home`, and opens the last one. A link on the way is not followed: an agent may have
/// put it there, to have the host write elsewhere. `mode` is that of a folder that is made; where the server is root, others
/// have the rights of its group.
pub(in crate::run) fn make_folders(home: &Path, below: &Path, mode: u32) -> Result<Folder, BundleError> {
    std::fs::create_dir_all(home).map_err(io_error("create", home))?;
    let home_folder = Folder::open(home).map_err(io_error("use", home))?;
    make_inside(&home_folder, home, below, mode)
}

/// The same from an open folder, whose path is `at`.
fn make_inside(folder: &Folder, at: &Path, below: &Path, mode: u32) -> Result<Folder, BundleError> {
    let mut folder = folder.below(Path::new("")).map_err(io_error("use", at))?;
    let mut path = at.to_owned();
    for name in below {
        path.push(name);
        folder = folder.made(name, mode).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => {
                let error = io::Error::other("it is not a folder, and what it is is not followed");
                io_error("use", &path)(error)
            }
            _ => io_error("create", &path)(error),
        })?;
    }
    Ok(folder)
}

fn checked_segment(field: &'static str, value: &str) -> Result<(), BundleError> {
    let why = if value.trim().is_empty() {
        "must not be empty"
    } else if value.contains(['/', '\\']) {
        "must not contain path separators"
    } else if value.contains("..") {
        "must not contain \"..\""
    } else if value == "." {
        "must not be \".\""
    } else if value.contains('\0') {
        "must not contain null bytes"
    } else {
        return Ok(());
    };
    Err(BundleError::Segment { field, why })
}

/// A damaged or older file is replaced, and so is a link that stands in its place; a rename makes the new one appear whole.
fn write_instructions(folder: &Folder, text: &str) -> io::Result<()> {
    let name = OsStr::new(INSTRUCTIONS);
    if folder.file(name).is_ok_and(|file| holds(file, text.as_bytes())) {
        return Ok(());
    }
    // A name that no agent can guess, and that must not be there.
    let temporary = format!("{INSTRUCTIONS}.{}.tmp", unique());
    let temporary = OsStr::new(&temporary);
    let written = folder.new_file(temporary, 0o640).and_then(|mut file| file.write_all(text.as_bytes()));
    let written = written.and_then(|()| folder.rename(temporary, name));
    if written.is_err() {
        let _ = folder.remove(temporary);
    }
    written
}

/// Whether this is a regular file with these bytes.
fn holds(file: std::fs::File, bytes: &[u8]) -> bool {
    let length = bytes.len() as u64;
    let mut present = Vec::new();
    file.metadata().is_ok_and(|there| there.is_file() && there.len() == length)
        && file.take(length + 1).read_to_end(&mut present).is_ok()
        && present == bytes
}

/// Is set when it is dropped: who works for a run that does not wait any more can stop.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// SHA-256 over instructions and skill contents in lower-case hex, files in byte order. 0.1.49 sorted by the host's
/// collation, which differs between machines. Ends early with an error once `stop` is set.
fn bundle_key(
    skills: &[Skill],
    instructions: Option<&str>,
    stop: &AtomicBool,
) -> Result<String, BundleError> {
    let mut hash = Sha256::new();
    hash.update("paperclip-claude-prompt-bundle:v1\n");
    match instructions.filter(|text| !text.is_empty()) {
        Some(text) => {
            hash.update("instructions\n");
            hash.update(text);
            hash.update("\n");
        }
        None => hash.update("instructions:none\n"),
    }
    let mut sorted: Vec<&Skill> = skills.iter().collect();
    sorted.sort_by(|a, b| a.runtime_name.as_bytes().cmp(b.runtime_name.as_bytes()));
    let mut walk = Walk { hash, buffer: vec![0; 64 * 1024], entries: 0, bytes: 0, stop };
    for skill in sorted {
        walk.hash.update(format!("skill:{}:{}\n", skill.key, skill.runtime_name));
        walk.tree(Path::new(&skill.source), &skill.runtime_name)?;
    }
    let mut hex = String::with_capacity(64);
    for byte in walk.hash.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

/// A folder of a skill, and what of it is left.
struct Level {
    path: PathBuf,
    /// Its name in the hash.
    relative: String,
    names: std::vec::IntoIter<OsString>,
}

/// A walk through the skills of a bundle. An agent may have written them: it has a list of what is still to do, and not a
/// call for each level, because a thread's stack ends before the levels of a folder do.
struct Walk<'a> {
    hash: Sha256,
    buffer: Vec<u8>,
    /// Files and folders so far.
    entries: usize,
    /// Bytes of files so far.
    bytes: u64,
    stop: &'a AtomicBool,
}

impl Walk<'_> {
    /// Everything below a path, which is called `name` in the hash. Links are followed, as the CLI follows them.
    fn tree(&mut self, path: &Path, name: &str) -> Result<(), BundleError> {
        let mut visited = HashSet::new();
        let mut levels: Vec<Level> = Vec::new();
        let mut next = Some((path.to_owned(), name.to_owned()));
        while let Some((path, relative)) = next {
            levels.extend(self.one(&path, relative, &mut visited)?);
            next = loop {
                let Some(level) = levels.last_mut() else { return Ok(()) };
                if let Some(name) = level.names.next() {
                    let relative = format!("{}/{}", level.relative, name.to_string_lossy());
                    break Some((level.path.join(name), relative));
                }
                levels.pop();
            };
        }
        Ok(())
    }

    /// One file, or what is to be done of a folder.
    fn one(
        &mut self,
        path: &Path,
        relative: String,
        visited: &mut HashSet<(u64, u64)>,
    ) -> Result<Option<Level>, BundleError> {
        self.check_stop(path)?;
        let mut path = path.to_owned();
        let mut meta = std::fs::symlink_metadata(&path).map_err(io_error("read", &path))?;
        if meta.is_symlink() {
            self.hash.update(format!("symlink:{relative}\n"));
            let Ok(resolved) = std::fs::canonicalize(&path) else {
                self.hash.update("missing\n");
                return Ok(None);
            };
            meta = std::fs::symlink_metadata(&resolved).map_err(io_error("read", &resolved))?;
            path = resolved;
        }
        if meta.is_dir() {
            self.hash.update(format!("dir:{relative}\n"));
            // Not the real path: to find it at each level takes as many steps as the square of their number.
            if !visited.insert((meta.dev(), meta.ino())) {
                self.hash.update("loop\n");
                return Ok(None);
            }
            let names = self.names(&path)?.into_iter();
            return Ok(Some(Level { path, relative, names }));
        }
        if meta.is_file() {
            self.hash.update(format!("file:{relative}\n"));
            self.file(&path)?;
            self.hash.update("\n");
        } else {
            self.hash.update(format!("other:{relative}:{}\n", meta.mode()));
        }
        Ok(None)
    }

    /// Ends the walk where the run does not wait any more.
    fn check_stop(&self, path: &Path) -> Result<(), BundleError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io_error("read", path)(io::Error::from(io::ErrorKind::TimedOut)));
        }
        Ok(())
    }

    /// The names in a folder, in byte order.
    fn names(&mut self, folder: &Path) -> Result<Vec<OsString>, BundleError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(io_error("list", folder))? {
            names.push(entry.map_err(io_error("list", folder))?.file_name());
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let error = format!("the skills of a bundle have at most {MAX_ENTRIES} files and folders");
                return Err(io_error("list", folder)(io::Error::other(error)));
            }
        }
        names.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
        Ok(names)
    }

    fn file(&mut self, path: &Path) -> Result<(), BundleError> {
        let mut options = std::fs::File::options();
        // A pipe may stand there by now: it is not waited for.
        let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.map_err(io_error("open", path))?;
        let meta = file.metadata().map_err(io_error("read", path))?;
        let too_much = |most: u64, what: &str| {
            let error = io::Error::other(format!("{what} at most {most} bytes"));
            Err(io_error("read", path)(error))
        };
        if !meta.is_file() {
            return Err(io_error("read", path)(io::Error::other("it is not a file any more")));
        }
        if meta.len() > MAX_FILE {
            return too_much(MAX_FILE, "a file of a skill has");
        }
        let mut file = file.take(MAX_FILE);
        loop {
            let read = file.read(&mut self.buffer).map_err(io_error("read", path))?;
            if read == 0 {
                return Ok(());
            }
            self.bytes += read as u64;
            if self.bytes > MAX_BYTES {
                return too_much(MAX_BYTES, "the skills of a bundle have");
            }
            self.check_stop(path)?;
            self.hash.update(&self.buffer[..read]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(skills: &[Skill], instructions: Option<&str>) -> Result<String, BundleError> {
        bundle_key(skills, instructions, &AtomicBool::new(false))
    }

    fn skill_at(source: &Path) -> Skill {
        Skill {
            key: "org/demo".to_owned(),
            runtime_name: "demo".to_owned(),
            source: source.display().to_string(),
        }
    }

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bundle-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("temp dir");
        dir
    }

    #[test]
    fn bundle_key_matches_the_vectors_of_0_1_49() {
        let key = |skills: &[Skill], text: Option<&str>| hashed(skills, text).expect("hash");
        assert_eq!(key(&[], None), "08bef4f10ef56ac0d71c5532f0ff338dabc4e7e078ed011e240b9e8a1df1b5fe");
        assert_eq!(key(&[], Some("")), key(&[], None));
        assert_eq!(
            key(&[], Some("hello")),
            "5adf2440c0354f9730927bd3c8a705ca21b989ba577ca761f1e05bf6198b284a"
        );
    }

    #[test]
    fn bundle_key_covers_every_kind_of_file_in_byte_order() {
        let dir = temp("kinds");
        std::fs::create_dir(dir.join("scripts")).expect("dir");
        for (name, text) in [("SKILL.md", "# demo\n"), ("Readme.txt", "r"), ("scripts/a.sh", "echo a\n")] {
            std::fs::write(dir.join(name), text).expect("file");
        }
        std::os::unix::fs::symlink("scripts", dir.join("link")).expect("link");
        std::os::unix::fs::symlink("gone", dir.join("broken")).expect("link");
        let skill = Skill {
            key: "org/demo".to_owned(),
            runtime_name: "demo".to_owned(),
            source: dir.display().to_string(),
        };
        let expected = concat!(
            "paperclip-claude-prompt-bundle:v1\ninstructions:none\nskill:org/demo:demo\n",
            "dir:demo\nfile:demo/Readme.txt\nr\nfile:demo/SKILL.md\n# demo\n\n",
            "symlink:demo/broken\nmissing\nsymlink:demo/link\ndir:demo/link\nfile:demo/link/a.sh\necho a\n\n",
            "dir:demo/scripts\nloop\n"
        );
        let mut hex = String::new();
        for byte in Sha256::digest(expected) {
            let _ = write!(hex, "{byte:02x}");
        }
        assert_eq!(hashed(&[skill], None).expect("hash"), hex);
        std::fs::remove_dir_all(dir).expect("clean up");
    }

    #[tokio::test]
    async fn unlinkable_skill_is_a_warning_and_others_are_linked() {
        let home = temp("links");
        let skill = |name: &str| {
            let source = home.join(name);
            std::fs::create_dir_all(&source).expect("skill");
            Skill {
                key: format!("org/{name}"),
                runtime_name: name.to_owned(),
                source: source.display().to_string(),
            }
        };
        let spec = BundleSpec {
            company_id: "c-1".to_owned(),
            paperclip_home: Some(home.display().to_string()),
            user_home: "/nowhere".to_owned(),
            instance_id: None,
            skills: vec![skill("bad"), skill("good")],
            instructions: Some("Be brief.".to_owned()),
            copies: false,
        };
        let linked = std::sync::Mutex::new(Vec::new());
        let link = async |source: String, target: String| {
            if source.ends_with("bad") {
                return Err(HostError("read-only".to_owned()));
            }
            linked.lock().expect("links").push(target);
            Ok(())
        };
        let (bundle, warnings) = prepare(spec, link).await.expect("bundle");
        let skills_dir = format!("{}/.claude/skills", bundle.root_dir);
        assert_eq!(
            warnings,
            [format!(
                "[paperclip] Failed to materialize Claude skill \"org/bad\" into {skills_dir}: read-only"
            )]
        );
        assert_eq!(*linked.lock().expect("links"), [format!("{skills_dir}/good")]);
        let file = bundle.instructions_file_path.expect("instructions");
        assert_eq!(std::fs::read_to_string(file).expect("read"), "Be brief.");
        std::fs::remove_dir_all(home).expect("clean up");
    }

    #[test]
    fn planted_link_is_neither_followed_nor_written_through() {
        let home = temp("planted");
        let target = home.join("target");
        std::fs::write(&target, "the host's").expect("file");
        let file = home.join("agent-instructions.md");
        // The link shows what is to be written: trusted, it could show something else to the agent's neighbour.
        std::os::unix::fs::symlink(&target, &file).expect("link");
        let folder = Folder::open(&home).expect("open");
        write_instructions(&folder, "the host's").expect("written");
        assert!(std::fs::symlink_metadata(&file).expect("there").is_file(), "a file of its own");
        std::fs::remove_file(&file).expect("removed");
        std::os::unix::fs::symlink(&target, &file).expect("link");
        write_instructions(&folder, "new").expect("written");
        assert_eq!(std::fs::read_to_string(&target).expect("read"), "the host's");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "new");

        std::fs::create_dir(home.join("elsewhere")).expect("made");
        std::os::unix::fs::symlink("elsewhere", home.join("instances")).expect("link");
        let error =
            make_folders(&home, Path::new("instances/default"), 0o750).expect_err("a link").to_string();
        assert!(error.contains("it is not a folder"), "{error}");
        assert_eq!(std::fs::read_dir(home.join("elsewhere")).expect("list").count(), 0);
        std::fs::remove_dir_all(home).expect("clean up");
    }

    #[test]
    fn bundle_can_be_read_by_its_group_only_unless_root_made_it() {
        use std::os::unix::fs::MetadataExt as _;
        let home = temp("modes");
        let folder = make_folders(&home, Path::new("a/b"), 0o750).expect("made");
        write_instructions(&folder, "text").expect("written");
        let file = "a/b/agent-instructions.md";
        for (path, mode, of_root) in [("a", 0o750, 0o755), ("a/b", 0o750, 0o755), (file, 0o640, 0o644)] {
            let meta = std::fs::metadata(home.join(path)).expect("there");
            let want = if meta.uid() == 0 { of_root } else { mode };
            assert_eq!(meta.mode() & 0o777, want, "{path}");
        }
        std::fs::remove_dir_all(home).expect("clean up");
    }

    #[tokio::test]
    async fn skill_whose_name_leaves_the_bundle_is_left_out() {
        let home = temp("names");
        let skill = |name: &str| Skill {
            key: "org/evil".to_owned(),
            runtime_name: name.to_owned(),
            source: home.display().to_string(),
        };
        for name in ["../../x", "a/b", "..", ".", "", "a\0b"] {
            let spec = BundleSpec {
                company_id: "c-1".to_owned(),
                paperclip_home: Some(home.join("home").display().to_string()),
                user_home: String::new(),
                instance_id: None,
                skills: vec![skill(name)],
                instructions: None,
                copies: false,
            };
            let link =
                async |_: String, target: String| -> Result<(), HostError> { panic!("{target} is linked") };
            let (_, warnings) = prepare(spec, link).await.expect("bundle");
            assert_eq!(warnings.len(), 1, "{name}");
            assert!(warnings[0].contains("/skills: Invalid runtimeName: must not"), "{warnings:?}");
        }
        std::fs::remove_dir_all(home).expect("clean up");
    }

    #[tokio::test]
    async fn skill_of_many_levels_does_not_end_the_host() {
        let home = temp("deep");
        let deep: PathBuf = std::iter::once(home.join("skill")).chain((0..400).map(|_| "d".into())).collect();
        std::fs::create_dir_all(&deep).expect("made");
        let skill = skill_at(&home.join("skill"));
        // As a run does it: the stack of such a thread is small.
        let key = blocking(move || hashed(&[skill], None)).await.expect("hash");
        assert_eq!(key.len(), 64);
        std::fs::remove_dir_all(home).expect("clean up");
    }

    #[test]
    fn skill_without_end_is_an_error() {
        let home = temp("endless");
        std::fs::create_dir(home.join("skill")).expect("made");
        std::fs::write(home.join("skill/SKILL.md"), "# Demo").expect("file");
        let walk = |entries, bytes, stop: bool| {
            let stop = AtomicBool::new(stop);
            let mut walk = Walk { hash: Sha256::new(), buffer: vec![0; 64], entries, bytes, stop: &stop };
            walk.tree(&home.join("skill"), "skill").map_err(|error| error.to_string())
        };
        walk(MAX_ENTRIES - 1, MAX_BYTES - 6, false).expect("that is what there may be");
        for (entries, bytes, stop, why) in [
            (MAX_ENTRIES, 0, false, "have at most 100000 files and folders"),
            (0, MAX_BYTES - 5, false, "the skills of a bundle have at most 1073741824 bytes"),
            (0, 0, true, "timed out"),
        ] {
            let error = walk(entries, bytes, stop).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
        std::fs::remove_dir_all(home).expect("clean up");
    }

    #[test]
    fn bundle_whose_folder_is_moved_is_not_written_elsewhere() {
        let home = temp("moved");
        let folder = make_folders(&home, Path::new("bundle/key"), 0o750).expect("made");
        std::fs::create_dir_all(home.join("elsewhere/key")).expect("made");
        std::fs::rename(home.join("bundle"), home.join("moved")).expect("moved");
        std::os::unix::fs::symlink("elsewhere", home.join("bundle")).expect("link");
        write_instructions(&folder, "text").expect("written");
        make_inside(&folder, &home.join("bundle/key"), Path::new(".claude/skills"), 0o750).expect("made");
        assert_eq!(std::fs::read_dir(home.join("elsewhere/key")).expect("list").count(), 0);
        assert!(home.join("moved/key/agent-instructions.md").is_file());
        std::fs::remove_dir_all(home).expect("clean up");
    }

    #[test]
    fn segment_that_would_leave_its_folder_is_refused() {
        for (value, why) in [
            ("", "must not be empty"),
            ("   ", "must not be empty"),
            ("..", "must not contain \"..\""),
            ("../x", "must not contain path separators"),
            ("a/b", "must not contain path separators"),
            ("a\\b", "must not contain path separators"),
            ("a\0b", "must not contain null bytes"),
        ] {
            let error = checked_segment("companyId", value).expect_err("refused").to_string();
            assert_eq!(error, format!("Invalid companyId: {why}"));
        }
        assert!(checked_segment("companyId", "c-1").is_ok());
    }

    #[test]
    fn damaged_instructions_are_written_again_and_no_temporary_file_stays() {
        let dir = temp("instructions");
        let file = dir.join("agent-instructions.md");
        std::fs::write(&file, "dama").expect("file");
        write_instructions(&Folder::open(&dir).expect("open"), "damaged no more").expect("write");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "damaged no more");
        assert_eq!(std::fs::read_dir(&dir).expect("list").count(), 1);
        std::fs::remove_dir_all(dir).expect("clean up");
    }
}
