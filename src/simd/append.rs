//! Appending a frame to a batch: a header of a few bytes and a payload, with one look at the
//! capacity. `Vec::extend_from_slice` looks once per piece.

use std::ptr;

/// Length of the longest header that [`append`] takes.
pub(crate) const SHORT_HEADER: usize = 4;

/// Appends the first `header_len` bytes of `header`, at most [`SHORT_HEADER`], then `payload`.
#[inline(always)]
pub(crate) fn append(
    out: &mut Vec<u8>,
    header: [u8; SHORT_HEADER],
    header_len: usize,
    payload: &[u8],
) {
    debug_assert!(header_len <= SHORT_HEADER);
    let header_len = header_len.min(SHORT_HEADER);
    let start = out.len();
    if out.capacity() - start < SHORT_HEADER + payload.len() {
        grow(out, SHORT_HEADER + payload.len());
    }
    // SAFETY: there is room for `SHORT_HEADER` bytes and the payload behind the first `start`, so all
    // writes stay inside; a payload borrowed beside a mutable vector cannot lie in it. All below the
    // new length is written: the header whole, and the payload as one piece or as its first and last
    // 16 bytes, which meet, because it has no more than 32.
    unsafe {
        let end = out.as_mut_ptr().add(start);
        end.cast::<[u8; SHORT_HEADER]>().write(header);
        let (to, len) = (end.add(header_len), payload.len());
        match (payload.first_chunk::<16>(), payload.last_chunk::<16>()) {
            // Two pieces cost less than a call of memcpy.
            (Some(&first), Some(&last)) if len <= 32 => {
                to.cast::<[u8; 16]>().write(first);
                to.add(len - 16).cast::<[u8; 16]>().write(last);
            }
            _ => ptr::copy_nonoverlapping(payload.as_ptr(), to, len),
        }
        out.set_len(start + header_len + payload.len());
    }
}

#[cold]
#[inline(never)]
fn grow(out: &mut Vec<u8>, additional: usize) {
    out.reserve(additional);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_what_two_extensions_would() {
        for header_len in 0..=SHORT_HEADER {
            for payload_len in [0, 1, 3, 4, 5, 15, 16, 17, 20, 31, 32, 33, 125, 126, 4096] {
                let header = [1, 2, 3, 4];
                let payload: Vec<u8> = (0..payload_len).map(|i| i as u8 ^ 0x5A).collect();
                let (mut out, mut expected) = (vec![9; 3], vec![9; 3]);
                for _ in 0..20 {
                    append(&mut out, header, header_len, &payload);
                    expected.extend_from_slice(&header[..header_len]);
                    expected.extend_from_slice(&payload);
                    assert_eq!(out, expected);
                }
                out.shrink_to_fit();
                append(&mut out, header, header_len, &payload);
                assert_eq!(out.len(), expected.len() + header_len + payload.len());
            }
        }
    }
}
