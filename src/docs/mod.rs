//! Longer texts that belong to no single item.

// The table tells of all features, whichever of them this documentation has.
#[cfg_attr(
    not(all(feature = "deflate", feature = "tls-no-provider")),
    allow(rustdoc::broken_intra_doc_links, rustdoc::private_intra_doc_links)
)]
pub mod uwebsockets {
    //! From uWebSockets: each of its settings and methods, and what stands in its place here.
    //!
    #![doc = include_str!("uwebsockets.md")]

    // What the text links to.
    #[cfg(doc)]
    #[allow(unused_imports)]
    use crate::*;
}
