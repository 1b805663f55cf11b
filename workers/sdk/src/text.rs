//! Turns a program's bytes into text piece by piece: a character that was cut in two by a read is
//! held back until its rest comes, and bytes that are no UTF-8 become U+FFFD.

/// One stream of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Utf8Stream {
    /// Bytes of text made so far: the offset of the next piece.
    offset: u64,
    /// The beginning of a character, at most three bytes.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// The text of `data`, and its offset in the stream.
    pub(crate) fn push(&mut self, data: &[u8]) -> (u64, String) {
        let joined;
        let data = if self.held.is_empty() {
            data
        } else {
            self.held.extend_from_slice(data);
            joined = std::mem::take(&mut self.held);
            &joined
        };
        let mut text = String::with_capacity(data.len());
        let mut chunks = data.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            if chunk.invalid().is_empty() {
                continue;
            }
            if chunks.peek().is_none() && may_begin_a_character(chunk.invalid()) {
                self.held = chunk.invalid().to_vec();
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.took(text)
    }

    /// What is held back, when no more will come.
    pub(crate) fn finish(&mut self) -> (u64, String) {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned();
        self.took(text)
    }

    fn took(&mut self, text: String) -> (u64, String) {
        let offset = self.offset;
        self.offset += text.len() as u64;
        (offset, text)
    }
}

/// Whether more bytes could still make these a character.
fn may_begin_a_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|problem| problem.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_in_two_comes_out_whole() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"a\xE2\x82"), (0, "a".to_owned()));
        assert_eq!(stream.push(b"\xACb"), (1, "€b".to_owned()));
        assert_eq!(stream.finish(), (5, String::new()));
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_offsets_count_what_was_sent() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"\xFFx\xC3"), (0, "\u{fffd}x".to_owned()));
        assert_eq!(stream.finish(), (4, "\u{fffd}".to_owned()));
        assert_eq!(stream.push(b"y"), (7, "y".to_owned()));
    }
}
