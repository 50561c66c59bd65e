//! Folders and files where agents can write, reached name by name from a descriptor: whatever an agent puts into the place
//! of one of them, and whenever, a link is not followed.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

/// An open folder.
#[derive(Debug)]
pub(in crate::run) struct Folder {
    open: File,
    /// Where it was opened: the way to what is in it on a system that has no path for a descriptor.
    path: PathBuf,
}

const FOLDER: i32 = libc::O_DIRECTORY;

impl Folder {
    /// Opens a folder by its path, as the operator named it. Links on the way are followed.
    pub(in crate::run) fn open(path: &Path) -> io::Result<Self> {
        let open = File::options().read(true).custom_flags(FOLDER).open(path)?;
        Ok(Self { open, path: path.to_owned() })
    }

    /// Opens a folder below this one.
    ///
    /// # Errors
    ///
    /// `NotADirectory` where something else has one of the names, such as a link.
    pub(in crate::run) fn below(&self, path: &Path) -> io::Result<Self> {
        let mut folder = Self { open: self.open.try_clone()?, path: self.path.clone() };
        for part in path.components() {
            let Component::Normal(name) = part else {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            };
            folder = folder.inside(name)?;
        }
        Ok(folder)
    }

    /// Opens the folder of this name.
    fn inside(&self, name: &OsStr) -> io::Result<Self> {
        let mut options = File::options();
        let open = options.read(true).custom_flags(FOLDER | libc::O_NOFOLLOW).open(self.at(name));
        match open {
            Ok(open) => Ok(Self { open, path: self.path.join(name) }),
            // What systems say of a link here differs.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                Err(io::Error::from(io::ErrorKind::NotADirectory))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the folder of this name, and makes it first where there is nothing. `mode` is that of a folder that is made.
    ///
    /// # Errors
    ///
    /// As [`Self::below`].
    pub(in crate::run) fn made(&self, name: &OsStr, mode: u32) -> io::Result<Self> {
        match self.inside(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            there => return there,
        }
        match DirBuilder::new().mode(mode).create(self.at(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let folder = self.inside(name)?;
        set_mode(&folder.open, mode)?;
        Ok(folder)
    }

    /// Opens the file of this name to read it. Neither a link is followed nor a pipe waited for.
    pub(in crate::run) fn file(&self, name: &OsStr) -> io::Result<File> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        File::options().read(true).custom_flags(flags).open(self.at(name))
    }

    /// Makes a file of a name that must not be there, with this mode.
    pub(in crate::run) fn new_file(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let file = File::options().write(true).create_new(true).mode(mode).open(self.at(name))?;
        set_mode(&file, mode)?;
        Ok(file)
    }

    /// Gives what has one name of this folder another; what has that name already is replaced, unless it is a folder.
    pub(in crate::run) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        std::fs::rename(self.at(from), self.at(to))
    }

    /// Removes what has this name, unless it is a folder.
    pub(in crate::run) fn remove(&self, name: &OsStr) -> io::Result<()> {
        std::fs::remove_file(self.at(name))
    }

    /// The path of a name in this very folder, wherever the folder is by now. Where a system has no such path, as macOS, it
    /// is the path by which the folder was opened.
    fn at(&self, name: &OsStr) -> PathBuf {
        let folder = if cfg!(target_os = "linux") {
            PathBuf::from(format!("/proc/self/fd/{}", self.open.as_raw_fd()))
        } else {
            self.path.clone()
        };
        folder.join(name)
    }
}

/// Agents have the server's user or group. A server that is root has neither in common with them: to what it makes, others
/// have the rights of its group.
fn set_mode(made: &File, mode: u32) -> io::Result<()> {
    let meta = made.metadata()?;
    let mode = if meta.uid() == 0 { mode | (mode & 0o070) >> 3 } else { mode };
    // A group that is inherited from the folder above stays so.
    made.set_permissions(std::fs::Permissions::from_mode(meta.mode() & 0o7000 | mode))
}
