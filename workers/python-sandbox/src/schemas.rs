//! What each capability takes, in words for people and as JSON Schema for programs.

use rollcall_worker_sdk::Capability;
use serde_json::{Value, json};

use crate::inputs::{MOST_ARGUMENTS, MOST_FILES, MOST_NAMES, MOST_PACKAGES};

fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn path(description: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 4096, "description": description })
}

fn size(description: &str) -> Value {
    json!({
        "description": description,
        "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)?$" }]
    })
}

fn limits() -> Value {
    json!({
        "type": "object",
        "description": "what it may use, where that is not the worker's default; in a session, only with the call that begins it",
        "properties": {
            "memory": size("of all its processes and files, such as \"512MiB\""),
            "processes": { "type": "integer", "minimum": 1 },
            "cpus": { "type": "number", "exclusiveMinimum": 0 },
            "output": size("what is kept of each stream"),
            "workspace": size("of the files below /workspace"),
            "open_files": { "type": "integer", "minimum": 1 }
        },
        "additionalProperties": false
    })
}

fn inputs() -> Value {
    json!({
        "type": "array", "maxItems": MOST_FILES, "description": "files to put into /workspace before",
        "items": {
            "type": "object",
            "properties": {
                "path": path("below /workspace"), "text": { "type": "string" }, "base64": { "type": "string" },
                "artifact": {
                    "type": "object", "required": ["$artifact"],
                    "properties": { "$artifact": { "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" } },
                    "description": "a file that was uploaded with POST /v1/artifacts, or made by another task"
                }
            },
            "required": ["path"],
            "oneOf": [{ "required": ["text"] }, { "required": ["base64"] }, { "required": ["artifact"] }],
            "additionalProperties": false
        }
    })
}

fn outputs() -> Value {
    json!({
        "type": "array", "maxItems": MOST_FILES, "items": { "type": "string" },
        "description": "files of /workspace to return as artifacts, by path or pattern such as \"*.csv\""
    })
}

pub(crate) fn python_execute() -> Capability {
    // Without a session a run has no network and leaves nothing behind: to run it again does no harm.
    Capability::new("python.execute")
        .description(
            "Runs Python 3 code in a sandbox without network. Standard output and error are streamed; the last \
             expression's value is returned as text, and as PNG, SVG, HTML or JSON where it has such a form, as are \
             figures of matplotlib. With a session, names and files live on to the next call; without one, nothing \
             is kept.",
        )
        .idempotent(true)
        .input_schema(&object(
            json!({
                "code": text("Python source"), "inputs": inputs(), "outputs": outputs(), "limits": limits()
            }),
            &["code"],
        ))
}

pub(crate) fn python_reset() -> Capability {
    Capability::new("python.reset")
        .description(
            "Begins the task's session anew: names, files, installed packages and processes are gone.",
        )
        .input_schema(&object(json!({}), &[]))
}

pub(crate) fn command_execute() -> Capability {
    let mut schema = object(
        json!({
            "argv": {
                "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": MOST_ARGUMENTS,
                "description": "the program's name and its arguments"
            },
            "shell": text("a script for /bin/sh"),
            "stdin": text("what the program reads"),
            "cwd": text("where it starts, below /workspace or /tmp; made if it is not there"),
            "env": {
                "type": "object", "maxProperties": MOST_NAMES, "additionalProperties": { "type": "string" },
                "description": "names beside PATH, HOME, USER, LANG, TMPDIR, TERM, MPLBACKEND; nothing else is set"
            },
            "inputs": inputs(), "outputs": outputs(), "limits": limits()
        }),
        &[],
    );
    schema["oneOf"] = json!([{ "required": ["argv"] }, { "required": ["shell"] }]);
    Capability::new("command.execute")
        .description(
            "Runs a program in a sandbox without network: `argv` as it is, or `shell` by /bin/sh. With a session, \
             files live on to the next call; without one, nothing is kept.",
        )
        .idempotent(true)
        .input_schema(&schema)
}

pub(crate) fn files() -> [Capability; 5] {
    let below = "below /workspace or /tmp; a relative one begins at /workspace";
    [
        Capability::new("files.read")
            .description("Reads a file of the session; a large one comes as an artifact.")
            .input_schema(&object(
                json!({
                    "path": path(below),
                    "offset": { "type": "integer", "minimum": 0 },
                    "length": { "type": "integer", "minimum": 0 },
                    "encoding": { "enum": ["utf-8", "base64"], "description": "base64 is used in any case where it is no UTF-8" }
                }),
                &["path"],
            )),
        Capability::new("files.write")
            .description("Writes a file of the session, and the folders that lead to it.")
            .input_schema(&{
                let mut schema = object(
                    json!({
                        "path": path(below), "text": { "type": "string" }, "base64": { "type": "string" },
                        "append": { "type": "boolean" }
                    }),
                    &["path"],
                );
                schema["oneOf"] = json!([{ "required": ["text"] }, { "required": ["base64"] }]);
                schema
            }),
        Capability::new("files.list")
            .description("Lists a folder of the session.")
            .input_schema(&object(
                json!({ "path": path(below), "depth": { "type": "integer", "minimum": 1, "maximum": 16 } }),
                &[],
            )),
        Capability::new("files.delete")
            .description("Deletes a file of the session, or a folder; one that is not empty only with `recursive`.")
            .input_schema(&object(
                json!({ "path": path(below), "recursive": { "type": "boolean" } }),
                &["path"],
            )),
        Capability::new("files.stat")
            .description("Tells kind, size, mode and time of a file of the session; links are not followed.")
            .input_schema(&object(json!({ "path": path(below) }), &["path"])),
    ]
}

pub(crate) fn package_install() -> Capability {
    Capability::new("package.install")
        .description(
            "Installs Python packages for the session, from wheels only: no code of theirs is run meanwhile. Tells \
             what was installed, with the hash of each wheel.",
        )
        .input_schema(&object(
            json!({
                "packages": {
                    "type": "array", "minItems": 1, "maxItems": MOST_PACKAGES,
                    "items": { "type": "string", "minLength": 1, "maxLength": 200 },
                    "description": "names with versions if need be, such as \"numpy\" or \"requests>=2.31,<3\""
                }
            }),
            &["packages"],
        ))
}

pub(crate) fn package_list() -> Capability {
    Capability::new("package.list")
        .description("Lists the Python packages that code can import, with their versions.")
        .idempotent(true)
        .input_schema(&object(json!({}), &[]))
}

pub(crate) fn code_analyze() -> Capability {
    Capability::new("code.analyze")
        .description(
            "Tells of Python code without running it: syntax errors with their place, imports, functions and classes \
             with their complexity, names that nothing defines, and calls worth a look. No security gate.",
        )
        .idempotent(true)
        .input_schema(&object(json!({ "code": text("Python source") }), &["code"]))
}
