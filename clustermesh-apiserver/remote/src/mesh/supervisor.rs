//! Reads the directory, and starts, redirects and ends the tasks of remote clusters.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use causeway_mesh_kv::Connect;
use causeway_mesh_schema::ClusterName;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

use super::Options;
use super::board::Board;
use super::task::{Command, Task};
use crate::change::Sink;
use crate::directory::{Difference, Directory, Watch};
use crate::settings::Settings;

pub(crate) type Factory = Box<dyn FnMut(&ClusterName) -> Box<dyn Sink> + Send>;

/// Until it is aborted; its tasks end with it.
pub(crate) async fn run(options: Options, board: Arc<Board>, factory: Factory) {
    let mut watch = Watch::new(&options.directory);
    let mut directory = Directory::new(options.directory, options.name);
    let mut remotes = Remotes {
        settings: Arc::new(options.settings),
        board: Arc::clone(&board),
        factory,
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    loop {
        match directory.scan() {
            Ok(differences) => {
                let found: Vec<ClusterName> = differences.iter().map(|difference| difference.name().clone()).collect();
                board.scanned(directory.problems(), found.into_iter());
                for difference in differences {
                    remotes.follow(difference);
                }
            }
            Err(error) => {
                let path = directory.path().display();
                tracing::warn!(%path, %error, "cannot read the clustermesh configuration; all clusters stay as they are");
            }
        }
        // Not begun anew for every task that ends: it may have taken the only event, and be waiting for quiet.
        let mut changed = pin!(watch.changed());
        loop {
            tokio::select! {
                () = &mut changed => break,
                Some(ended) = remotes.tasks.join_next_with_id() => remotes.ended(match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                }),
            }
        }
    }
}

struct Remotes {
    settings: Arc<Settings>,
    board: Arc<Board>,
    factory: Factory,
    running: BTreeMap<ClusterName, Running>,
    tasks: JoinSet<()>,
}

struct Running {
    task: Id,
    command: watch::Sender<Command>,
    /// It is being removed; and what comes after, if its file has appeared again.
    ending: Option<Option<Connect>>,
}

impl Remotes {
    fn follow(&mut self, difference: Difference) {
        match difference {
            Difference::Added(name, connect) | Difference::Changed(name, connect) => {
                match self.running.get_mut(&name) {
                    Some(Running { ending: Some(next), .. }) => *next = Some(connect),
                    Some(running) => drop(running.command.send_replace(Command::Connect(Arc::new(connect)))),
                    None => self.start(name, connect),
                }
            }
            Difference::Removed(name) => match self.running.get_mut(&name) {
                Some(Running { ending: Some(next), .. }) => *next = None,
                Some(running) => {
                    running.ending = Some(None);
                    running.command.send_replace(Command::Remove);
                }
                None => {}
            },
        }
    }

    fn start(&mut self, name: ClusterName, connect: Connect) {
        let sink = (self.factory)(&name);
        let connect = Arc::new(connect);
        let (command, commands) = watch::channel(Command::Connect(Arc::clone(&connect)));
        let task = Task::new(name.clone(), connect, Arc::clone(&self.settings), Arc::clone(&self.board), sink);
        let task = self.tasks.spawn(task.run(commands)).id();
        self.running.insert(name, Running { task, command, ending: None });
    }

    fn ended(&mut self, task: Id) {
        let Some(name) = self.running.iter().find(|(_, running)| running.task == task).map(|(name, _)| name.clone())
        else {
            return;
        };
        let next = self.running.remove(&name).and_then(|running| running.ending);
        self.board.gone(&name);
        match next.flatten() {
            Some(connect) => self.start(name, connect),
            // It was asked to: a panic alone ends no task.
            None => tracing::info!(cluster = %name, "remote cluster removed"),
        }
    }
}
