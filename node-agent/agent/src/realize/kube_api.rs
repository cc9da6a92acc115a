//! Writing to Kubernetes: one way to create or update, with a limit on waiting.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest wait for one answer. The API server being away is ordinary; waiting longer would only delay the retry.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whose writes these are, in managedFields.
pub(crate) const FIELD_MANAGER: &str = "causeway-agent";

/// Delays between attempts after a failed write: doubled from the first to the last.
#[derive(Debug)]
pub(crate) struct Retry {
    next: Duration,
}

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(15);

impl Default for Retry {
    fn default() -> Self {
        Retry { next: FIRST_RETRY }
    }
}

impl Retry {
    pub(crate) fn failed(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(LAST_RETRY);
        delay
    }

    pub(crate) fn succeeded(&mut self) {
        self.next = FIRST_RETRY;
    }
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error(transparent)]
    Refused(#[from] Box<kube::Error>),
    #[error("the API server did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("the object cannot be written as JSON: {0}")]
    Encode(#[from] serde_json::Error),
}

impl WriteError {
    /// The HTTP status, where the API server answered.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            WriteError::Refused(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            WriteError::Timeout | WriteError::Encode(_) => None,
        }
    }
}

/// Waits for an answer, not too long.
pub(crate) async fn limited<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(result) => Ok(result.map_err(Box::new)?),
        Err(_) => Err(WriteError::Timeout),
    }
}

/// Makes the object be as given: merges into what is there, or creates it.
pub(crate) async fn upsert<K>(api: &Api<K>, object: &K) -> Result<K, WriteError>
where
    K: Resource + Serialize + DeserializeOwned + Clone + Debug,
{
    merge(api, object, serde_json::to_value(object)?).await
}

/// Likewise, with a merge patch that says more than the object: a null takes a field away.
pub(crate) async fn merge<K>(api: &Api<K>, object: &K, patch: serde_json::Value) -> Result<K, WriteError>
where
    K: Resource + Serialize + DeserializeOwned + Clone + Debug,
{
    let name = object.meta().name.clone().unwrap_or_default();
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    match limited(api.patch(&name, &params, &Patch::Merge(patch))).await {
        Err(error) if error.code() == Some(404) => create(api, object).await,
        result => result,
    }
}

pub(crate) async fn create<K>(api: &Api<K>, object: &K) -> Result<K, WriteError>
where
    K: Resource + Serialize + DeserializeOwned + Clone + Debug,
{
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    limited(api.create(&params, object)).await
}

/// Deletes the object if it is (still) the one with this uid; its being absent or another is success.
pub(crate) async fn delete<K>(api: &Api<K>, name: &str, uid: Option<String>) -> Result<(), WriteError>
where
    K: DeserializeOwned + Clone + Debug,
{
    let mut params = DeleteParams::default();
    if uid.is_some() {
        params = params.preconditions(Preconditions { uid, resource_version: None });
    }
    match limited(api.delete(name, &params)).await {
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
        result => result.map(drop),
    }
}
