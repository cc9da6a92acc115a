//! Ending tasks together.

use tokio::sync::watch;

/// Clones see the same end; tasks await it.
#[derive(Clone)]
pub struct Shutdown(watch::Sender<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Shutdown {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    pub async fn stopped(&self) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|over| *over).await;
    }
}
