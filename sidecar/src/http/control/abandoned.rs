//! An update of pushed weights that is over before it was finished: the engine is told, and whoever
//! asks hears what it is left with.

use std::sync::Arc;

use crate::engine::control::{ControlError, RETRY_AFTER};
use crate::engine::weights::Abandoned;
use crate::http::generator::Generator;
use crate::http::updates::Updates;

/// How often an engine whose queue is full is told that an update is over: for about a minute.
const ABANDONS_MAX: u32 = 30;

/// Tells the engine, beside who asks, that an update is over which nobody has here any more. Where its
/// queue is full it is told again; never while it has a newer one.
pub(super) fn abandoned(
    updates: &Arc<Updates>,
    engine: &Arc<dyn Generator>,
    why: String,
) -> impl Future<Output = Result<Abandoned, ControlError>> + use<> {
    let (updates, engine) = (Arc::clone(updates), Arc::clone(engine));
    let ask = move || updates.orphaned(|| engine.abandon_push(why.clone()));
    // Queued before this returns: whoever opens one next comes behind it.
    let mut asked = ask();
    let telling = tokio::spawn(async move {
        for _ in 1..ABANDONS_MAX {
            let again = match asked {
                Some(reply) => match reply.answer().await {
                    Err(ControlError::QueueFull { retry_after, .. }) => retry_after,
                    answer => return answer,
                },
                None => RETRY_AFTER,
            };
            tokio::time::sleep(again).await;
            asked = ask();
        }
        match asked {
            Some(reply) => reply.answer().await,
            None => Err(ControlError::WrongState {
                message: "a newer update is open".to_owned(),
            }),
        }
    });
    async move { telling.await.unwrap_or(Err(ControlError::Ended)) }
}

pub(super) fn says(left: &Result<Abandoned, ControlError>) -> String {
    match left {
        Ok(Abandoned::Unharmed) => "the weights before it are in force".to_owned(),
        Ok(Abandoned::Away) => "the weights are given back, as before it".to_owned(),
        Ok(Abandoned::OutOfService) => "the engine is out of service until every tensor is pushed \
             again, or the files' weights are read (POST /collective_rpc, reload_weights)"
            .to_owned(),
        Err(error) => error.to_string(),
    }
}
