//! What is told of wrong inputs, and that no schema, however it is made, holds up the server or
//! brings it down.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::checker::{Checker, Effort};
use super::weight::Unfit;
use super::*;

fn offer(schema: &str) -> Vec<Offer> {
    vec![Offer { name: "a".into(), description: None, input_schema: Some(schema.into()), idempotent: false }]
}

async fn checked(schema: &Value, input: &Value) -> Vec<(String, String)> {
    let schemas = Schemas::default();
    schemas.changed(&[], &offer(&schema.to_string()));
    match schemas.check(&"a".into(), &input.to_string().as_str().into()).await {
        Ok(()) => Vec::new(),
        Err(wrong) => wrong.errors.into_iter().map(|error| (error.pointer, error.message)).collect(),
    }
}

#[tokio::test]
async fn a_wrong_input_is_told_by_pointer_and_without_its_value() {
    let schema = json!({
        "type": "object", "required": ["code"], "additionalProperties": false,
        "properties": { "code": { "type": "string" }, "argv": { "type": "array", "items": { "$ref": "#/$defs/word" } } },
        "$defs": { "word": { "type": "string", "pattern": "^[a-z]+$" } },
    });
    assert!(checked(&schema, &json!({ "code": "1", "argv": ["ls"] })).await.is_empty());
    let wrong = checked(&schema, &json!({ "argv": ["ls", "SECRET", 7], "cod": 1 })).await;
    let pointers: Vec<_> = wrong.iter().map(|(pointer, _)| pointer.as_str()).collect();
    for pointer in ["", "/argv/1", "/argv/2"] {
        assert!(pointers.contains(&pointer), "{wrong:?}");
    }
    let said: String = wrong.iter().map(|(_, message)| message.as_str()).collect();
    assert!(said.contains("\"code\"") && said.contains("cod") && !said.contains("SECRET"), "{said}");
}

#[tokio::test]
async fn large_inputs_are_checked_too_and_told_by_their_first_fault() {
    let schema = json!({ "type": "object", "properties": { "code": { "type": "string" } }, "additionalProperties": false });
    let long = "x".repeat(200_000);
    assert!(checked(&schema, &json!({ "code": long })).await.is_empty());
    let wrong = checked(&schema, &json!({ long.as_str(): 1, "code": 2 })).await;
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].1.chars().count() <= 257, "the message is bounded");
    let many: Vec<u32> = (0..1_000).collect();
    assert_eq!(checked(&json!({ "items": { "type": "string" } }), &json!(many)).await.len(), 16);
}

#[tokio::test]
async fn an_input_that_is_too_large_to_check_is_left_to_the_worker() {
    assert!(checked(&json!({ "type": "string" }), &json!(vec![1; 2 << 20])).await.is_empty());
    let dear = json!({ "enum": vec!["x"; 4_000] });
    assert!(checked(&dear, &json!("y".repeat(50_000))).await.is_empty());
    assert_eq!(checked(&dear, &json!("y")).await.len(), 1);
}

#[test]
fn schemas_that_have_no_end_are_not_followed() {
    let itself = json!({ "$ref": "#" });
    let tree = json!({ "properties": { "children": { "items": { "$ref": "#" } } } });
    let round = json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } });
    let either = json!({ "anyOf": [
        { "properties": { "a": { "$ref": "#" } }, "required": ["x"] }, { "properties": { "a": { "$ref": "#" } } },
    ] });
    for schema in [itself, tree, round, either] {
        let refused = Checker::of(&schema.to_string()).err();
        assert!(matches!(refused, Some(Unfit::TooDeep | Unfit::TooLarge)), "{schema}: {refused:?}");
    }
    let mut doubling = json!({ "$ref": "#/$defs/d0", "$defs": {} });
    for level in 0..20 {
        let next = format!("#/$defs/d{}", level + 1);
        doubling["$defs"][format!("d{level}")] = json!({ "allOf": [{ "$ref": next }, { "$ref": next }] });
    }
    doubling["$defs"]["d20"] = json!({ "type": "string" });
    assert_eq!(Checker::of(&doubling.to_string()).err(), Some(Unfit::TooLarge));
    let mut chain = json!({ "$ref": "#/$defs/c0", "$defs": { "c1000": true } });
    for level in 0..1_000 {
        chain["$defs"][format!("c{level}")] = json!({ "$ref": format!("#/$defs/c{}", level + 1) });
    }
    assert_eq!(Checker::of(&chain.to_string()).err(), Some(Unfit::TooDeep));
}

