//! Which manifest files a folder holds at one moment.
//!
//! Input: a folder. Output: its manifest files by name, each with a stamp that differs when the
//! file may have changed. Hidden files and folders are left out, `..data` of a mounted ConfigMap
//! among them; symlinks are followed. Invariant: a listing is whole or an error.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
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
    /// Whether there are symlinks among the files.
    pub(super) has_links: bool,
    /// The names that were looked at, where not all were.
    pub(super) only: Option<BTreeSet<OsString>>,
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
    let mut listing = Listing::of(folder, None)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_manifest(&name) {
            listing.add(name, &entry.path(), entry.file_type()?.is_symlink());
        }
    }
    listing.targets.remove(folder);
    Ok(listing)
}

/// Looks at some files of a folder only, whether or not they are there.
pub(super) fn look_at(folder: &Path, names: BTreeSet<OsString>) -> io::Result<Listing> {
    let mut listing = Listing::of(folder, Some(names.clone()))?;
    for name in names {
        let path = folder.join(&name);
        if let Ok(metadata) = fs::symlink_metadata(&path) {
            listing.add(name, &path, metadata.is_symlink());
        }
    }
    listing.targets.remove(folder);
    Ok(listing)
}

impl Listing {
    fn of(folder: &Path, only: Option<BTreeSet<OsString>>) -> io::Result<Self> {
        let inode = inode(&fs::metadata(folder)?);
        let (entries, targets) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { inode, entries, targets, has_links: false, only })
    }

    fn add(&mut self, name: OsString, path: &Path, is_link: bool) {
        let real = match is_link {
            true => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            false => path.to_owned(),
        };
        self.has_links |= is_link;
        self.targets.extend(real.parent().map(Path::to_owned));
        let entry = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => return,
            Ok(metadata) if metadata.is_file() => Entry::File { stamp: Stamp::of(&metadata), real },
            Ok(_) => Entry::Unreadable { reason: "not a regular file".to_owned() },
            // Removed since its name was read; a dangling symlink is still there.
            Err(_) if fs::symlink_metadata(path).is_err() => return,
            Err(error) => Entry::Unreadable { reason: error.to_string() },
        };
        self.entries.insert(name, entry);
    }
}

/// How a file of this name is written.
pub(super) fn notation(path: &Path) -> Notation {
    match path.extension() {
        Some(extension) if extension == "json" => Notation::Json,
        Some(_) | None => Notation::Yaml,
    }
}

/// Whether a file of this name is read.
pub(super) fn is_manifest(name: &OsStr) -> bool {
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
