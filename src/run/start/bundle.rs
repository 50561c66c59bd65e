//! The prompt bundle: instructions and skills laid out once per content on the shared volume
//! (`docs/contract.md`, "Prompt bundle").

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::claim::unique;
use crate::manifest::{PromptBundle, Skill};
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
    let key = blocking(move || bundle_key(&hashed.skills, hashed.instructions.as_deref())).await?;
    let key = if spec.copies { format!("{key}-copies") } else { key };
    let (home, below) = root_of(&spec)?;
    let below = below.join(&key).join(".claude").join("skills");
    let skills_dir = home.join(&below);
    blocking(move || make_folders(&home, &below, 0o750)).await?;
    let root = skills_dir.ancestors().nth(2).unwrap_or(&skills_dir).to_owned();
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
        let file = root.join("agent-instructions.md");
        let written = file.clone();
        blocking(move || write_instructions(&written, &text)).await?;
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

/// Makes the folders of a path below `home`. A link on the way is not followed: an agent may have put it there, to have the
/// host write elsewhere. `mode` is that of a folder that is made; where the server is root, others have the rights of its
/// group.
pub(in crate::run) fn make_folders(home: &Path, below: &Path, mode: u32) -> Result<(), BundleError> {
    std::fs::create_dir_all(home).map_err(io_error("create", home))?;
    let mut folder = home.to_owned();
    for part in below {
        folder.push(part);
        match std::fs::symlink_metadata(&folder) {
            Ok(there) if there.is_dir() => {}
            Ok(_) => {
                let error = io::Error::other("it is not a folder, and what it is is not followed");
                return Err(io_error("use", &folder)(error));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_folder(&folder, mode)?,
            Err(error) => return Err(io_error("create", &folder)(error)),
        }
    }
    Ok(())
}

#[cfg(unix)]
fn make_folder(folder: &Path, mode: u32) -> Result<(), BundleError> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error("create", folder)(error)),
        _ => set_mode(folder, mode).map_err(io_error("create", folder)),
    }
}

#[cfg(not(unix))]
fn make_folder(folder: &Path, _: u32) -> Result<(), BundleError> {
    std::fs::create_dir(folder).map_err(io_error("create", folder))
}

