//! What a certificate says of itself: until when it holds, and for which names. The dates are read by
//! hand, for rustls judges them without telling them.

use jiff::civil;
use jiff::tz::TimeZone;
use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The time in which a certificate holds, in seconds since 1970 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, which holds the version where one is written.
const VERSION: u8 = 0xa0;

/// When a certificate holds (RFC 5280, section 4.1); `None` for what is no certificate.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (body, _) = element(certificate, SEQUENCE)?;
    let (mut fields, _) = element(body, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields, VERSION)?.1;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        fields = element(fields, *fields.first()?)?.1;
    }
    let (dates, _) = element(fields, SEQUENCE)?;
    let (not_before, rest) = time(dates)?;
    let (not_after, _) = time(rest)?;
    Some(Validity { not_before, not_after })
}

/// The DNS names that a certificate is for (its subject alternative names); none for what is no
/// certificate.
pub fn dns_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    match EndEntityCert::try_from(certificate) {
        Ok(certificate) => certificate.valid_dns_names().map(str::to_owned).collect(),
        Err(_) => Vec::new(),
    }
}

/// The content of the first element, which must have this tag, and what follows it (DER, X.690).
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[first, length], rest) = input.split_first_chunk::<2>()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match length {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            // A certificate is far below 16 MiB: three bytes of length are enough.
            let (digits, rest) =
                rest.split_at_checked(usize::from(long & 0x7f)).filter(|(n, _)| n.len() <= 3)?;
            (digits.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), rest)
        }
    };
    rest.split_at_checked(length)
}

/// A time, as seconds since 1970, and what follows it.
fn time(input: &[u8]) -> Option<(i64, &[u8])> {
    let tag = *input.first()?;
    let (text, rest) = element(input, tag)?;
    let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, digits) = match tag {
        GENERALIZED_TIME => (digits.get(..4)?.parse::<i16>().ok()?, digits.get(4..)?),
        // Two digits stand for 1950 to 2049 (RFC 5280, section 4.1.2.5.1).
        UTC_TIME => match digits.get(..2)?.parse::<i16>().ok()? {
            low @ 0..50 => (2000 + low, digits.get(2..)?),
            high => (1900 + high, digits.get(2..)?),
        },
        _ => return None,
    };
    let pair = |at: usize| digits.get(at..at + 2)?.parse::<i8>().ok();
    let date = civil::DateTime::new(year, pair(0)?, pair(2)?, pair(4)?, pair(6)?, pair(8)?, 0).ok()?;
    // The end of the year 9999 stands for "never", and is beyond what a timestamp holds.
    let seconds = date.to_zoned(TimeZone::UTC).map_or(i64::MAX, |zoned| zoned.timestamp().as_second());
    Some((seconds, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn dates_and_names_are_those_that_were_put_in() {
        let names = ["python-1".to_owned(), "rollcall.example".to_owned()];
        let mut params = CertificateParams::new(names.clone()).expect("good names");
        params.not_before = date_time_ymd(2020, 2, 3);
        params.not_after = date_time_ymd(2055, 12, 31);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let seconds = |text: &str| text.parse::<jiff::Timestamp>().expect("a time").as_second();
        let expected = Validity {
            not_before: seconds("2020-02-03T00:00:00Z"),
            not_after: seconds("2055-12-31T00:00:00Z"),
        };
        assert_eq!(validity(certificate.der()), Some(expected));
        assert_eq!(dns_names(certificate.der()), names);
    }

    #[test]
    fn what_is_no_certificate_has_neither_dates_nor_names() {
        for wrong in [&b""[..], b"0", b"\x30\x03abc", b"\x30\x84\xff\xff\xff\xff", b"-----BEGIN"] {
            let wrong = CertificateDer::from(wrong);
            assert_eq!(validity(&wrong), None);
            assert!(dns_names(&wrong).is_empty());
        }
    }
}
