//! Routes of other servers that cannot be served: 501, with the reason and the way that works here.

use axum::http::{StatusCode, Uri};

use crate::http::error::{ApiError, shown};

/// Rendezvous of NCCL and of torch, and pickled tensors.
pub(super) const PATHS: [&str; 7] = [
    "/init_weight_transfer_engine",
    "/start_draft_weight_update",
    "/init_weights_update_group",
    "/destroy_weights_update_group",
    "/update_weights_from_distributed",
    "/update_weights_from_tensor",
    "/init_communicator",
];

pub(super) async fn refuse(uri: Uri) -> ApiError {
    pushed(&shown(uri.path()))
}

/// Weights that come over the wire.
pub(super) fn pushed(what: &str) -> ApiError {
    not_implemented(format!(
        "{what} is not served: it needs NCCL, CUDA IPC or pickled torch tensors, which this server does \
         not speak; push tensors as safetensors (POST /start_weight_update, POST /update_weights with \
         Content-Type: application/octet-stream, POST /finish_weight_update), or write them to a folder \
         under --weights-root and name it (POST /update_weights {{\"update_info\": {{\"path\": \"...\"}}}})"
    ))
}

pub(super) fn not_implemented(message: String) -> ApiError {
    ApiError {
        status: StatusCode::NOT_IMPLEMENTED,
        ..ApiError::invalid(None, message).with_code("not_implemented")
    }
}
