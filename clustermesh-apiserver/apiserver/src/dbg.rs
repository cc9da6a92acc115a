//! Questions to what runs: `kvstoremesh-dbg status|troubleshoot`, `clustermesh-dbg troubleshoot`.

mod status;
mod troubleshoot;

use std::process::ExitCode;

use crate::flags::{ClustermeshDbg, KvstoremeshDbg};

pub(crate) async fn kvstoremesh(command: KvstoremeshDbg) -> anyhow::Result<ExitCode> {
    match command {
        KvstoremeshDbg::Status(flags) => status::run(&flags).await,
        KvstoremeshDbg::Troubleshoot(flags) => troubleshoot::remotes(&flags).await,
    }
}

pub(crate) async fn clustermesh(command: ClustermeshDbg) -> anyhow::Result<ExitCode> {
    match command {
        ClustermeshDbg::Troubleshoot(flags) => troubleshoot::local(&flags).await,
    }
}
