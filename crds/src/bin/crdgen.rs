//! `crdgen`: prints what is generated from the API's types, or writes it into the repository.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::path::Path;
use std::process::ExitCode;

use plimsoll_crds::generate;

const USAGE: &str = "\
usage: crdgen [crd|chart|conditions|write DIR]
  crd         the CustomResourceDefinition, for kubectl apply (the default)
  chart       the same as a template of the Helm chart
  conditions  the table of conditions and Events
  write DIR   all generated files, into the repository at DIR";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["crd"] => print!("{}", generate::crd_yaml()),
        ["chart"] => print!("{}", generate::chart_template()),
        ["conditions"] => print!("{}", generate::conditions_table()),
        ["write", root] => {
            for (path, text) in generate::files() {
                if let Err(error) = std::fs::write(Path::new(root).join(path), text) {
                    eprintln!("{root}/{path}: {error}");
                    return ExitCode::FAILURE;
                }
                println!("{path}");
            }
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