/// Agents have the server's user or group. A server that is root has neither in common with them: to what it makes, others
/// have the rights of its group.
#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let made = std::fs::symlink_metadata(path)?;
    if made.is_symlink() {
        return Ok(());
    }
    let mode = if made.uid() == 0 { mode | (mode & 0o070) >> 3 } else { mode };
    // A group that is inherited from the folder above stays so.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(made.mode() & 0o7000 | mode))
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
fn write_instructions(file: &Path, text: &str) -> Result<(), BundleError> {
    let there = std::fs::symlink_metadata(file);
    let same_size = there.is_ok_and(|there| there.is_file() && there.len() == text.len() as u64);
    if same_size && std::fs::read(file).is_ok_and(|present| present == text.as_bytes()) {
        return Ok(());
    }
    let mut temporary = file.as_os_str().to_owned();
    // A name that no agent can guess, and that must not be there.
    temporary.push(format!(".{}.tmp", unique()));
    let temporary = PathBuf::from(temporary);
    let written = write_new(&temporary, text).and_then(|()| std::fs::rename(&temporary, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(io_error("write", file))
}

fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut options = std::fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
    options.open(file)?.write_all(text.as_bytes())?;
    #[cfg(unix)]
    set_mode(file, 0o640)?;
    Ok(())
}

/// SHA-256 over instructions and skill contents in lower-case hex, files in byte order. 0.1.49 sorted by the host's
/// collation, which differs between machines.
fn bundle_key(skills: &[Skill], instructions: Option<&str>) -> Result<String, BundleError> {
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
    for skill in sorted {
        hash.update(format!("skill:{}:{}\n", skill.key, skill.runtime_name));
        hash_path(&mut hash, Path::new(&skill.source), &skill.runtime_name, &mut HashSet::new())?;
    }
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

fn hash_path(
    hash: &mut Sha256,
    path: &Path,
    relative: &str,
    visited: &mut HashSet<PathBuf>,
) -> Result<(), BundleError> {
    let meta = std::fs::symlink_metadata(path).map_err(io_error("read", path))?;
    if meta.is_symlink() {
        hash.update(format!("symlink:{relative}\n"));
        return match std::fs::canonicalize(path) {
            Ok(resolved) => hash_path(hash, &resolved, relative, visited),
            Err(_) => {
                hash.update("missing\n");
                Ok(())
            }
        };
    }
    if meta.is_dir() {
        hash.update(format!("dir:{relative}\n"));
        let real = std::fs::canonicalize(path).map_err(io_error("resolve", path))?;
        if !visited.insert(real) {
            hash.update("loop\n");
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io_error("list", path))? {
            names.push(entry.map_err(io_error("list", path))?.file_name());
        }
        names.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
        for name in names {
            let child = format!("{relative}/{}", name.to_string_lossy());
            hash_path(hash, &path.join(&name), &child, visited)?;
        }
        return Ok(());
    }
    if meta.is_file() {
        hash.update(format!("file:{relative}\n"));
        if meta.len() > MAX_FILE {
            let error = io::Error::other(format!("a file of a skill has at most {MAX_FILE} bytes"));
            return Err(io_error("read", path)(error));
        }
        let mut file = std::fs::File::open(path).map_err(io_error("open", path))?.take(MAX_FILE);
        let mut buffer = [0u8; 64 * 1024];
        loop {
            let read = file.read(&mut buffer).map_err(io_error("read", path))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
        hash.update("\n");
        return Ok(());
    }
    hash.update(format!("other:{relative}:{}\n", mode_of(&meta)));
    Ok(())
}

#[cfg(unix)]
fn mode_of(meta: &std::fs::Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    meta.mode()
}

#[cfg(not(unix))]
fn mode_of(_: &std::fs::Metadata) -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bundle-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("temp dir");
        dir
    }

    #[test]
    fn bundle_key_matches_the_vectors_of_0_1_49() {
        let key = |skills: &[Skill], text: Option<&str>| bundle_key(skills, text).expect("hash");
        assert_eq!(key(&[], None), "08bef4f10ef56ac0d71c5532f0ff338dabc4e7e078ed011e240b9e8a1df1b5fe");
        assert_eq!(key(&[], Some("")), key(&[], None));
        assert_eq!(
            key(&[], Some("hello")),
            "5adf2440c0354f9730927bd3c8a705ca21b989ba577ca761f1e05bf6198b284a"
        );
    }

    #[cfg(unix)]
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
        assert_eq!(bundle_key(&[skill], None).expect("hash"), hex);
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

    #[cfg(unix)]
    #[test]
    fn planted_link_is_neither_followed_nor_written_through() {
        let home = temp("planted");
        let target = home.join("target");
        std::fs::write(&target, "the host's").expect("file");
        let file = home.join("agent-instructions.md");
        // The link shows what is to be written: trusted, it could show something else to the agent's neighbour.
        std::os::unix::fs::symlink(&target, &file).expect("link");
        write_instructions(&file, "the host's").expect("written");
        assert!(std::fs::symlink_metadata(&file).expect("there").is_file(), "a file of its own");
        std::fs::remove_file(&file).expect("removed");
        std::os::unix::fs::symlink(&target, &file).expect("link");
        write_instructions(&file, "new").expect("written");
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

    #[cfg(unix)]
    #[test]
    fn bundle_can_be_read_by_its_group_only_unless_root_made_it() {
        use std::os::unix::fs::MetadataExt as _;
        let home = temp("modes");
        make_folders(&home, Path::new("a/b"), 0o750).expect("made");
        write_instructions(&home.join("a/b/file"), "text").expect("written");
        for (path, mode, of_root) in [("a", 0o750, 0o755), ("a/b", 0o750, 0o755), ("a/b/file", 0o640, 0o644)]
        {
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
        write_instructions(&file, "damaged no more").expect("write");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "damaged no more");
        assert_eq!(std::fs::read_dir(&dir).expect("list").count(), 1);
        std::fs::remove_dir_all(dir).expect("clean up");
    }
}
