//! Containers that do not run, and what they wait for, in the kubelet's words.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Reasons of a waiting container whose image was not pulled; the kubelet tries again.
const PULL_TROUBLE: [&str; 4] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ImageInspectError",
    "RegistryUnavailable",
];
/// Reasons that trying again does not help.
const NO_IMAGE: [&str; 2] = ["InvalidImageName", "ErrImageNeverPull"];
/// Characters that are told of the kubelet's words.
const WORDS_CHARS: usize = 400;

/// Why a container does not run yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// What became of pulling an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pull {
    TriedAgain,
    /// It is not even tried.
    Hopeless,
}

/// A container that holds its pod up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) container: String,
    pub(crate) image: String,
    /// None: it runs, or ended, and is not ready.
    pub(crate) waiting: Option<Waiting>,
}

impl Waiting {
    pub(super) fn read(status: &ContainerStatus) -> Option<Waiting> {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        Some(Waiting {
            reason: waiting.reason.clone().unwrap_or_default(),
            message: waiting.message.clone().unwrap_or_default(),
        })
    }

    /// Whether its image was not pulled.
    pub(crate) fn pull(&self) -> Option<Pull> {
        let reason = self.reason.as_str();
        match (PULL_TROUBLE.contains(&reason), NO_IMAGE.contains(&reason)) {
            (true, _) => Some(Pull::TriedAgain),
            (_, true) => Some(Pull::Hopeless),
            (false, false) => None,
        }
    }

    /// In the kubelet's words, with what becomes of it.
    pub(crate) fn words(&self) -> String {
        let message: String = self.message.chars().take(WORDS_CHARS).collect();
        let again = match self.pull() {
            Some(Pull::TriedAgain) => "a pull failed and is tried again: ",
            Some(Pull::Hopeless) | None => "",
        };
        let colon = if message.is_empty() { "" } else { ": " };
        format!("{again}{}{colon}{message}", self.reason)
    }
}

impl Held {
    fn read(status: &ContainerStatus) -> Held {
        Held {
            container: status.name.clone(),
            image: status.image.clone(),
            waiting: Waiting::read(status),
        }
    }

    /// Its name and image, and what it waits for.
    pub(crate) fn words(&self) -> String {
        let Held {
            container,
            image,
            waiting,
        } = self;
        match waiting {
            Some(waiting) if waiting.pull().is_some() => {
                let words = waiting.words();
                format!("container {container}, image {image}: {words}")
            }
            Some(waiting) => format!("container {container}: {}", waiting.words()),
            None => container.clone(),
        }
    }
}

/// Containers that run beside `container` and are not ready.
pub(super) fn unready_beside(pod: &Pod, container: &str) -> Vec<Held> {
    let plain = statuses(pod).filter(|(_, init)| !init);
    let unready = plain.filter(|(it, _)| it.name != container && !it.ready);
    unready.map(|(it, _)| Held::read(it)).collect()
}

/// Containers of any kind whose image was not pulled.
pub(super) fn unpulled(pod: &Pod) -> Vec<Held> {
    let all = statuses(pod).map(|(status, _)| Held::read(status));
    let failed = |held: &Held| held.waiting.as_ref().is_some_and(|it| it.pull().is_some());
    all.filter(failed).collect()
}

/// The status of a container, be it a native sidecar (an init container) or a plain one.
pub(super) fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let mut all = statuses(pod).map(|(status, _)| status);
    all.find(|status| status.name == name)
}

/// Of all containers, with whether they are init containers.
fn statuses(pod: &Pod) -> impl Iterator<Item = (&ContainerStatus, bool)> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        let plain = status.container_statuses.iter().flatten();
        let init = status.init_container_statuses.iter().flatten();
        plain
            .map(|status| (status, false))
            .chain(init.map(|status| (status, true)))
    })
}
