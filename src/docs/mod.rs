//! Longer texts that belong to no single item.

pub mod uwebsockets {
    //! From uWebSockets: each of its settings and methods, and what stands in its place here.
    //!
    #![doc = include_str!("uwebsockets.md")]

    // What the text links to.
    #[cfg(doc)]
    #[allow(unused_imports)]
    use crate::*;
}
