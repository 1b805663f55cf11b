//! The binary frames that carry the bytes of artifacts: the upload's number as a big-endian u32, then
//! a piece of the file. A frame with a number alone gives the upload up.

/// Bytes of a file in one frame at most, so that a result or a heartbeat never stands behind more.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// A binary frame.
pub fn chunk(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(size_of::<u32>() + bytes.len());
    frame.extend_from_slice(&number.to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// The number of a binary frame and where its piece begins; `None` for what is no such frame.
pub fn read_chunk(frame: &[u8]) -> Option<(u32, usize)> {
    let (number, bytes) = frame.split_first_chunk()?;
    (bytes.len() <= CHUNK_BYTES).then_some((u32::from_be_bytes(*number), size_of::<u32>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_reads_back_and_one_without_a_number_or_too_long_does_not() {
        let frame = chunk(258, b"bytes");
        assert_eq!(frame[..4], [0, 0, 1, 2]);
        let (number, begin) = read_chunk(&frame).expect("our own frame");
        assert_eq!((number, &frame[begin..]), (258, &b"bytes"[..]));
        assert_eq!(read_chunk(&chunk(1, b"")), Some((1, 4)));
        assert_eq!(read_chunk(b"123"), None);
        assert!(read_chunk(&chunk(1, &vec![0; CHUNK_BYTES])).is_some());
        assert_eq!(read_chunk(&chunk(1, &vec![0; CHUNK_BYTES + 1])), None);
    }
}
