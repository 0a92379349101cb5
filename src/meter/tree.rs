//! A fake `/sys` for tests: text files under a temporary folder, which the real code reads.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub struct Tree(TempDir);

impl Tree {
    pub fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(TempDir::new().unwrap());
        for (path, text) in files {
            tree.write(path, text);
        }
        tree
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Writes in place, so that a file which is open sees the new text as sysfs shows a new value.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    pub fn link(&self, path: &str, target: &str) {
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
    }

    /// A RAPL zone with a 32-bit counter of 61.035 uJ.
    pub fn zone(&self, id: &str, name: &str, energy_uj: u64) {
        self.write(&format!("class/powercap/{id}/name"), &format!("{name}\n"));
        self.write(&format!("class/powercap/{id}/max_energy_range_uj"), "262143328850\n");
        self.energy(id, energy_uj);
    }

    pub fn energy(&self, id: &str, energy_uj: u64) {
        self.write(&format!("class/powercap/{id}/energy_uj"), &format!("{energy_uj}\n"));
    }
}
