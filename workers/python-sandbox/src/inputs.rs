//! What tasks may ask for, read and checked before any sandbox is touched.

use rollcall_worker_sdk::ArtifactReference;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::limits::Asked;
use crate::outcome::Program;
use crate::profile::WORKSPACE;

/// The kernel's limit for one argument, its final zero not counted.
const LONGEST_ARGUMENT: usize = 128 * 1024 - 1;

/// As many arguments as anybody needs; their sum stays below the kernel's limit.
pub(crate) const MOST_ARGUMENTS: usize = 1024;
const LONGEST_COMMAND: usize = 1 << 20;

/// Files of one task, in and out.
pub(crate) const MOST_FILES: usize = 16;

/// What files of inputs may have that are fetched, each and together.
pub(crate) const FETCHED_MOST: usize = 10 << 20;
pub(crate) const FETCHED_ALL: usize = 20 << 20;

/// The field of an input that is still to be fetched.
const FETCHED: &str = "fetch";

/// Names in a program's environment, and the bytes of all with their values.
pub(crate) const MOST_NAMES: usize = 64;
const LONGEST_ENVIRONMENT: usize = 32 * 1024;

/// Packages of one installation.
pub(crate) const MOST_PACKAGES: usize = 30;
const LONGEST_REQUIREMENT: usize = 200;

/// What a task wants done.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) program: Program,
    pub(crate) inputs: Vec<Value>,
    pub(crate) outputs: Vec<String>,
    pub(crate) limits: Asked,
}

