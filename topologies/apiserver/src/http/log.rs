//! `pods/log`: the files that the kubelet role writes, `<namespace>_<pod>_<uid>/<container>.log`.

use std::convert::Infallible;
use std::io::SeekFrom;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::{HeaderValue, header};
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::{Params, Server, Target};
use crate::status::{ApiError, ApiResult};
use crate::store::Key;

/// How often a followed file is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// A log is served from its last part when it is larger.
const MAX_READ: u64 = 16 << 20;

pub(super) async fn get(server: &Server, target: &Target, params: &Params) -> ApiResult<Response> {
    let key = target.key()?;
    let pod = server.api.get(&target.resource, &key)?.value();
    let container = container_of(&pod, params.get("container"))?;
    let Some(directory) = &server.pod_log_dir else {
        return Err(ApiError::bad_request("no logs here: the server was started without --pod-log-dir"));
    };
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let suffix = if params.flag("previous") { "previous.log" } else { "log" };
    let path = directory.join(format!("{}_{}_{uid}", key.namespace, key.name)).join(format!("{container}.{suffix}"));
    let tail = params.number("tailLines")?;
    let limit = params.number("limitBytes")?;
    let mut text = match read_end(&path).await {
        Ok((file, text)) => (Some(file), text),
        Err(_) if params.flag("follow") => (None, Vec::new()),
        Err(_) => {
            let message = format!(
                "container \"{container}\" in pod \"{}\" is waiting to start: no log at {}",
                key.name,
                path.display()
            );
            return Err(ApiError::bad_request(message));
        }
    };
    if let Some(lines) = tail {
        text.1 = last_lines(&text.1, usize::try_from(lines).unwrap_or(usize::MAX)).to_vec();
    }
    if let Some(limit) = limit.and_then(|l| usize::try_from(l).ok()) {
        text.1.truncate(limit);
    }
    let body = if params.flag("follow") {
        Body::from_stream(follow(server.clone(), target.resource.table.clone(), key, path, text))
    } else {
        Body::from(text.1)
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn container_of(pod: &Value, asked: Option<&str>) -> ApiResult<String> {
    let lists = [&pod["spec"]["containers"], &pod["spec"]["initContainers"]];
    let names: Vec<&str> =
        lists.iter().flat_map(|l| l.as_array().into_iter().flatten()).filter_map(|c| c["name"].as_str()).collect();
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    match (asked, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => Ok(name.to_owned()),
        (Some(name), _) => Err(ApiError::bad_request(format!("container {name} is not valid for pod {pod_name}"))),
        (None, [one]) => Ok((*one).to_owned()),
        (None, many) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            many.join(" ")
        ))),
    }
}

async fn read_end(path: &PathBuf) -> std::io::Result<(File, Vec<u8>)> {
    let mut file = File::open(path).await?;
    let size = file.metadata().await?.len();
    if size > MAX_READ {
        file.seek(SeekFrom::Start(size - MAX_READ)).await?;
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).await?;
    Ok((file, text))
}

fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let breaks = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').map(|(i, _)| i);
    breaks.skip(lines - 1).map(|i| &text[i + 1..]).next().unwrap_or(text)
}

/// The rest of the file as it grows, until the pod is gone.
fn follow(
    server: Server,
    table: crate::store::TableName,
    key: Key,
    path: PathBuf,
    start: (Option<File>, Vec<u8>),
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    let state = (start.0, Some(start.1), server, table, key, path);
    futures::stream::unfold(state, |(mut file, mut first, server, table, key, path)| async move {
        if let Some(text) = first.take().filter(|t| !t.is_empty()) {
            return Some((Ok(Bytes::from(text)), (file, None, server, table, key, path)));
        }
        loop {
            if file.is_none() {
                file = File::open(&path).await.ok();
            }
            let mut chunk = vec![0; 16 << 10];
            let read = match &mut file {
                Some(file) => file.read(&mut chunk).await.ok()?,
                None => 0,
            };
            if read > 0 {
                chunk.truncate(read);
                return Some((Ok(Bytes::from(chunk)), (file, None, server, table, key, path)));
            }
            let pod = server.api.store.get(&table, &key)?.value();
            if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
                return None;
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn tails() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 1), b"c");
        assert_eq!(last_lines(b"a\n", 5), b"a\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
    }
}
