//! The four processes of a soak, seen from the one that started them.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::plan::{NodePlan, Order, Word};
use crate::netns::Namespaces;

/// How long a process may take to open its sockets.
pub(crate) const START_TIME: Duration = Duration::from_secs(10);

/// Words of all processes that wait to be read.
const QUEUE: usize = 64;

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodesError {
    #[error("cannot start a process of the soak")]
    Spawn(#[source] io::Error),
    #[error("process {index} of the soak: {why}")]
    Failed {
        index: usize,
        why: String,
        lacking: bool,
    },
    #[error("process {0} of the soak ended early; see its message above")]
    Ended(usize),
    #[error("process {0} of the soak said what cannot be understood")]
    Nonsense(usize, #[source] serde_json::Error),
    #[error("process {0} of the soak said {1:?} out of turn")]
    Unexpected(usize, Box<Word>),
    #[error("the processes of the soak did not end what they do within {0:?}")]
    Silent(Duration),
}

impl NodesError {
    /// Whether a process just cannot have what it needs on this host, or as this user.
    pub(crate) fn is_lack(&self) -> bool {
        matches!(self, Self::Failed { lacking: true, .. })
    }
}

/// The processes. They are stopped when this is dropped, and stop by themselves when this
/// process dies, because both close their standard inputs.
#[derive(Debug)]
pub(crate) struct Nodes {
    nodes: Vec<Node>,
    said: mpsc::Sender<Said>,
    words: mpsc::Receiver<Said>,
}

#[derive(Debug)]
struct Node {
    stdin: ChildStdin,
    _child: Child,
}

type Said = (usize, Result<Word, NodesError>);

impl Default for Nodes {
    fn default() -> Self {
        let (said, words) = mpsc::channel(QUEUE);
        Self {
            nodes: Vec::new(),
            said,
            words,
        }
    }
}

impl Nodes {
    /// Starts one more, in a namespace if one is given.
    pub(crate) async fn start(
        &mut self,
        plan: &NodePlan,
        place: Option<(&Namespaces, usize)>,
    ) -> Result<(), NodesError> {
        let program = std::env::current_exe().map_err(NodesError::Spawn)?;
        let mut command = match place {
            None => Command::new(program),
            Some((namespaces, side)) => {
                // It becomes our program, so that killing it kills that.
                let [ip, arguments @ ..] = namespaces.enter(side);
                let mut command = Command::new(ip);
                command.args(arguments).arg(program);
                command
            }
        };
        let mut child = command
            .arg("soak-node")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(NodesError::Spawn)?;
        let index = self.nodes.len();
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(NodesError::Ended(index));
        };
        stdin
            .write_all(&line(plan))
            .await
            .map_err(NodesError::Spawn)?;
        let said = self.said.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            loop {
                let word = match lines.next_line().await {
                    Ok(Some(line)) => serde_json::from_str(&line)
                        .map_err(|error| NodesError::Nonsense(index, error)),
                    _ => Err(NodesError::Ended(index)),
                };
                let last = word.is_err();
                if said.send((index, word)).await.is_err() || last {
                    return;
                }
            }
        });
        self.nodes.push(Node {
            stdin,
            _child: child,
        });
        Ok(())
    }

    /// What one of them says next, and which. That it failed is an error: it ends after saying so,
    /// and its end must not come before the reason.
    pub(crate) async fn next_word(&mut self) -> Result<(usize, Word), NodesError> {
        // It cannot be closed: a sender is kept here.
        match self.words.recv().await {
            Some((index, Ok(Word::Failed { why, lacking }))) => Err(NodesError::Failed {
                index,
                why,
                lacking,
            }),
            Some((index, word)) => Ok((index, word?)),
            None => Err(NodesError::Ended(0)),
        }
    }

    /// The next word of each of them, whose progress does not count, in their order.
    pub(crate) async fn one_word_of_each(
        &mut self,
        limit: Duration,
    ) -> Result<Vec<(usize, Word)>, NodesError> {
        let count = self.nodes.len();
        let all = async {
            let mut words: Vec<(usize, Word)> = Vec::new();
            while words.len() < count {
                match self.next_word().await? {
                    (_, Word::Progress { .. }) => {}
                    (index, word) if words.iter().any(|(had, _)| *had == index) => {
                        return Err(NodesError::Unexpected(index, word.into()));
                    }
                    word => words.push(word),
                }
            }
            words.sort_by_key(|(index, _)| *index);
            Ok(words)
        };
        timeout(limit, all)
            .await
            .map_err(|_| NodesError::Silent(limit))?
    }

    /// Tells one of them something.
    pub(crate) async fn order(&mut self, index: usize, order: &Order) -> Result<(), NodesError> {
        let line = line(order);
        let stdin = &mut self.nodes[index].stdin;
        stdin
            .write_all(&line)
            .await
            .map_err(|_| NodesError::Ended(index))
    }
}

fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("plain data");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_reason_of_a_failure_comes_before_its_end_and_the_words_of_others() {
        for lacking in [false, true] {
            let mut nodes = Nodes::default();
            let why = "no such file".to_owned();
            let said = [
                (2, Ok(Word::Failed { why, lacking })),
                (2, Err(NodesError::Ended(2))),
                (0, Ok(Word::Finished)),
            ];
            for word in said {
                nodes.said.send(word).await.expect("there is room");
            }
            let error = nodes.next_word().await.expect_err("it failed");
            assert_eq!(error.is_lack(), lacking);
            assert_eq!(error.to_string(), "process 2 of the soak: no such file");
        }
    }
}
