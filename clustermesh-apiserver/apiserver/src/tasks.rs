//! Tasks beside the main task of a subcommand. They end with it; and it ends with the first of them that fails.

use anyhow::anyhow;
use tokio::task::JoinSet;

/// Dropped, it ends them.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// The name of one that must not end.
    set: JoinSet<Option<&'static str>>,
}

impl Tasks {
    /// Runs a task that goes on for as long as the process; `name` is for the message if it does not.
    pub(crate) fn keep(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            Some(name)
        });
    }

    /// Runs a task that may be done at some time.
    pub(crate) fn once(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async move {
            task.await;
            None
        });
    }

    /// Waits for one that panics, or that ends and must not. For ever, if none does. Cancel-safe.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        while let Some(ended) = self.set.join_next().await {
            match ended {
                Ok(None) => {}
                Ok(Some(name)) => return anyhow!("{name} ended, which it never should"),
                Err(error) => return anyhow::Error::new(error).context("a task failed"),
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_task_that_is_done_hides_no_failure_after_it() {
        let mut tasks = Tasks::default();
        tasks.keep("the keeper", pending());
        tasks.once(async {});
        tasks.once(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            panic!("on purpose");
        });
        let error = tokio::time::timeout(Duration::from_secs(10), tasks.failed()).await.unwrap();
        assert!(format!("{error:#}").contains("panicked"), "{error:#}");
    }

    #[tokio::test]
    async fn a_task_that_must_not_end_and_does_is_named() {
        let mut tasks = Tasks::default();
        tasks.keep("the keeper", async {});
        let error = tokio::time::timeout(Duration::from_secs(10), tasks.failed()).await.unwrap();
        assert!(error.to_string().contains("the keeper"), "{error:#}");
    }
}
