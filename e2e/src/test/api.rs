//! The resource on a real API server: what it refuses, what it defaults, how it explains itself.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use plimsoll_crds::names;
use serde_json::Value;

use crate::kube::Kubernetes;
use crate::paths;
use crate::test::definition::with_definition;
use crate::test::world::World;
use crate::test::{Group, Passed, chart, expect, test};

pub(super) const GROUP: Group = Group {
    name: "api",
    about: "the CRD on a real API server, the chart, the examples",
    tests: &[
        test(
            "the API server says to each spec what its table says",
            tables,
        ),
        test("kubectl explain describes every field", explained),
        test("every example is accepted", examples),
        test(
            "the chart lints and every document of it is accepted",
            chart::renders,
        ),
        test(
            "PodMonitors are accepted beside their definition",
            chart::pod_monitors,
        ),
        test(
            "a wrong value is refused by the chart's schema",
            chart::wrong_values,
        ),
    ],
};

fn tables(world: &World<'_>) -> Passed {
    let kubernetes = with_definition(world)?;
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in yaml_files("crds/tests/api")? {
        let text = fs::read_to_string(&file)?;
        for document in text
            .split("\n---\n")
            .filter(|document| !document.trim().is_empty())
        {
            let case = Case::read(document);
            count += 1;
            if let Err(error) = case.check(&kubernetes, document) {
                wrong.push(format!("{}: {}: {error:#}", file.display(), case.name));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{} of {count} cases\n{}", wrong.len(), wrong.join("\n"));
    }
    expect(count > 0, || "no case was found".to_owned())?;
    Ok(count)
}

/// What the comments on top of a document say.
struct Case {
    name: String,
    errors: Vec<String>,
    /// (JSONPath, value)
    stored: Vec<(String, String)>,
}

impl Case {
    fn read(document: &str) -> Self {
        let all = |key: &str| -> Vec<String> {
            let start = format!("# {key}: ");
            let lines = document
                .lines()
                .filter_map(|line| line.strip_prefix(&start));
            lines.map(|text| text.trim().to_owned()).collect()
        };
        let stored = all("stored");
        Self {
            name: all("case")
                .into_iter()
                .next()
                .unwrap_or_else(|| "without a name".to_owned()),
            errors: all("error"),
            stored: stored
                .iter()
                .filter_map(|line| line.split_once('='))
                .map(|(path, value)| (path.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    fn check(&self, kubernetes: &Kubernetes, document: &str) -> Result<()> {
        let create = [
            "create",
            "--dry-run=server",
            "--validate=strict",
            "--output=json",
            "--filename=-",
        ];
        let ended = kubernetes.kubectl.outcome(&create, Some(document))?;
        if self.errors.is_empty() {
            if !ended.status.success() {
                bail!("refused: {}", ended.stderr.trim());
            }
            let object: Value = serde_json::from_str(&ended.stdout)?;
            return self.check_stored(&object);
        }
        if ended.status.success() {
            bail!("accepted, and should be refused with {:?}", self.errors);
        }
        let said = ended
            .stderr
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        match self.errors.iter().find(|error| !said.contains(*error)) {
            Some(error) => bail!("the answer lacks {error:?}: {said}"),
            None => Ok(()),
        }
    }

    fn check_stored(&self, object: &Value) -> Result<()> {
        for (path, wanted) in &self.stored {
            let pointer = path
                .trim_start_matches('{')
                .trim_end_matches('}')
                .replace(['.', '['], "/")
                .replace(']', "");
            let found = match object.pointer(&pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            if found != *wanted {
                bail!("{path} is {found:?}, wanted {wanted:?}");
            }
        }
        Ok(())
    }
}

fn explained(world: &World<'_>) -> Passed {
    let kubernetes = with_definition(world)?;
    let words = ["explain", names::PLURAL, "--recursive"];
    let all = kubernetes.kubectl.run(&words)?;
    let fields = [
        "tensorParallelSize",
        "gpuQuotas",
        "gpuMemoryUtilization",
        "maxModelLen",
    ];
    for field in fields {
        expect(all.contains(field), || {
            format!("kubectl explain does not know {field}")
        })?;
    }
    let path = format!(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}",
        names::CRD_NAME
    );
    let definition = kubernetes.api.get(&path)?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut silent = Vec::new();
    for part in ["spec", "status"] {
        undescribed(part, &schema[part], &mut silent);
    }
    expect(silent.is_empty(), || {
        format!("no description: {}", silent.join(", "))
    })?;
    let one = kubernetes
        .kubectl
        .run(&["explain", "inferencedeployment.spec.memory.gpuQuotas"])?;
    expect(one.contains("DESCRIPTION"), || one.clone())?;
    Ok(1)
}

/// Fields without a word about them. Kubernetes' own types (containers, volumes…) are not ours.
fn undescribed(path: &str, schema: &Value, silent: &mut Vec<String>) {
    const FOREIGN: [&str; 3] = ["spec.template", "status.conditions", "spec.model.source"];
    if FOREIGN
        .iter()
        .any(|foreign| path.starts_with(&format!("{foreign}.")))
    {
        return;
    }
    if schema["description"].as_str().is_none_or(str::is_empty) {
        silent.push(path.to_owned());
    }
    let nested = schema["properties"]
        .as_object()
        .or(schema["items"]["properties"].as_object());
    for (name, field) in nested.into_iter().flatten() {
        undescribed(&format!("{path}.{name}"), field, silent);
    }
}

fn examples(world: &World<'_>) -> Passed {
    let kubernetes = with_definition(world)?;
    let mut count = 0;
    for file in yaml_files("examples")? {
        let file = file.to_string_lossy();
        let words = [
            "create",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &file,
        ];
        kubernetes
            .kubectl
            .run(&words)
            .with_context(|| file.to_string())?;
        count += 1;
    }
    expect(count > 0, || "no example was found".to_owned())?;
    Ok(count)
}

fn yaml_files(folder: &str) -> Result<Vec<PathBuf>> {
    let folder = paths::repository().join(folder);
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    Ok(files)
}
