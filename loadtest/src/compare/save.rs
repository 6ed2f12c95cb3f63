//! Results that are kept: a directory in, one set of files by date in it out.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::environment::{environment, heading};
use crate::failure::{Context, Failure};
use crate::plot::{self, Picture};

/// Files of one run, all with the same beginning: the date and time.
#[derive(Debug)]
pub(crate) struct Saved {
    directory: PathBuf,
    stem: String,
}

impl Saved {
    /// Makes the directory. Nothing is written yet.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub(crate) fn new(directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory).context(|| format!("cannot make {}", directory.display()))?;
        // As 2026-11-28T22-41-07Z: no colons, which some file systems refuse.
        let environment = environment();
        let time = environment["time"].as_str().unwrap_or("undated").replace(':', "-");
        Ok(Self { directory: directory.to_owned(), stem: time })
    }

    /// Writes the tables with the pictures, the figures, and every picture by itself.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub(crate) fn write(
        &self,
        table: &str,
        json: &Value,
        csv: &str,
        pictures: &[(String, Picture)],
    ) -> Result<(), Failure> {
        let mut markdown = heading("Comparison") + table;
        if !pictures.is_empty() {
            markdown.push_str("\n## Pictures\n\n");
        }
        for (name, picture) in pictures {
            let file = format!("{}-{name}.svg", self.stem);
            self.file(&format!("-{name}.svg"), &plot::page(std::slice::from_ref(picture)))?;
            markdown.push_str(&format!("![{name}]({file})\n\n"));
        }
        self.file(".md", &markdown)?;
        self.file(".json", &format!("{json:#}\n"))?;
        self.file(".csv", csv)
    }

    fn file(&self, ending: &str, text: &str) -> Result<(), Failure> {
        let path = self.directory.join(format!("{}{ending}", self.stem));
        fs::write(&path, text).context(|| format!("cannot write {}", path.display()))
    }
}
