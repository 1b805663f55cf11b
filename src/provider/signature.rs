//! The signature of a webhook's body: HMAC-SHA256 (RFC 2104) over the time and the body, so that the
//! receiver knows who sent it, and that it is not an old one sent again.

use hyper::header::HeaderName;
use sha2::{Digest, Sha256};

/// Bears the signature: `sha256=` and 64 hexadecimal digits.
pub const SIGNATURE: HeaderName = HeaderName::from_static("rollcall-signature");
/// Bears the time of the call in seconds since 1970; the signature is over it, a point, and the body.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("rollcall-timestamp");

/// The block of SHA-256, in bytes.
const BLOCK: usize = 64;

/// What [`SIGNATURE`] bears.
pub fn signature(secret: &str, timestamp: &str, body: &[u8]) -> String {
    let code = hmac(secret.as_bytes(), &[timestamp.as_bytes(), b".", body]);
    let digits: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let keyed = |pad: u8| Sha256::new().chain_update(block.map(|byte| byte ^ pad));
    let inner = parts.iter().fold(keyed(0x36), |hash, part| hash.chain_update(part)).finalize();
    keyed(0x5c).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The test cases 1, 2 and 6 of RFC 4231.
    #[test]
    fn codes_are_those_of_the_standard() {
        assert_eq!(
            hex(&hmac(&[0x0b; 20], &[b"Hi There"])),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hex(&hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let long: &[u8] = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(
            hex(&hmac(&[0xaa; 131], &[long])),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
