//! Certificates, tokens and kubeconfig files of the test cluster.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cluster::network;
use crate::paths;
use crate::process;

/// The kubeconfig of the administrator.
pub(crate) fn admin() -> PathBuf {
    kubeconfig("admin")
}

/// The kubeconfig of one identity.
pub(crate) fn kubeconfig(identity: &str) -> PathBuf {
    folder().join(format!("{identity}.kubeconfig"))
}

/// A file of the certificate folder, as a flag wants it.
pub(crate) fn file(name: &str) -> String {
    folder().join(name).to_string_lossy().into_owned()
}

/// Makes everything anew: no secret outlives its cluster.
pub(crate) fn create(nodes: &[String]) -> Result<()> {
    let folder = folder();
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
    authority()?;
    leaf(
        "apiserver",
        "/CN=kube-apiserver",
        &format!(
            "subjectAltName=IP:{},IP:127.0.0.1,IP:{},DNS:localhost,DNS:kubernetes,\
             DNS:kubernetes.default,DNS:kubernetes.default.svc,\
             DNS:kubernetes.default.svc.cluster.local\n",
            network::HOST,
            network::FIRST_SERVICE
        ),
    )?;
    leaf(
        "kubelet-client",
        "/O=system:masters/CN=apiserver-kubelet-client",
        "extendedKeyUsage=clientAuth\n",
    )?;
    key("service-accounts")?;
    openssl(&[
        "pkey",
        "-in",
        "service-accounts.key",
        "-pubout",
        "-out",
        "service-accounts.pub",
    ])?;
    identities(nodes)
}

fn identities(nodes: &[String]) -> Result<()> {
    let mut table = String::new();
    let mut add = |identity: &str, user: &str, groups: &str| -> Result<()> {
        let token = random_token()?;
        table.push_str(&format!("{token},{user},{identity},\"{groups}\"\n"));
        write_kubeconfig(identity, &token)
    };
    add("admin", "admin", "system:masters")?;
    for component in ["kube-controller-manager", "kube-scheduler", "kube-proxy"] {
        add(component, &format!("system:{component}"), "")?;
    }
    for node in nodes {
        add(node, &format!("system:node:{node}"), "system:nodes")?;
    }
    write_private(&folder().join("tokens.csv"), &table)
}

fn authority() -> Result<()> {
    key("ca")?;
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        "ca.key",
        "-days",
        "30",
        "-subj",
        "/CN=plimsoll-e2e",
        "-out",
        "ca.crt",
    ])
}

fn leaf(name: &str, subject: &str, extensions: &str) -> Result<()> {
    let (request, extra) = (format!("{name}.csr"), format!("{name}.ext"));
    key(name)?;
    openssl(&[
        "req",
        "-new",
        "-key",
        &format!("{name}.key"),
        "-subj",
        subject,
        "-out",
        &request,
    ])?;
    fs::write(folder().join(&extra), extensions)?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "30",
        "-extfile",
        &extra,
        "-out",
        &format!("{name}.crt"),
    ])
}

fn key(name: &str) -> Result<()> {
    let out = format!("{name}.key");
    openssl(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        &out,
    ])
}

fn openssl(arguments: &[&str]) -> Result<()> {
    let mut command = process::command("openssl", arguments);
    process::stdout_of(command.current_dir(folder())).map(drop)
}

fn write_kubeconfig(identity: &str, token: &str) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: plimsoll-e2e\n\
         clusters: [{{name: plimsoll-e2e, cluster: {{server: \"{}\", certificate-authority: {}}}}}]\n\
         users: [{{name: {identity}, user: {{token: \"{token}\"}}}}]\n\
         contexts: [{{name: plimsoll-e2e, context: {{cluster: plimsoll-e2e, user: {identity}}}}}]\n",
        network::api_server(),
        file("ca.crt"),
    );
    write_private(&kubeconfig(identity), &text)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    let opened = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn random_token() -> Result<String> {
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn folder() -> PathBuf {
    paths::state().join("pki")
}
