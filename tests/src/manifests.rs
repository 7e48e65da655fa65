//! The folder that `--source manifests=DIR` watches, changed only in whole steps.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cleanup::{Scratch, unique_name};
use crate::yaml;

/// A folder of manifests, removed when dropped.
#[derive(Debug)]
pub struct Manifests {
    scratch: Scratch,
    folder: PathBuf,
    swaps: AtomicU32,
}

impl Manifests {
    /// An empty folder.
    pub fn new() -> Result<Manifests> {
        let scratch = Scratch::new("manifests")?;
        let folder = scratch.folder("watched")?;
        Ok(Manifests { scratch, folder, swaps: AtomicU32::new(0) })
    }

    /// The folder to watch.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes objects as one file, in place of a former one of that name, by one rename.
    pub fn put(&self, file: &str, objects: &[Value]) -> Result<()> {
        self.put_text(file, &yaml::documents(objects))
    }

    /// Writes any text as one file, by one rename.
    pub fn put_text(&self, file: &str, text: &str) -> Result<()> {
        // Beside the watched folder, on the same filesystem: a half-written file is never seen.
        let draft = self.scratch.path().join(unique_name("draft"));
        let target = self.folder.join(file);
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, &target).with_context(|| format!("cannot replace {}", target.display()))
    }

    /// Removes one file.
    pub fn remove(&self, file: &str) -> Result<()> {
        let target = self.folder.join(file);
        fs::remove_file(&target).with_context(|| format!("cannot remove {}", target.display()))
    }

    /// Replaces all files that this method wrote before, at once, as kubelet updates a ConfigMap:
    /// files are links through `..data`, a link to a folder that one rename replaces.
    pub fn swap(&self, files: &[(&str, String)]) -> Result<()> {
        let number = self.swaps.fetch_add(1, Ordering::Relaxed);
        let name = format!("..version-{number}");
        let data = self.folder.join(&name);
        fs::create_dir(&data).with_context(|| format!("cannot create {}", data.display()))?;
        for (file, text) in files {
            fs::write(data.join(file), text).with_context(|| format!("cannot write {file}"))?;
        }
        let (link, current) = (self.folder.join("..data_tmp"), self.folder.join("..data"));
        let former = fs::read_link(&current).ok();
        symlink(&name, &link).context("cannot make a link")?;
        fs::rename(&link, &current).context("cannot replace the link to the data")?;
        for (file, _) in files {
            let visible = self.folder.join(file);
            if fs::symlink_metadata(&visible).is_err() {
                symlink(Path::new("..data").join(file), &visible).context("cannot make a link")?;
            }
        }
        self.remove_dangling()?;
        if let Some(former) = former {
            fs::remove_dir_all(self.folder.join(former)).context("cannot remove former data")?;
        }
        Ok(())
    }

    fn remove_dangling(&self) -> Result<()> {
        let entries = fs::read_dir(&self.folder).context("cannot list the manifests")?;
        for entry in entries.flatten() {
            if fs::metadata(entry.path()).is_err() {
                fs::remove_file(entry.path()).context("cannot remove a link to nothing")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(manifests: &Manifests) -> Vec<(String, String)> {
        let entries = fs::read_dir(manifests.folder()).unwrap().map(Result::unwrap);
        let mut files: Vec<_> = entries
            .filter(|e| fs::metadata(e.path()).unwrap().is_file())
            .map(|e| {
                let name = e.file_name().into_string().unwrap();
                (name, fs::read_to_string(e.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn files_are_put_replaced_and_removed_whole() {
        let manifests = Manifests::new().unwrap();
        manifests.put("a.yaml", &[serde_json::json!({"kind": "Seed"})]).unwrap();
        manifests.put_text("b.yaml", "one").unwrap();
        manifests.put_text("b.yaml", "two").unwrap();
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(
            visible(&manifests),
            [pair("a.yaml", "---\nkind: Seed\n"), pair("b.yaml", "two")]
        );
        manifests.remove("a.yaml").unwrap();
        assert_eq!(visible(&manifests), [pair("b.yaml", "two")]);
    }

    #[test]
    fn a_swap_replaces_all_its_files_and_leaves_nothing_else() {
        let manifests = Manifests::new().unwrap();
        let files = |names: &[&'static str], text: &str| -> Vec<(&'static str, String)> {
            names.iter().map(|name| (*name, text.to_owned())).collect()
        };
        manifests.swap(&files(&["a.yaml", "b.yaml"], "1")).unwrap();
        manifests.swap(&files(&["b.yaml", "c.yaml"], "2")).unwrap();
        let names: Vec<_> = visible(&manifests).into_iter().collect();
        let two = |name: &str| (name.to_owned(), "2".to_owned());
        assert_eq!(names, [two("b.yaml"), two("c.yaml")]);
        // The two links, `..data` and one version.
        assert_eq!(fs::read_dir(manifests.folder()).unwrap().count(), 4);
    }
}