impl Wanted {
    pub(crate) fn of(program: Program) -> Self {
        Self { program, inputs: Vec::new(), outputs: Vec::new(), limits: Asked::default() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PythonInput {
    code: String,
    #[serde(default)]
    inputs: Vec<InputFile>,
    #[serde(default)]
    outputs: Vec<String>,
    #[serde(default)]
    limits: Asked,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandInput {
    argv: Option<Vec<String>>,
    shell: Option<String>,
    #[serde(default)]
    stdin: String,
    #[serde(default)]
    cwd: String,
    #[serde(default)]
    env: Map<String, Value>,
    #[serde(default)]
    inputs: Vec<InputFile>,
    #[serde(default)]
    outputs: Vec<String>,
    #[serde(default)]
    limits: Asked,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputFile {
    path: String,
    text: Option<String>,
    base64: Option<String>,
    artifact: Option<ArtifactReference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteInput {
    path: String,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    append: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadInput {
    path: String,
    #[serde(default)]
    offset: u64,
    length: Option<u64>,
    encoding: Option<Encoding>,
}

#[derive(Deserialize)]
enum Encoding {
    #[serde(rename = "utf-8")]
    Text,
    #[serde(rename = "base64")]
    Base64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListInput {
    #[serde(default = "here")]
    path: String,
    #[serde(default = "one")]
    depth: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteInput {
    path: String,
    #[serde(default)]
    recursive: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatInput {
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnalyzeInput {
    code: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallInput {
    packages: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn here() -> String {
    String::from(".")
}

fn one() -> u32 {
    1
}

fn read<T: DeserializeOwned>(input: &str) -> Result<T, String> {
    serde_json::from_str(input).map_err(|problem| problem.to_string())
}

pub(crate) fn python(input: &str) -> Result<Wanted, String> {
    let PythonInput { code, inputs, outputs, limits } = read(input)?;
    let (inputs, outputs) = files(inputs, outputs)?;
    Ok(Wanted { program: Program::Python { code }, inputs, outputs, limits })
}

pub(crate) fn command(input: &str) -> Result<Wanted, String> {
    let CommandInput { argv, shell, stdin, cwd, env, inputs, outputs, limits } = read(input)?;
    let argv = match (argv, shell) {
        (Some(argv), None) => argv,
        (None, Some(script)) => vec!["/bin/sh".into(), "-c".into(), script],
        _ => return Err("one of `argv` and `shell` is needed, and not both".into()),
    };
    if argv.is_empty() || argv.len() > MOST_ARGUMENTS {
        return Err(format!("`argv` has {} words; it may have 1 to {MOST_ARGUMENTS}", argv.len()));
    }
    if argv.iter().any(|word| word.len() > LONGEST_ARGUMENT)
        || argv.iter().map(String::len).sum::<usize>() > LONGEST_COMMAND
    {
        return Err(format!(
            "an argument may have {LONGEST_ARGUMENT} bytes, all together {LONGEST_COMMAND}; \
             send more through `stdin`"
        ));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err("an argument cannot contain a zero byte".into());
    }
    check_environment(&env)?;
    let (inputs, outputs) = files(inputs, outputs)?;
    let program = Program::Command { argv, stdin, cwd: start_folder(&cwd)?, env };
    Ok(Wanted { program, inputs, outputs, limits })
}

pub(crate) fn files_write(input: &str) -> Result<Wanted, String> {
    let WriteInput { path, text, base64, append } = read(input)?;
    let mut arguments = content(&path, text, base64)?;
    arguments["append"] = json!(append);
    Ok(tool("files.write", arguments))
}

pub(crate) fn files_read(input: &str) -> Result<Wanted, String> {
    let ReadInput { path, offset, length, encoding } = read(input)?;
    let mut arguments = json!({ "path": path, "offset": offset });
    if let Some(length) = length {
        arguments["length"] = json!(length);
    }
    if let Some(Encoding::Base64) = encoding {
        arguments["encoding"] = json!("base64");
    }
    Ok(tool("files.read", arguments))
}

pub(crate) fn files_list(input: &str) -> Result<Wanted, String> {
    let ListInput { path, depth } = read(input)?;
    Ok(tool("files.list", json!({ "path": path, "depth": depth.clamp(1, 16) })))
}

pub(crate) fn files_delete(input: &str) -> Result<Wanted, String> {
    let DeleteInput { path, recursive } = read(input)?;
    Ok(tool("files.delete", json!({ "path": path, "recursive": recursive })))
}

pub(crate) fn files_stat(input: &str) -> Result<Wanted, String> {
    let StatInput { path } = read(input)?;
    Ok(tool("files.stat", json!({ "path": path })))
}

pub(crate) fn analyze(input: &str) -> Result<Wanted, String> {
    let AnalyzeInput { code } = read(input)?;
    Ok(tool("code.analyze", json!({ "code": code })))
}

pub(crate) fn package_list(input: &str) -> Result<Wanted, String> {
    let Nothing {} = read(input)?;
    Ok(tool("packages.list", json!({})))
}

/// Does nothing: the session that it begins is all that is wanted.
pub(crate) fn reset(input: &str) -> Result<Wanted, String> {
    let Nothing {} = read(input)?;
    Ok(Wanted::of(Program::Python { code: String::new() }))
}

/// The packages to install, each a name with extras and versions as in a requirement, and nothing else
/// that pip would understand: no option, no path, no URL, no file of requirements.
pub(crate) fn packages(input: &str) -> Result<Vec<String>, String> {
    let InstallInput { packages } = read(input)?;
    if packages.is_empty() || packages.len() > MOST_PACKAGES {
        return Err(format!("`packages` has {} names; it may have 1 to {MOST_PACKAGES}", packages.len()));
    }
    match packages.iter().find(|text| !is_requirement(text)) {
        None => Ok(packages),
        Some(wrong) => Err(format!(
            "`packages` has {wrong:?}; each must be a name as on an index, with versions if need be, such as \
             \"numpy\" or \"requests>=2.31,<3\""
        )),
    }
}

/// `name[extra,extra]==1.2,<3`, by the rules of PEP 508 for names and PEP 440 for versions, read strictly.
fn is_requirement(text: &str) -> bool {
    let is_version = |clause: &str| {
        let operators = ["===", "==", "!=", "<=", ">=", "~=", "<", ">"];
        let version = operators.iter().find_map(|operator| clause.strip_prefix(operator));
        version.is_some_and(|version| {
            !version.is_empty()
                && version.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '*' | '+' | '!'))
        })
    };
    let name = name_in(text);
    let rest = &text[name.len()..];
    let (extras, versions) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
        None => ("", rest),
        Some(Some((extras, versions))) => (extras, versions),
        Some(None) => return false,
    };
    text.len() <= LONGEST_REQUIREMENT
        && is_name(name)
        && (extras.is_empty() || extras.split(',').all(is_name))
        && (versions.is_empty() || versions.split(',').all(is_version))
}

/// Whether a package may be called so (PEP 508).
pub(crate) fn is_name(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(name.chars().next())
        && ends(name.chars().last())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// The name in a requirement, without extras and versions.
pub(crate) fn name_in(requirement: &str) -> &str {
    let ends = requirement.find(['[', '=', '!', '<', '>', '~']).unwrap_or(requirement.len());
    &requirement[..ends]
}

fn tool(name: &'static str, arguments: Value) -> Wanted {
    Wanted::of(Program::Tool { name, arguments })
}

fn files(inputs: Vec<InputFile>, outputs: Vec<String>) -> Result<(Vec<Value>, Vec<String>), String> {
    if inputs.len() > MOST_FILES || outputs.len() > MOST_FILES {
        return Err(format!("`inputs` and `outputs` may have {MOST_FILES} files each"));
    }
    let inputs = inputs.into_iter().map(|file| match file {
        InputFile { path, text: None, base64: None, artifact: Some(reference) } => {
            Ok(json!({ "path": path, FETCHED: reference.artifact }))
        }
        InputFile { path, text, base64, artifact: None } => content(&path, text, base64),
        InputFile { path, .. } => Err(one_content(&path)),
    });
    Ok((inputs.collect::<Result<_, _>>()?, outputs))
}

/// The files among these that are to be fetched first.
pub(crate) fn to_fetch(inputs: &mut [Value]) -> impl Iterator<Item = (&mut Value, ArtifactReference)> {
    inputs.iter_mut().filter_map(|input| {
        let artifact = input.as_object_mut()?.remove(FETCHED)?.as_str()?.to_owned();
        Some((input, ArtifactReference { artifact }))
    })
}

/// Gives one of them its content.
pub(crate) fn fetched(input: &mut Value, bytes: &[u8]) {
    input["base64"] = json!(base64(bytes));
}

/// As in RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let sum = three.iter().fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
        let bits = sum << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

fn content(path: &str, text: Option<String>, base64: Option<String>) -> Result<Value, String> {
    match (text, base64) {
        (Some(text), None) => Ok(json!({ "path": path, "text": text })),
        (None, Some(base64)) => Ok(json!({ "path": path, "base64": base64 })),
        _ => Err(one_content(path)),
    }
}

fn one_content(path: &str) -> String {
    format!(
        "{path:?} needs its content in one field, `text`, `base64` or (of an input) `artifact`, and in one only"
    )
}

fn check_environment(env: &Map<String, Value>) -> Result<(), String> {
    let mut bytes = 0;
    for (name, value) in env {
        let good_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.starts_with(|c: char| !c.is_ascii_digit());
        let value = value.as_str().filter(|value| !value.contains('\0'));
        match (good_name, value) {
            (true, Some(value)) => bytes += name.len() + value.len(),
            _ => {
                return Err(format!(
                    "`env` has {name:?}: a name is of A-Z, a-z, 0-9 and _, and its value a text"
                ));
            }
        }
    }
    if env.len() > MOST_NAMES || bytes > LONGEST_ENVIRONMENT {
        return Err(format!("`env` may have {MOST_NAMES} names, and {LONGEST_ENVIRONMENT} bytes in all"));
    }
    Ok(())
}

/// An absolute path below a folder that can be written, or one relative to the workspace.
fn start_folder(cwd: &str) -> Result<String, String> {
    let path = if cwd.starts_with('/') { cwd.to_owned() } else { format!("{WORKSPACE}/{cwd}") };
    let allowed = [WORKSPACE, "/tmp"]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if !allowed || path.split('/').any(|part| part == "..") || path.len() > 1024 || path.contains('\0') {
        return Err("`cwd` must be a path below /workspace or /tmp, without `..`".into());
    }
    Ok(path.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(input: &str) -> Vec<String> {
        match command(input).map(|wanted| wanted.program) {
            Ok(Program::Command { argv, .. }) => argv,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_is_argv_or_a_script_and_nothing_else() {
        assert_eq!(argv(r#"{"argv":["ls","-l"]}"#), ["ls", "-l"]);
        assert_eq!(argv(r#"{"shell":"ls | wc"}"#), ["/bin/sh", "-c", "ls | wc"]);
        assert_eq!(argv(r#"{"argv":["ls"],"env":{"A":"b"}}"#), ["ls"]);
        for wrong in [
            r"{}",
            r#"{"argv":["ls"],"shell":"ls"}"#,
            r#"{"argv":[]}"#,
            r#"{"argv":"ls"}"#,
            r#"{"argv":["a\u0000b"]}"#,
            r#"{"argv":["ls"],"env":{"A=":"b"}}"#,
            r#"{"argv":["ls"],"env":{"A":1}}"#,
            r#"{"argv":["ls"],"more":1}"#,
            "[]",
        ] {
            assert!(command(wrong).is_err(), "{wrong}");
        }
        let long = json!({ "argv": ["echo", "x".repeat(200_000)] }).to_string();
        assert!(command(&long).expect_err("too long for the kernel").contains("stdin"));
    }

    #[test]
    fn a_start_folder_stays_where_it_can_be_made() {
        assert_eq!(start_folder("").as_deref(), Ok("/workspace"));
        assert_eq!(start_folder("a/b/").as_deref(), Ok("/workspace/a/b"));
        assert_eq!(start_folder("/tmp").as_deref(), Ok("/tmp"));
        for wrong in ["..", "a/../..", "/etc", "/workspaces", "/tmp/../etc", "/", "a\0b"] {
            assert!(start_folder(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_package_is_a_name_with_versions_and_nothing_that_pip_would_obey() {
        for good in ["numpy", "zope.interface", "requests>=2.31,<3", "x[a,b]==1.0.*", "a~=1.4", "A-b_c!=2"] {
            assert!(is_requirement(good), "{good}");
        }
        for wrong in [
            "",
            "-r",
            "--index-url=x",
            "../x",
            "/etc/passwd",
            "./x.whl",
            "git+https://x",
            "https://x/y.whl",
            "a @ https://x",
            "a b",
            "a;python_version<'3'",
            "a==",
            "a[",
            "a[x",
            "a[x]y",
            "-e.",
            "a>=1 --hash",
            "a\n-r/etc/passwd",
            "é",
            "_a",
            "a.",
        ] {
            assert!(!is_requirement(wrong), "{wrong:?}");
        }
        assert!(packages(r#"{"packages":[]}"#).is_err());
        assert!(packages(&json!({ "packages": vec!["a"; 31] }).to_string()).is_err());
    }

    #[test]
    fn files_come_with_one_content_each() {
        let both = r#"{"code":"","inputs":[{"path":"a","text":"x","base64":"eA=="}]}"#;
        assert!(python(both).is_err());
        let two = r#"{"code":"","inputs":[{"path":"a","text":"x","artifact":{"$artifact":"sha256:00"}}]}"#;
        assert!(python(two).is_err());
        let later = python(r#"{"code":"","inputs":[{"path":"a","artifact":{"$artifact":"sha256:00"}}]}"#);
        let mut inputs = later.expect("it is whole").inputs;
        for (input, reference) in to_fetch(&mut inputs) {
            assert_eq!(reference.artifact, "sha256:00");
            fetched(input, b"\0\x01\x02\xff");
        }
        assert_eq!(inputs, [json!({ "path": "a", "base64": "AAEC/w==" })]);
        assert_eq!(
            (base64(b""), base64(b"a"), base64(b"ab"), base64(b"abc")),
            (String::new(), "YQ==".into(), "YWI=".into(), "YWJj".into())
        );
        let one = python(r#"{"code":"","inputs":[{"path":"a","text":"x"}],"outputs":["*.csv"]}"#);
        assert_eq!(one.expect("it is whole").outputs, ["*.csv"]);
    }
}
