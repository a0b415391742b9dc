//! What a user types after `demo --keep`: printed by the demo, run word for word by a test.

use std::path::{Path, PathBuf};

use plimsoll_crds::names;

use crate::install::{RELEASE, SYSTEM};

/// What the printed lines speak of.
#[derive(Debug)]
pub(crate) struct Next<'a> {
    pub(crate) kubeconfig: &'a Path,
    /// Programs of the cluster's own version, for machines that have none.
    pub(crate) kubectl: PathBuf,
    pub(crate) helm: PathBuf,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) question: &'a str,
    /// A free port of this machine.
    pub(crate) port: u16,
}

impl Next<'_> {
    /// Lines for a shell: look, forward a port, ask.
    pub(crate) fn ask(&self) -> String {
        let Self {
            kubeconfig: _,
            kubectl: _,
            helm: _,
            namespace,
            name,
            question,
            port,
        } = self;
        format!(
            "{}\n\
             kubectl -n {namespace} get {plural}\n\
             kubectl -n {namespace} port-forward service/{name} {port}:{http} >/dev/null &\n\
             curl --silent --show-error --retry 10 --retry-connrefused \\\n  \
             http://127.0.0.1:{port}/v1/chat/completions -H 'content-type: application/json' \\\n  \
             -d '{{\"model\": \"{name}\", \"messages\": [{{\"role\": \"user\", \"content\": \"{question}\"}}]}}'\n",
            self.environment(),
            plural = names::PLURAL,
            http = names::PORT_HTTP,
        )
    }

    /// Lines that take away what the demo put on somebody's cluster.
    pub(crate) fn remove(&self) -> String {
        format!(
            "{}\n\
             kubectl delete namespace {}\n\
             helm uninstall {RELEASE} --namespace {SYSTEM}\n\
             kubectl delete namespace {SYSTEM}\n\
             kubectl delete crd {}    # and with it every {} of the cluster\n",
            self.environment(),
            self.namespace,
            names::CRD_NAME,
            names::KIND,
        )
    }

    fn environment(&self) -> String {
        let folders: Vec<String> = [&self.kubectl, &self.helm]
            .iter()
            .filter_map(|program| program.parent())
            .map(|folder| folder.display().to_string())
            .collect();
        format!(
            "export KUBECONFIG={}\nexport PATH=\"$PATH\":{}",
            quoted(&self.kubeconfig.display().to_string()),
            quoted(&folders.join(":")),
        )
    }
}

/// One word for a shell, whatever it holds.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:".contains(&byte);
    if word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_a_space_or_a_quote_stays_one_word() {
        assert_eq!(quoted("/a/b-1.2_c:/d"), "/a/b-1.2_c:/d");
        assert_eq!(quoted("/a b/it's"), r"'/a b/it'\''s'");
    }
}
