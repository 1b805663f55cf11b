//! The names and numbers by which the core knows things. Each is a type of its own, so that an
//! epoch cannot stand where a sequence number belongs.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::time::Wall;

/// A task's id: the 128 bits of a UUIDv7, made by the shell (the core has no clock of its own).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u128);

/// Where each of a UUID's bytes stands in its hyphenated form (RFC 9562, section 4).
const HYPHENATED: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The two hexadecimal digits of each byte.
pub(super) const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// What each hexadecimal digit is worth; 16 for what is none.
const WORTH: [u8; 256] = {
    let mut table = [16; 256];
    let mut digit: u8 = 0;
    while digit < 16 {
        let lower = HEX[digit as usize][1];
        table[lower as usize] = digit;
        table[lower.to_ascii_uppercase() as usize] = digit;
        digit += 1;
    }
    table
};

impl TaskId {
    /// When the shell made it, as far as a UUIDv7 says: it begins with the milliseconds (RFC 9562,
    /// section 5.7).
    pub fn made_at(self) -> Wall {
        Wall(i64::try_from(self.0 >> 80).unwrap_or(i64::MAX))
    }

    /// Writes the hyphenated form of RFC 9562.
    pub fn hyphenated(self, text: &mut [u8; 36]) -> &str {
        // By hand: it is written four times a task, and the formatter takes ten times as long.
        *text = [b'-'; 36];
        for (at, byte) in HYPHENATED.into_iter().zip(self.0.to_be_bytes()) {
            [text[at], text[at + 1]] = HEX[usize::from(byte)];
        }
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.hyphenated(&mut [0; 36]))
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for TaskId {
    type Err = NotATaskId;

    /// Reads the hyphenated form, in either case.
    fn from_str(text: &str) -> Result<Self, NotATaskId> {
        let bytes = text.as_bytes();
        if bytes.len() != 36 {
            return Err(NotATaskId);
        }
        if [8, 13, 18, 23].into_iter().any(|at| bytes[at] != b'-') {
            return Err(NotATaskId);
        }
        let mut value = [0u8; 16];
        for (byte, at) in value.iter_mut().zip(HYPHENATED) {
            let (high, low) = (WORTH[usize::from(bytes[at])], WORTH[usize::from(bytes[at + 1])]);
            if high > 15 || low > 15 {
                return Err(NotATaskId);
            }
            *byte = high << 4 | low;
        }
        Ok(Self(u128::from_be_bytes(value)))
    }
}

/// The text is not a UUID in its hyphenated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotATaskId;

impl fmt::Display for NotATaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a task id; one looks like 0192f0c1-2345-7abc-8def-0123456789ab")
    }
}

impl std::error::Error for NotATaskId {}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

numbers! {
    /// One connection to a worker; the shell gives each a new number.
    ConnId(u64);
    /// A caller that waits for an [`Answer`](super::Answer); made by the shell.
    RequestId(u64);
    /// One opening of the store: raised and synced once per start, so below 2^21 for ever.
    Term(u32);
    /// The fencing number of an attempt: `term << 32 | n`, below 2^53 so that JSON keeps it.
    Epoch(u64);
    /// The place of a record in the journal's order.
    Seq(u64);
    /// One accepted version of the topology.
    Generation(u64);
}

impl Epoch {
    /// The first epoch of a term.
    pub fn first_of(term: Term) -> Self {
        Self(u64::from(term.0) << 32)
    }

    /// The term that issued this epoch.
    pub fn term(self) -> Term {
        Term(u32::try_from(self.0 >> 32).unwrap_or(u32::MAX))
    }
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

texts! {
    /// A worker's name, unique in the topology: `[a-z0-9][a-z0-9._-]{0,62}`, checked at the edge.
    WorkerName;
    /// A pool's name; `static` is reserved for workers of no pool.
    PoolName;
    /// What a task asks for, such as `python.execute`; in a worker's offer it may end in `*`.
    Capability;
    /// Whose task it is; `default` until access control tells tenants apart.
    Tenant;
    /// Random per worker process: tells a reconnect from a restart.
    Instance;
    /// Which caller's share of the queue a task counts against.
    FairnessKey;
    /// A lease on one worker's state, named by the caller.
    SessionName;
    /// The random name of a store, shown to workers so that they know whom they served.
    StoreId;
    /// JSON text that the core carries and never reads.
    Payload;
}

/// The SHA-256 of some bytes, by which they are found. Its text is 64 small hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash(pub [u8; 32]);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for ContentHash {
    type Err = NotAHash;

    /// Small digits only: one content has one name.
    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotAHash),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(NotAHash) };
        let mut hash = [0; 32];
        if pairs.len() != hash.len() {
            return Err(NotAHash);
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(hash))
    }
}

impl TryFrom<String> for ContentHash {
    type Error = NotAHash;

    fn try_from(text: String) -> Result<Self, NotAHash> {
        text.parse()
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> Self {
        hash.to_string()
    }
}

/// The text is not a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHash;

impl fmt::Display for NotAHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a SHA-256; one has 64 hexadecimal digits from 0-9 and a-f")
    }
}

impl std::error::Error for NotAHash {}

impl Capability {
    /// Whether an offer of `self` (a pattern that may end in `*`) covers `asked`.
    pub fn covers(&self, asked: &Capability) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => asked.0.starts_with(prefix),
            None => self == asked,
        }
    }
}

impl Tenant {
    /// The one tenant there is without access control.
    pub fn default_tenant() -> Self {
        Self::from("default")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_reads_back_as_written() {
        let id = TaskId(0x0192_f0c1_2345_7abc_8def_0123_4567_89ab);
        assert_eq!(id.to_string(), "0192f0c1-2345-7abc-8def-0123456789ab");
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        assert_eq!("0192f0c1-2345-7abc-8def-0123456789a".parse::<TaskId>(), Err(NotATaskId));
        assert_eq!("0192f0c1x2345-7abc-8def-0123456789ab".parse::<TaskId>(), Err(NotATaskId));
    }

    #[test]
    fn a_hash_reads_back_as_written_and_has_one_spelling() {
        let text = "00ff".repeat(16);
        let hash: ContentHash = text.parse().expect("a hash");
        assert_eq!((hash.0[0], hash.0[1], hash.to_string()), (0, 255, text.clone()));
        for bad in [&text[1..], &text.to_uppercase(), &format!("{text}0"), &"g0".repeat(32), ""] {
            assert_eq!(bad.parse::<ContentHash>(), Err(NotAHash), "{bad}");
        }
    }

    #[test]
    fn a_star_covers_what_begins_like_it_and_nothing_else() {
        let files = Capability::from("files.*");
        assert!(files.covers(&"files.read".into()));
        assert!(!files.covers(&"file.read".into()));
        assert!(Capability::from("a.b").covers(&"a.b".into()));
        assert!(!Capability::from("a.b").covers(&"a.bc".into()));
    }
}
