//! `GET /`: the status board. One document with its style and script in it, nothing from elsewhere;
//! what it shows comes from the API, and is only ever set as text.

use std::sync::LazyLock;

use hyper::StatusCode;
use hyper::header::{
    CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

use super::http::body::{Answer, answer};

/// The document around style and script.
const FRAME: &str = include_str!("page/board.html");
const STYLE: &str = include_str!("page/board.css");
/// Each uses what stands before it.
const SCRIPT: [&str; 5] = [
    include_str!("page/parts.js"),
    include_str!("page/workers.js"),
    include_str!("page/queues.js"),
    include_str!("page/tasks.js"),
    include_str!("page/board.js"),
];
/// Stands in the document where the nonce belongs.
const NONCE: &str = "{nonce}";

/// The document, but for its nonce.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let script = format!("\"use strict\";\n{}", SCRIPT.concat());
    FRAME.replace("{style}", STYLE).replace("{script}", &script)
});

/// The page, whose style and script only this answer's policy lets in.
pub(super) fn page() -> Answer {
    let nonce = format!("{:032x}", rand::random::<u128>());
    let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", PAGE.replace(NONCE, &nonce));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = answer.headers_mut();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere_and_sets_only_text() {
        for far in ["http://", "https://", "//cdn", "@import", "src=\"", "url("] {
            assert!(!PAGE.contains(far), "{far}");
        }
        for risky in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " onclick",
            " style=\"",
        ] {
            assert!(!PAGE.contains(risky), "{risky}");
        }
    }

    #[test]
    fn each_answer_has_its_own_nonce() {
        let policy = |answer: &Answer| answer.headers()[CONTENT_SECURITY_POLICY].clone();
        assert_ne!(policy(&page()), policy(&page()));
        assert_eq!(PAGE.matches(NONCE).count(), 2, "one for the style, one for the script");
    }
}
