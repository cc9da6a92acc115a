//! The verbs: what each takes from the request, asks of the agent, and answers.

use std::time::Instant;

use causeway_api::cni::{Add, Check, Del, Gc};
use causeway_api::{Client, CniAdd, CniCheck, CniDel, CniGc, CniStatus, NoParams};
use serde_json::Value;

use crate::error::{CniError, code, is_absent};
use crate::request::{Command, Config, Environment};
use crate::version::{self, Version};
use crate::{answer, log, queue};

/// Does what the runtime asks; the value goes to stdout.
pub(crate) fn run(environment: &Environment, stdin: &[u8]) -> Result<Option<Value>, CniError> {
    let command = environment.command()?;
    if command == Command::Version {
        return Ok(Some(answer::versions(version::asked(stdin))));
    }
    let config = Config::parse(stdin)?;
    let started = Instant::now();
    let done = verb(command, environment, &config);
    log::call(config.log_file.as_deref(), environment, started.elapsed(), done.as_ref().err());
    done
}

fn verb(command: Command, environment: &Environment, config: &Config) -> Result<Option<Value>, CniError> {
    let client = Client::new(&config.agent_socket);
    match command {
        Command::Add => add(environment, config, &client).map(Some),
        Command::Del => del(environment, config, &client).map(|()| None),
        Command::Check => {
            config.since(Version::V0_4_0, "CHECK")?;
            let (attachment, netns) = (environment.attachment()?, environment.netns()?);
            let check = Check { attachment, netns, ips: config.prev_ips()? };
            client.call(CniCheck, &check).map_err(|e| CniError::agent(e, code::TRY_AGAIN))?;
            Ok(None)
        }
        Command::Gc => {
            config.since(Version::V1_1_0, "GC")?;
            let Some(valid) = config.valid_attachments.clone() else {
                // Without the list everything would be garbage.
                let remedy = "the runtime must name the attachments that are in use";
                return Err(CniError::config("cni.dev/valid-attachments", "is missing", remedy));
            };
            client.call(CniGc, &Gc { valid }).map_err(|e| CniError::agent(e, code::TRY_AGAIN))?;
            Ok(None)
        }
        Command::Status => {
            config.since(Version::V1_1_0, "STATUS")?;
            client.call(CniStatus, &NoParams {}).map_err(|e| CniError::agent(e, code::NOT_AVAILABLE))?;
            Ok(None)
        }
        Command::Version => Ok(Some(answer::versions(Some(config.version)))),
    }
}

fn add(environment: &Environment, config: &Config, client: &Client) -> Result<Value, CniError> {
    let (attachment, netns, pod) = (environment.attachment()?, environment.netns()?, environment.pod()?);
    if config.prev_result.is_some() {
        let remedy = "put causeway-cni first in \"plugins\"; others may follow it";
        return Err(CniError::config("prevResult", "is set: another plugin made an interface before", remedy));
    }
    let ifname = attachment.ifname.clone();
    let add = Add { attachment, netns: netns.clone(), pod, mtu: config.mtu };
    let attached = client.call(CniAdd, &add).map_err(|e| CniError::agent(e, code::TRY_AGAIN))?;
    Ok(answer::added(&attached, &ifname, &netns, config.version))
}

fn del(environment: &Environment, config: &Config, client: &Client) -> Result<(), CniError> {
    let del = Del { attachment: environment.attachment()?, netns: environment.optional_netns() };
    match client.call(CniDel, &del) {
        Ok(_) => return Ok(()),
        Err(error) if !is_absent(&error) => return Err(CniError::agent(error, code::TRY_AGAIN)),
        Err(_) => {}
    }
    let doing = format!("leaving the deletion for the agent in {}", config.deletion_queue.display());
    let note = queue::put(&config.deletion_queue, &del).map_err(|e| CniError::io(&doing, &e))?;
    // The agent reads the queue once, when it has begun to listen. If it has begun meanwhile, it may not see the note.
    if client.call(CniDel, &del).is_ok() {
        // Deletions are idempotent: a note that stays is done once more.
        let _ = std::fs::remove_file(note);
    }
    Ok(())
}
