//! Files below a directory, and nothing else, whatever the path says.
//!
//! What comes in: a directory, once, and paths relative to it. What goes out: regular files, open
//! for reading. The kernel itself sees to it that neither `..` nor a symbolic link leads out
//! (openat2(2), Linux 5.6); where it cannot, the path is resolved first and compared.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A directory whose files are served.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Without symbolic links in it.
    path: PathBuf,
    open: File,
}

/// Read-only; never waits for the other end of a FIFO, and never takes a terminal.
const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;

impl Directory {
    /// Opens a directory for good: its files are found though it is moved.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
        let open = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
        Ok(Self { path, open })
    }

    /// Opens what lies at this path below the directory: a file, or a directory, or anything else;
    /// whoever asked looks at what it is. Symbolic links are followed as long as they stay below.
    pub(crate) fn open(&self, relative: &Path) -> io::Result<File> {
        match self.open_beneath(relative) {
            // Old kernels do not know the call, old container profiles forbid it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                self.open_resolved(relative)
            }
            opened => opened,
        }
    }

    fn open_beneath(&self, relative: &Path) -> io::Result<File> {
        let path = CString::new(relative.as_os_str().as_bytes())?;
        // SAFETY: all fields are integers, for which zero is a value.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        how.flags = (libc::O_RDONLY | FLAGS) as u64;
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        // SAFETY: the path ends with NUL and lives as long as the call, as does `how`, whose size
        // is given.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                self.open.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match i32::try_from(fd) {
            // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
            Ok(fd) if fd >= 0 => Ok(unsafe { File::from_raw_fd(fd) }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The same without the kernel's help. Between the comparison and the opening, whoever may
    /// write to the directory could put a link there.
    fn open_resolved(&self, relative: &Path) -> io::Result<File> {
        let path = fs::canonicalize(self.path.join(relative))?;
        if !path.starts_with(&self.path) {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        OpenOptions::new().read(true).custom_flags(FLAGS | libc::O_NOFOLLOW).open(path)
    }
}

/// Whether there is a file, but no descriptor or memory for it now.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory with a file, one below it, and links to inside and outside.
    fn tree(name: &str) -> PathBuf {
        let top = std::env::temp_dir().join(format!("wirelane-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(top.join("served/sub")).expect("a directory");
        fs::write(top.join("secret"), "secret").expect("a file");
        fs::write(top.join("served/a"), "a").expect("a file");
        fs::write(top.join("served/sub/b"), "b").expect("a file");
        symlink("../a", top.join("served/sub/inside")).expect("a link");
        symlink("../secret", top.join("served/outside")).expect("a link");
        symlink(&top, top.join("served/absolute")).expect("a link");
        symlink("loop", top.join("served/loop")).expect("a link");
        top
    }

    type Open = fn(&Directory, &Path) -> io::Result<File>;

    fn read(directory: &Directory, open: Open, path: &str) -> Option<String> {
        let mut text = String::new();
        open(directory, Path::new(path)).ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    }

    #[test]
    fn nothing_outside_is_opened() {
        let ways: [(&str, Open); 3] = [
            ("open", Directory::open),
            ("beneath", Directory::open_beneath),
            ("resolved", Directory::open_resolved),
        ];
        for (name, open) in ways {
            let top = tree(name);
            let directory = Directory::new(&top.join("served")).expect("a directory");
            if open(&directory, Path::new("a"))
                .is_err_and(|e| e.raw_os_error() == Some(libc::ENOSYS))
            {
                eprintln!("skipped, no openat2 here");
                continue;
            }
            for (path, text) in [("a", "a"), ("sub/b", "b"), ("sub/inside", "a"), ("sub/../a", "a")]
            {
                assert_eq!(read(&directory, open, path).as_deref(), Some(text), "{name} {path}");
            }
            for path in [
                "../secret",
                "sub/../../secret",
                "outside",
                "absolute/secret",
                "/etc/passwd",
                "loop",
                "missing",
                "a/b",
                "a\0",
            ] {
                assert_eq!(read(&directory, open, path), None, "{name} {path}");
            }
            fs::remove_dir_all(top).expect("removed");
        }
        assert!(Directory::new(Path::new("/nonexistent")).is_err());
    }
}
