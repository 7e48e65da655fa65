//! Which manifest files a folder holds at one moment.
//!
//! Input: a folder. Output: its manifest files by name, each with a stamp that differs when the
//! file may have changed. Hidden files and folders are left out, `..data` of a mounted ConfigMap
//! among them; symlinks are followed. Invariant: a listing is whole or an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    documents::Notation,
    watch::{Inode, inode},
};

/// The manifest files of a folder.
pub(super) struct Listing {
    /// The folder itself.
    pub(super) inode: Inode,
    /// Its manifest files.
    pub(super) entries: BTreeMap<OsString, Entry>,
    /// Other folders that hold the targets of its symlinks.
    pub(super) targets: BTreeSet<PathBuf>,
}

/// One manifest file.
pub(super) enum Entry {
    /// A file, or a symlink to one.
    File {
        /// Its version.
        stamp: Stamp,
        /// Its path without symlinks.
        real: PathBuf,
    },
    /// Something by that name that cannot be read.
    Unreadable {
        /// Why.
        reason: String,
    },
}

/// Tells versions of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: Inode,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Lists a folder; its path holds no symlinks.
pub(super) fn list(folder: &Path) -> io::Result<Listing> {
    let metadata = fs::metadata(folder)?;
    let mut listing =
        Listing { inode: inode(&metadata), entries: BTreeMap::new(), targets: BTreeSet::new() };
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_manifest(&name) {
            continue;
        }
        let path = entry.path();
        let real = match entry.file_type()?.is_symlink() {
            true => path.canonicalize().unwrap_or_else(|_| path.clone()),
            false => path.clone(),
        };
        listing.targets.extend(real.parent().map(Path::to_owned));
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(metadata) if metadata.is_file() => {
                let stamp = Stamp::of(&metadata);
                listing.entries.insert(name, Entry::File { stamp, real });
            }
            Ok(_) => {
                let reason = "not a regular file".to_owned();
                listing.entries.insert(name, Entry::Unreadable { reason });
            }
            // Removed since the folder was read; a dangling symlink is still there.
            Err(_) if fs::symlink_metadata(&path).is_err() => {}
            Err(error) => {
                let reason = error.to_string();
                listing.entries.insert(name, Entry::Unreadable { reason });
            }
        }
    }
    listing.targets.remove(folder);
    Ok(listing)
}

/// How a file of this name is written.
pub(super) fn notation(path: &Path) -> Notation {
    match path.extension() {
        Some(extension) if extension == "json" => Notation::Json,
        Some(_) | None => Notation::Yaml,
    }
}

fn is_manifest(name: &OsString) -> bool {
    let extension = Path::new(name).extension().map(|extension| extension.as_bytes());
    !name.as_bytes().starts_with(b".") && matches!(extension, Some(b"yaml" | b"yml" | b"json"))
}

impl Stamp {
    /// Of a file.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: inode(metadata),
            length: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether two stamps of one open file are of the same content. Renaming and unlinking change
    /// the time of change, and no content.
    pub(super) fn has_content_of(&self, other: &Self) -> bool {
        let Self { inode, length, modified, changed: _ } = *self;
        (inode, length, modified) == (other.inode, other.length, other.modified)
    }

    /// Bytes of content.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Seconds and nanoseconds of the last change. Unlike the time of the last write, nobody can
    /// set it.
    pub(super) fn changed(&self) -> (i64, i64) {
        self.changed
    }
}
