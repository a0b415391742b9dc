//! Routes of other servers that cannot be served: 501, with the reason and the way that works here.

use axum::http::{StatusCode, Uri};

use crate::http::error::{ApiError, shown};

/// Rendezvous of NCCL and of torch, pickled tensors, and phases of updates around them.
pub(super) const PATHS: [&str; 11] = [
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/start_draft_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/init_weights_update_group",
    "/destroy_weights_update_group",
    "/update_weights_from_distributed",
    "/update_weights_from_tensor",
    "/update_weights_from_disk",
    "/init_communicator",
];

pub(super) async fn refuse(uri: Uri) -> ApiError {
    let path = shown(uri.path());
    not_implemented(format!(
        "{path} is not served: weights that are pushed need NCCL, CUDA IPC or pickled torch tensors, \
         which this server does not speak; write the new weights over the model's files and restart"
    ))
}

pub(super) fn not_implemented(message: String) -> ApiError {
    ApiError {
        status: StatusCode::NOT_IMPLEMENTED,
        ..ApiError::invalid(None, message).with_code("not_implemented")
    }
}
