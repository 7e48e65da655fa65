//! The kernels: Debian's for virtual machines, one of each series that nodes run.
//!
//! Input: Debian's archive. Output: an image and modules in the user's cache. Invariant: what the cache
//! has stays as it is, so that a run today and one tomorrow test the same; an empty cache takes the
//! newest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::debian::Archive;
use super::module::{canonical, in_order, needed_by};
use super::plan::Memory;
use crate::child::{announce, program, run_as_progress};
use crate::control_plane::cache;
use crate::project::Project;

/// Kernels of one kind.
#[derive(Debug)]
pub(crate) struct Series {
    /// As the table calls it.
    pub(super) name: &'static str,
    /// The version in package names, an extended regular expression.
    version: &'static str,
    pub(super) memory: Memory,
}

pub(super) const SERIES: &[Series] = &[
    Series { name: "5.10", version: r"5\.10\.0-[0-9]+", memory: Memory::Locked },
    Series { name: "6.1", version: r"6\.1\.0-[0-9]+", memory: Memory::Accounted },
    Series { name: "6.12", version: r"6\.12\.[0-9]+\+deb13", memory: Memory::Accounted },
    Series { name: "newest", version: r"[0-9.]+\+deb13", memory: Memory::Accounted },
];

/// Packages of one kernel; newer ones come in parts.
const PARTS: [&str; 3] = ["linux-image", "linux-binary", "linux-modules"];
const FLAVOUR: &str = "cloud-amd64";

/// What the tests' networks and the agent's filters are made of. What a series has no file of is built in,
/// or did not exist yet.
const MODULES: &[&str] = &[
    "veth",
    "bridge",
    "dummy",
    "sch_ingress",
    "cls_bpf",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_ct",
    "nft_counter",
    "nft_numgen",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_fib_inet",
    "nft_limit",
];

const IMAGE: &str = "vmlinuz";

impl Series {
    /// Whether the cache has it.
    pub(super) fn is_there(&self) -> bool {
        self.image().exists()
    }

    /// The kernel's image.
    pub(super) fn image(&self) -> PathBuf {
        self.folder().unwrap_or_default().join(IMAGE)
    }

    /// Names and files of the modules, in the order in which they are to be loaded.
    pub(super) fn modules(&self) -> Result<Vec<(String, PathBuf)>> {
        let folder = self.folder()?.join("modules");
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        entries
            .map(|entry| {
                let path = entry.context("cannot read a folder")?.path();
                let name = path.file_name().context("a file without a name")?;
                Ok((name.to_string_lossy().into_owned(), path.clone()))
            })
            .collect()
    }

    /// Downloads the newest of the series and puts image and modules into the cache.
    pub(super) fn fetch(&self, project: &Project, archive: &Archive) -> Result<()> {
        let folder = self.folder()?;
        let pattern = format!("^linux-image-{}-{FLAVOUR}$", self.version);
        let names = archive.names(project, &pattern)?;
        let Some(newest) = names.iter().max_by_key(|name| numbers(name)) else {
            bail!("Debian's archive has no kernel {} ({pattern})", self.name)
        };
        announce(&format!("downloading {newest}"), "about 10 s");
        let draft = folder.with_file_name(format!(".{}-{}", std::process::id(), self.name));
        let fetched = self.fill(project, archive, newest, &draft).and_then(|()| {
            // Another run may have been faster.
            fs::rename(&draft, &folder)
                .or_else(|error| if self.is_there() { Ok(()) } else { Err(error) })
                .with_context(|| format!("cannot put a kernel into {}", folder.display()))
        });
        if draft.exists() {
            fs::remove_dir_all(&draft)
                .with_context(|| format!("cannot remove {}", draft.display()))?;
        }
        fetched.with_context(|| format!("no kernel {}", self.name))
    }

