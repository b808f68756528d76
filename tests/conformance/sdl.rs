//! `schema.graphql` and GraphQL documents with the tools of clients: relay-compiler, graphql-codegen with tsc, and
//! @graphql-eslint. `tests/conformance/run` has copied the schema, the document of the chart page and the files of
//! `tests/conformance/sdl` into one directory with the tools.

use crate::parts;
use std::io::Write;
use std::process::{Command, Output, Stdio};

#[test]
fn relay_compiles_a_client() {
    let generated = parts().join("sdl/client/generated");
    let _ = std::fs::remove_dir_all(&generated);
    std::fs::create_dir(&generated).unwrap();
    assert_success(tool("relay-compiler", &["relay.config.json"], ""));
    let artifacts: Vec<_> =
        std::fs::read_dir(&generated).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // Relay generates these queries from the fragments: by the id of a Node, and for the whole list.
    for refetch in ["chartNotesQuery", "chartNoteQuery", "chartWorklistPageQuery"] {
        assert!(artifacts.contains(&format!("{refetch}.graphql.ts")), "{artifacts:?}");
    }
    let paged = std::fs::read_to_string(generated.join("chartNotesQuery.graphql.ts")).unwrap();
    assert!(paged.contains("node(id: $id)") && paged.contains("hasPreviousPage"), "{paged}");
}

#[test]
fn generated_types_compile_in_a_client() {
    let _ = std::fs::remove_file(parts().join("sdl/generated.ts"));
    assert_success(tool("node", &["codegen.js"], ""));
    assert_success(tool("tsc", &["--project", "."], ""));
    let wrong =
        "import type { SignNoteInput } from './generated.js';\nexport const sign: SignNoteInput = { id: 'x' };\n";
    std::fs::write(parts().join("sdl/wrong.ts"), wrong).unwrap();
    let refused = tool("tsc", &["--noEmit", "--strict", "--module", "nodenext", "wrong.ts"], "");
    assert!(!refused.status.success() && text(&refused).contains("expectedVersion"), "{}", text(&refused));
}

#[test]
fn the_schema_passes_lint() {
    assert_success(tool("eslint", &["--max-warnings", "0", "schema.graphql", "documents"], ""));
    let schema = "type Query { getPatient(id: ID!): Patient } type Patient { name: String }";
    let refused = text(&tool("eslint", &["--stdin", "--stdin-filename", "schema.graphql"], schema));
    for rule in ["require-description", "naming-convention", "strict-id-in-types"] {
        assert!(refused.contains(rule), "{refused}");
    }
}

/// Runs a tool in the directory of the client.
pub fn tool(name: &str, arguments: &[&str], input: &str) -> Output {
    Tool::new(name, arguments).run(input)
}

/// A command-line tool and its environment.
pub struct Tool(Command);

impl Tool {
    pub fn new(name: &str, arguments: &[&str]) -> Self {
        let folder = parts().join("sdl");
        let installed = folder.join("node_modules/.bin").join(name);
        let mut command = if installed.exists() { Command::new(installed) } else { Command::new(name) };
        command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command)
    }

    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.0.env(variable, value);
        self
    }

    pub fn run(mut self, input: &str) -> Output {
        let mut child = self.0.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.0));
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

/// Returns standard output and standard error.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn assert_success(output: Output) {
    assert!(output.status.success(), "{}", text(&output));
}
