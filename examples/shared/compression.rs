//! The words of `--deflate`, the same for every example.

use wirelane::Deflate;

/// What one of them means; the error says which there are.
pub(crate) fn compression(word: &str) -> Result<Deflate, &'static str> {
    match word {
        "off" => Ok(Deflate::off()),
        "shared" => Ok(Deflate::shared()),
        "dedicated" => Ok(Deflate::dedicated(15)),
        _ => Err("--deflate: write off, shared or dedicated"),
    }
}