    fn fill(&self, project: &Project, archive: &Archive, name: &str, draft: &Path) -> Result<()> {
        let (packages, root) = (draft.join("packages"), draft.join("root"));
        fs::create_dir_all(&packages)
            .with_context(|| format!("cannot create {}", packages.display()))?;
        let version = name.trim_start_matches("linux-image-");
        for part in PARTS {
            let part = format!("{part}-{version}");
            let pattern = format!("^{}$", part.replace('+', r"\+").replace('.', r"\."));
            if !archive.names(project, &pattern)?.is_empty() {
                archive.download(project, &part, &packages)?;
            }
        }
        for package in files(&packages)? {
            run_as_progress(program(project, "dpkg-deb").arg("-x").arg(package).arg(&root))?;
        }
        let all = files(&root)?;
        let is_image = |path: &&PathBuf| file_name(path).starts_with(IMAGE);
        let image = all.iter().find(is_image).context("the packages have no image")?;
        fs::copy(image, draft.join(IMAGE)).context("cannot copy the image")?;
        put_modules(project, &all, &draft.join("modules"))?;
        for gone in [packages, root] {
            fs::remove_dir_all(&gone)
                .with_context(|| format!("cannot remove {}", gone.display()))?;
        }
        Ok(())
    }

    fn folder(&self) -> Result<PathBuf> {
        // What is unpacked depends on what is wanted.
        let digest = Sha256::digest(MODULES.join(" "));
        let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Ok(cache()?.join("kernels").join(format!("{}-{digest}", self.name)))
    }
}

/// Puts the wanted modules among these files into a folder, named in their order.
fn put_modules(project: &Project, all: &[PathBuf], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let by_name: BTreeMap<String, &PathBuf> = all
        .iter()
        .filter_map(|path| Some((canonical(file_name(path).split_once(".ko")?.0), path)))
        .collect();
    let mut needs = BTreeMap::new();
    let mut waiting: Vec<String> = MODULES.iter().map(|name| canonical(name)).collect();
    while let Some(name) = waiting.pop() {
        let Some(path) = by_name.get(&name) else { continue };
        let plain = folder.join(format!("{name}.ko"));
        if plain.exists() {
            continue;
        }
        unpack(project, path, &plain)?;
        let bytes = fs::read(&plain).with_context(|| format!("cannot read {}", plain.display()))?;
        let needed = needed_by(&bytes);
        waiting.extend(needed.iter().cloned());
        needs.insert(name, needed);
    }
    for (number, name) in in_order(MODULES, &needs).into_iter().enumerate() {
        let (from, to) =
            (folder.join(format!("{name}.ko")), folder.join(format!("{number:03}-{name}.ko")));
        fs::rename(&from, &to).with_context(|| format!("cannot rename {}", from.display()))?;
    }
    Ok(())
}

/// Newer packages have their modules compressed; guests take them plain.
fn unpack(project: &Project, from: &Path, to: &Path) -> Result<()> {
    let is_packed = file_name(from).ends_with(".xz");
    let beside = if is_packed { to.with_extension("ko.xz") } else { to.to_path_buf() };
    fs::copy(from, &beside).with_context(|| format!("cannot copy {}", from.display()))?;
    if is_packed {
        run_as_progress(program(project, "xz").arg("--decompress").arg(&beside))?;
    }
    Ok(())
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut waiting) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = waiting.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let entry = entry.context("cannot read a folder")?;
            let kind = entry.file_type().context("a file without a type")?;
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The numbers in a version, for comparing: 6.12.9 is before 6.12.101.
fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|sign: char| !sign.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let mut names = [
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-image-6.12.9+deb13-cloud-amd64",
        ];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names.map(|name| &name[12..16]), ["6.12", "6.12", "7.3."]);
        assert!(names[0].contains("6.12.9+"), "{names:?}");
    }

    #[test]
    fn there_is_a_kernel_for_every_way_in_which_the_agent_works() {
        let has = |name| SERIES.iter().any(|series| series.name == name);
        // Images in parts and locked memory; clsact; TCX (Linux 6.6).
        assert!(has("5.10") && has("6.1") && has("6.12") && has("newest"));
        let locked = SERIES.iter().filter(|series| series.memory == Memory::Locked);
        assert_eq!(locked.count(), 1);
    }
}