#[test]
fn nothing_is_fetched_and_nothing_is_resolved_in_two_ways() {
    for schema in [
        json!({ "$ref": "http://127.0.0.1:9/schema.json" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!({ "$ref": "other.json#/a" }),
        json!({ "$ref": "#name", "$defs": { "a": { "$anchor": "name" } } }),
        json!({ "$ref": "#/$defs/%61", "$defs": { "a": {} } }),
        json!({ "$ref": "#/$defs/nowhere" }),
        json!({ "$dynamicRef": "#a" }),
        json!({ "$recursiveRef": "#" }),
        json!({ "properties": { "a": { "$id": "http://x.test/", "$ref": "#/b" } } }),
        json!({ "$schema": "http://x.test/my-dialect" }),
        json!({ "$schema": "http://json-schema.org/draft-04/schema#" }),
    ] {
        let refused = Checker::of(&schema.to_string()).err();
        assert!(matches!(refused, Some(Unfit::Unfollowed(_))), "{schema}: {refused:?}");
    }
    let root =
        json!({ "$id": "http://x.test/", "$ref": "#/$defs/a", "$defs": { "a": { "type": "string" } } });
    assert!(Checker::of(&root.to_string()).is_ok());
    let named = json!({ "properties": { "$ref": { "type": "string" }, "$id": {}, "pattern": {} } });
    assert!(Checker::of(&named.to_string()).is_ok(), "properties may have the names of keywords");
}

#[test]
fn what_is_no_schema_or_too_much_of_one_is_left_to_the_worker() {
    let deep = format!("{}{}{}", r#"{"not":"#.repeat(120), "true", "}".repeat(120));
    let deeper = format!("{}{}{}", r#"{"not":"#.repeat(8_000), "true", "}".repeat(8_000));
    let wide = json!({ "enum": (0..5_000).collect::<Vec<u32>>() }).to_string();
    let long = json!({ "description": "x".repeat(70_000) }).to_string();
    let patterns: Vec<_> = (0..40).map(|n| json!({ "pattern": format!("a{n}") })).collect();
    let unevaluated =
        (0..10).fold(json!(true), |inner, _| json!({ "allOf": [inner], "unevaluatedProperties": false }));
    for schema in [
        "",
        "{",
        "7",
        "\"x\"",
        "[]",
        r#"{"type":"strnig"}"#,
        r#"{"type":7}"#,
        r#"{"required":"a"}"#,
        r#"{"pattern":"("}"#,
        r#"{"pattern":"(?=a)b"}"#,
        r#"{"pattern":"(a)\\1"}"#,
        r#"{"pattern":"((a{100}){100}){100}"}"#,
        &deep,
        &deeper,
        &wide,
        &long,
        &json!({ "anyOf": patterns }).to_string(),
        &unevaluated.to_string(),
    ] {
        assert!(Checker::of(schema).is_err(), "{schema:.80}");
    }
}

#[test]
fn a_hostile_pattern_takes_no_longer_than_a_friendly_one() {
    let began = Instant::now();
    for pattern in ["^(a+)+$", "(a|aa)+$", "(.*a){20}", "^(([a-z])+.)+[A-Z]([a-z])+$"] {
        let Ok(checker) = Checker::of(&json!({ "pattern": pattern }).to_string()) else { continue };
        let input = json!(format!("{}!", "a".repeat(100_000))).to_string();
        assert_eq!(checker.effort(input.len()), Effort::Large);
        checker.judge(&input, false);
    }
    // Each backtracks for ages where engines backtrack.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn the_dearest_checks_that_are_made_end_soon() {
    let began = Instant::now();
    let all_of: Vec<_> = (0..1_300).map(|_| json!({ "type": "string" })).collect();
    let checker = Checker::of(&json!({ "items": { "allOf": all_of } }).to_string()).expect("it fits");
    let input = json!(vec![1; 11_000]).to_string();
    assert_eq!(checker.effort(input.len()), Effort::Large);
    assert_eq!(checker.judge(&input, false).len(), 1);
    let unique = Checker::of(r#"{"uniqueItems":true}"#).expect("it fits");
    let items: Vec<Value> = (0..100_000).map(|n| json!({ "n": n })).collect();
    unique.judge(&json!(items).to_string(), false);
    let multiple = Checker::of(r#"{"items":{"multipleOf":1e-300}}"#).expect("it fits");
    multiple.judge(&json!(vec![1e300; 10_000]).to_string(), false);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
