//! The board, and what it says of a cluster that has never answered.

use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_kv::{Connect, TlsFiles};
use causeway_mesh_schema::{ClusterId, ClusterName};

use super::board::{Board, Snapshot};
use crate::change::Stage;
use crate::core::{Input, Phase, Remote};
use crate::directory::FileProblem;
use crate::settings::Settings;

fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).unwrap()
}

fn snapshot(remote: &Remote, connect: &Arc<Connect>, now: Duration) -> Snapshot {
    Snapshot { stats: remote.stats(now), session: None, connect: Arc::clone(connect) }
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

    board.gone(&name("c2"));
    assert_eq!((is_news(), board.is_synced(), board.status().len()), (true, true, 0), "who is gone is not awaited");
    let problem = FileProblem::new("c4".as_ref(), "endpoints", "bad".to_owned(), "mend it");
    board.scanned(std::slice::from_ref(&problem), [].into_iter());
    assert_eq!((is_news(), board.problems()), (true, vec![problem]));
}
