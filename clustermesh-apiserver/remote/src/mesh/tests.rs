//! The board, what it says of a cluster that has never answered, and tasks that end.

use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_kv::{Connect, TlsFiles};
use causeway_mesh_schema::{ClusterId, ClusterName};

use super::board::{Board, Snapshot};
use super::{Mesh, Options};
use crate::change::{Change, Sink, Stage};
use crate::core::{Input, Phase, Remote};
use crate::directory::FileProblem;
use crate::settings::Settings;

fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).unwrap()
}

fn snapshot(remote: &Remote, connect: &Arc<Connect>, now: Duration) -> Snapshot {
    Snapshot { stats: remote.stats(now), session: None, connect: Arc::clone(connect) }
}

/// A sink whose end takes a while.
struct Slow(std::sync::mpsc::Sender<()>);

impl Sink for Slow {
    fn apply(&mut self, _: Change) {}
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Who does not listen has ended with the test.
        let _ = self.0.send(());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_written_while_a_task_ends_is_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let write = |name: &str| std::fs::write(dir.path().join(name), "endpoints: ['http://127.0.0.1:1']").unwrap();
    write("c2");
    let (ends, ended) = std::sync::mpsc::channel();
    let factory = move |_: &ClusterName| -> Box<dyn Sink> { Box::new(Slow(ends.clone())) };
    let mesh = Mesh::spawn(Options::new(dir.path().to_owned(), name("c1"), None), factory);
    let mut changes = mesh.changes();
    let mut until = async |named: &str| {
        let named_alone = || mesh.status().iter().map(|status| status.name.to_string()).eq([named]);
        while !named_alone() {
            changes.changed().await.unwrap();
        }
    };
    // Less than the directory is read again after in any case.
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, until("c2")).await.unwrap();
    std::fs::remove_file(dir.path().join("c2")).unwrap();
    let ended = tokio::task::spawn_blocking(move || ended.recv_timeout(limit));
    ended.await.unwrap().unwrap();
    // The watch waits for quiet when the task is gone.
    write("c3");
    tokio::time::timeout(limit, until("c3")).await.expect("the event is not lost");
}

#[test]
fn the_board_tells_news_and_nothing_else() {
    let board = Board::new(name("c1"), Some(ClusterId::try_from(1).unwrap()));
    let mut changes = board.changes();
    let mut is_news = move || {
        let news = changes.has_changed().unwrap();
        changes.mark_unchanged();
        news
    };
    assert!(!board.is_synced(), "the directory has not been read");
    board.scanned(&[], [name("c2")].into_iter());
    assert_eq!((is_news(), board.is_synced()), (true, false), "c2 is awaited");
    board.scanned(&[], [name("c3")].into_iter());
    assert!(!is_news(), "the same again");

    let tls = TlsFiles { ca: "/no/ca".into(), cert: "/no/cert".into(), key: "/no/key".into() };
    let connect = Arc::new(Connect { tls: Some(tls), ..Connect::new(vec!["https://c2:2379".to_owned()]) });
    let mut remote = Remote::new(name("c2"), Arc::new(Settings::default()), 1, Duration::ZERO);
    board.publish(&name("c2"), snapshot(&remote, &connect, Duration::ZERO));
    assert!(is_news());
    board.publish(&name("c2"), snapshot(&remote, &connect, Duration::ZERO));
    assert!(!is_news(), "nothing but time");
    remote.handle(Duration::ZERO, Input::Tick);
    board.publish(&name("c2"), snapshot(&remote, &connect, Duration::ZERO));
    assert!(is_news(), "it connects");

    let status = board.status().remove(0);
    assert_eq!(
        (status.phase, status.stage, status.connected, status.ready),
        (Phase::Connecting, Stage::Silent, false, false)
    );
    let certificate = status.certificate.as_ref().unwrap();
    assert_eq!((certificate.file.as_str(), certificate.expires.as_deref()), ("/no/cert", None));
    assert!(certificate.problem.is_some(), "a certificate that cannot be read is said to be so");
    let cilium = status.to_cilium();
    assert_eq!((cilium.ready, cilium.config.map(|config| config.retrieved)), (false, Some(false)));
    assert!(cilium.status.contains("https://c2:2379"), "{}", cilium.status);

    let id = ClusterId::try_from(2).unwrap();
    board.reserve(&name("c2"), id).unwrap();
    is_news();
    board.fail(&name("c2"), "its reader stopped".to_owned());
    let status = board.status().remove(0);
    assert!(is_news() && status.in_words().ends_with("its reader stopped"), "{}", status.in_words());
    assert_eq!((status.phase, status.ready, status.failures), (Phase::Waiting, false, 1));
    assert!(board.reserve(&name("c3"), id).is_err(), "its entries stay, so nobody else gets its number");

    board.gone(&name("c2"));
    assert_eq!((is_news(), board.is_synced(), board.status().len()), (true, true, 0), "who is gone is not awaited");
    let problem = FileProblem::new("c4".as_ref(), "endpoints", "bad".to_owned(), "mend it");
    board.scanned(std::slice::from_ref(&problem), [].into_iter());
    assert_eq!((is_news(), board.problems()), (true, vec![problem]));
}
