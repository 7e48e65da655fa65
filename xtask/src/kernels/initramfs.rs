//! The file system that a guest starts with: an archive in the format that the kernel unpacks ("newc",
//! Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Input: files of this machine and their places. Output: one file. Invariant: a program comes with the
//! libraries that the dynamic linker here would give it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::plan::{AGENT, Programs};
use crate::child::{ask, program, run_as_progress};
use crate::machine::find;
use crate::project::Project;

/// Programs that the tests start.
const TOOLS: [&str; 4] = ["ip", "nft", "tc", "sleep"];
/// Where the first process mounts something.
const FOLDERS: [&str; 5] = ["/dev", "/proc", "/run", "/sys", "/tmp"];

const FOLDER_MODE: u32 = 0o040_755;
const FILE_MODE: u32 = 0o100_755;
const CONSOLE_MODE: u32 = 0o020_600;
/// Number of the device of the console: major 5, minor 1.
const CONSOLE: (u32, u32) = (5, 1);

/// Files by their places in the guest.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive {
    files: BTreeMap<PathBuf, Content>,
}

#[derive(Clone, Debug)]
enum Content {
    Of(PathBuf),
    Text(String),
}

impl Archive {
    /// What every guest has. Programs are put into `folder` without their debug information before.
    pub(super) fn common(project: &Project, programs: &Programs, folder: &Path) -> Result<Self> {
        let mut archive = Self::default();
        let stripped = |from: &Path, name: &str| {
            let to = folder.join(name);
            let mut strip = program(project, "strip");
            run_as_progress(strip.arg("--strip-debug").arg(from).arg("-o").arg(&to)).map(|()| to)
        };
        for (place, from) in programs.places() {
            let name = Path::new(&place).file_name().context("a program without a name")?;
            archive.program(project, place, &stripped(from, &name.to_string_lossy())?)?;
        }
        archive.program(project, AGENT, &stripped(&project.agent(), "enforcer")?)?;
        for tool in TOOLS {
            let path = find(tool).with_context(|| format!("no {tool}"))?;
            archive.program(project, &path.to_string_lossy(), &path)?;
        }
        Ok(archive)
    }

    /// Adds a file.
    pub(super) fn file(&mut self, place: &str, from: &Path) -> Result<()> {
        let from = from.canonicalize().with_context(|| format!("no {}", from.display()))?;
        self.files.insert(place.into(), Content::Of(from));
        Ok(())
    }

    /// Adds a file with this text.
    pub(super) fn text(&mut self, place: &str, text: &str) {
        self.files.insert(place.into(), Content::Text(text.to_owned()));
    }

    /// Adds a program and its libraries.
    fn program(&mut self, project: &Project, place: &str, from: &Path) -> Result<()> {
        self.file(place, from)?;
        // It fails for static programs.
        let libraries = ask(program(project, "ldd").arg(from)).unwrap_or_default();
        for library in libraries.lines().filter_map(library) {
            self.file(library, Path::new(library))?;
        }
        Ok(())
    }

    /// Writes the archive.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let written = || -> Result<()> {
            let mut writer =
                Writer { out: BufWriter::new(fs::File::create(path)?), at: 0, number: 0 };
            for folder in self.folders() {
                writer.entry(&folder, FOLDER_MODE, &[], (0, 0))?;
            }
            // Without it the first process has nowhere to write to.
            writer.entry(Path::new("/dev/console"), CONSOLE_MODE, &[], CONSOLE)?;
            for (place, content) in &self.files {
                match content {
                    Content::Of(file) => {
                        let bytes = fs::read(file)
                            .with_context(|| format!("cannot read {}", file.display()))?;
                        writer.entry(place, FILE_MODE, &bytes, (0, 0))?;
                    }
                    Content::Text(text) => {
                        writer.entry(place, FILE_MODE, text.as_bytes(), (0, 0))?
                    }
                }
            }
            writer.entry(Path::new("TRAILER!!!"), 0, &[], (0, 0))?;
            Ok(writer.out.flush()?)
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    /// All folders, those above before those below.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let above = self.files.keys().flat_map(|file| file.ancestors().skip(1));
        let above = above.filter(|folder| folder.parent().is_some());
        above.map(Path::to_path_buf).chain(FOLDERS.map(PathBuf::from)).collect()
    }
}

/// The path in a line of ldd.
fn library(line: &str) -> Option<&str> {
    let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
    Some(path.split_once(" (")?.0).filter(|path| path.starts_with('/'))
}

struct Writer<W> {
    out: W,
    at: usize,
    number: u32,
}

impl<W: std::io::Write> Writer<W> {
    fn entry(
        &mut self,
        place: &Path,
        mode: u32,
        bytes: &[u8],
        device: (u32, u32),
    ) -> std::io::Result<()> {
        let name = place.to_string_lossy();
        let name = name.trim_start_matches('/');
        self.number += 1;
        let (size, name_size) = (bytes.len() as u32, name.len() as u32 + 1);
        // number, mode, owner, group, links, time, size, device (2), the device that it is (2), length of
        // the name, checksum
        let (major, minor) = device;
        let fields = [self.number, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        let mut head = String::from("070701");
        fields.iter().for_each(|field| head.push_str(&format!("{field:08X}")));
        head.push_str(name);
        head.push('\0');
        self.put(head.as_bytes())?;
        self.put(bytes)
    }

    /// Writes, and fills up to a multiple of four.
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len();
        let rest = self.at.next_multiple_of(4) - self.at;
        self.at += rest;
        self.out.write_all(&[0; 4][..rest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let lines = [
            ("\tlinux-vdso.so.1 (0x00007ffc)", None),
            (
                "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)",
                Some("/lib/x86_64-linux-gnu/libc.so.6"),
            ),
            ("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)", Some("/lib64/ld-linux-x86-64.so.2")),
            ("\tstatically linked", None),
            ("\tlibx.so => not found", None),
        ];
        for (line, path) in lines {
            assert_eq!(library(line), path, "{line}");
        }
    }

    #[test]
    fn entries_begin_at_multiples_of_four_and_say_their_sizes() {
        let mut writer = Writer { out: Vec::new(), at: 0, number: 0 };
        writer.entry(Path::new("/a"), FILE_MODE, b"hello", (0, 0)).unwrap();
        writer.entry(Path::new("TRAILER!!!"), 0, &[], (0, 0)).unwrap();
        let text = String::from_utf8(writer.out).unwrap();
        assert_eq!(text.len() % 4, 0);
        assert_eq!(&text[..14], "07070100000001");
        assert_eq!(&text[54..62], "00000005", "size");
        assert_eq!(&text[94..102], "00000002", "length of the name with its end");
        assert_eq!(&text[110..117], "a\0hello");
        assert_eq!(&text[120..126], "070701");
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.text("/guest/modules/001-veth.ko", "");
        let folders: Vec<PathBuf> = archive.folders().into_iter().collect();
        let place = |name: &str| folders.iter().position(|folder| folder == Path::new(name));
        assert!(place("/guest").unwrap() < place("/guest/modules").unwrap());
        assert!(place("/").is_none() && place("/proc").is_some());
    }
}
