//! Errors as the specification has them: a number, a message that names what is wrong, and details with the remedy.

use causeway_api::{ClientError, code as api};
use serde_json::{Value, json};

use crate::version::Version;

/// CNI specification 1.1.0, section "Error"; from 100 on they are the plugin's own.
pub(crate) mod code {
    pub(crate) const INCOMPATIBLE_VERSION: u32 = 1;
    pub(crate) const UNSUPPORTED_FIELD: u32 = 2;
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const DECODE: u32 = 6;
    pub(crate) const INVALID_CONFIG: u32 = 7;
    pub(crate) const TRY_AGAIN: u32 = 11;
    pub(crate) const NOT_AVAILABLE: u32 = 50;
    /// The agent answered in words that this plugin does not know.
    pub(crate) const AGENT: u32 = 110;
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: u32, message: impl Into<String>, details: impl Into<String>) -> CniError {
        CniError { code, message: message.into(), details: details.into() }
    }

    /// A variable of the environment is missing or wrong; the message must name it.
    pub(crate) fn environment(name: &str, problem: &str, remedy: &str) -> CniError {
        CniError::new(code::INVALID_ENVIRONMENT, format!("{name} {problem}"), remedy)
    }

    /// A field of the network configuration is missing or wrong.
    pub(crate) fn config(field: &str, problem: &str, remedy: &str) -> CniError {
        CniError::new(code::INVALID_CONFIG, format!("network configuration: {field:?} {problem}"), remedy)
    }

    pub(crate) fn io(doing: &str, error: &std::io::Error) -> CniError {
        CniError::new(code::IO, format!("{doing}: {error}"), "")
    }

    /// What the agent said, or why it said nothing. `absent` is the code for an agent that cannot serve now.
    pub(crate) fn agent(error: ClientError, absent: u32) -> CniError {
        match error {
            ClientError::Unreachable { .. } | ClientError::Broken { .. } => {
                CniError::new(absent, "the node's network agent does not answer", error.to_string())
            }
            ClientError::Refused(body) if body.code == api::NOT_READY => {
                CniError::new(absent, body.message, body.details)
            }
            ClientError::Refused(body) => CniError::new(body.code, body.message, body.details),
            ClientError::Answer { .. } => {
                CniError::new(code::AGENT, "the node's network agent is of another version", error.to_string())
            }
        }
    }

    pub(crate) fn to_json(&self, version: Version) -> Value {
        let mut value = json!({"cniVersion": version.text(), "code": self.code, "msg": self.message});
        if !self.details.is_empty() {
            value["details"] = self.details.clone().into();
        }
        value
    }
}

/// Whether the agent could not be asked, or not yet: a deletion must be kept for later.
pub(crate) fn is_absent(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } | ClientError::Broken { .. } => true,
        ClientError::Refused(body) => body.code == api::NOT_READY,
        ClientError::Answer { .. } => false,
    }
}
