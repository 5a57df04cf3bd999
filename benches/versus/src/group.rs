//! Group commit: one writer thread behind a bounded queue, as onceward has it, for any store.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};
use futures_channel::oneshot;
use onceward::Key;
use onceward::bytes::Bytes;

use crate::rival::{Answer, BoxFuture, Caller, Digest, Reader, Rival, Task, digest};
use crate::woken::Words;

const QUEUE_DEPTH: usize = 4_096;
const MAX_BATCH: usize = 1_024;

pub(crate) struct Command {
    pub(crate) digest: Digest,
    pub(crate) step: Step,
}

pub(crate) enum Step {
    Begin,
    Complete(Bytes),
}

/// A store behind a group's writer thread.
pub(crate) trait Backend: Send + 'static {
    /// Decides the commands in their order, makes what they changed durable, and then gives an answer for
    /// each, in the same order.
    fn apply(&mut self, batch: &[Command], answers: &mut Vec<Answer>) -> Result<()>;
}

type Promise = oneshot::Sender<Result<Answer, String>>;

struct Job {
    command: Command,
    promise: Promise,
    /// The word that its caller waits on, if callers are woken together.
    word: Option<usize>,
}

type OpenReader = Box<dyn Fn() -> Result<Box<dyn Reader>> + Send + Sync>;

/// A rival made of a backend and the writer thread that feeds it.
pub(crate) struct Grouped {
    sender: Option<Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    open_reader: OpenReader,
    /// `None` if each caller is woken by itself.
    words: Option<Arc<Words>>,
}

impl Grouped {
    pub(crate) fn start(
        name: &str,
        backend: impl Backend,
        open_reader: impl Fn() -> Result<Box<dyn Reader>> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::start_with(None, name, backend, open_reader)
    }

    /// With threads that are woken once per batch.
    pub(crate) fn start_woken_together(
        name: &str,
        backend: impl Backend,
        open_reader: impl Fn() -> Result<Box<dyn Reader>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let words = Some(Arc::new(Words::new()));
        Self::start_with(words, name, backend, open_reader)
    }

    fn start_with(
        words: Option<Arc<Words>>,
        name: &str,
        backend: impl Backend,
        open_reader: impl Fn() -> Result<Box<dyn Reader>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let words_of_writer = words.clone();
        let (sender, receiver) = bounded(QUEUE_DEPTH);
        let writer = std::thread::Builder::new()
            .name(format!("{name}-writer"))
            .spawn(move || write(backend, &receiver, words_of_writer.as_deref()))
            .context("the writer thread could not be started")?;
        Ok(Self {
            sender: Some(sender),
            writer: Some(writer),
            open_reader: Box::new(open_reader),
            words,
        })
    }

    fn handle(&self) -> Result<Handle> {
        let sender = self.sender.clone().context("the group is closed")?;
        Ok(Handle {
            sender,
            words: self.words.clone(),
        })
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        // The writer ends when the last sender is gone.
        self.sender = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            eprintln!("a writer thread panicked");
        }
    }
}

impl Rival for Grouped {
    fn caller(&self) -> Result<Box<dyn Caller>> {
        Ok(Box::new(self.handle()?))
    }

    fn tasks(&self, count: usize) -> BoxFuture<'_, Result<Vec<Box<dyn Task>>>> {
        Box::pin(async move {
            (0..count)
                .map(|_| Ok(Box::new(self.handle()?) as Box<dyn Task>))
                .collect()
        })
    }

    fn reader(&self) -> Result<Box<dyn Reader>> {
        (self.open_reader)()
    }
}

fn write(mut backend: impl Backend, jobs: &Receiver<Job>, words: Option<&Words>) {
    let (mut batch, mut promises, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    let mut waited_on: Vec<usize> = Vec::new();
    while let Ok(first) = jobs.recv() {
        for job in std::iter::once(first)
            .chain(jobs.try_iter())
            .take(MAX_BATCH)
        {
            batch.push(job.command);
            promises.push(job.promise);
            if let Some(word) = job.word.filter(|word| !waited_on.contains(word)) {
                waited_on.push(word);
            }
        }
        if let Some(words) = words {
            words.next();
        }
        let result = backend.apply(&batch, &mut answers);
        // A caller that has gone away doesn't want its answer; a failed send is no error.
        if let Err(error) = result {
            for promise in promises {
                drop(promise.send(Err(format!("{error:#}"))));
            }
            if let Some(words) = words {
                words.wake_all();
            }
            return;
        }
        assert_eq!(answers.len(), promises.len(), "one answer for each command");
        for (promise, answer) in promises.drain(..).zip(answers.drain(..)) {
            drop(promise.send(Ok(answer)));
        }
        if let Some(words) = words {
            waited_on.drain(..).for_each(|word| words.wake(word));
        }
        batch.clear();
    }
}

struct Handle {
    sender: Sender<Job>,
    words: Option<Arc<Words>>,
}

impl Handle {
    fn ask(&self, key: &Key, step: Step) -> Result<Answer> {
        let (mut job, mut answer) = job(key, step);
        let Some(words) = &self.words else {
            self.sender.send(job).map_err(|_| stopped())?;
            return futures_executor::block_on(answer)
                .map_err(|_| stopped())?
                .map_err(anyhow::Error::msg);
        };
        let word = words.current();
        job.word = Some(word);
        self.sender.send(job).map_err(|_| stopped())?;
        let answer = words.wait(word, &mut answer).map_err(|_| stopped())?;
        answer.map_err(anyhow::Error::msg)
    }

    async fn ask_async(&self, key: &Key, step: Step) -> Result<Answer> {
        let (job, answer) = job(key, step);
        // Each task has one command under way, and there are fewer tasks than places in the queue.
        self.sender
            .try_send(job)
            .map_err(|_| anyhow!("the queue is full or its writer has stopped"))?;
        answer
            .await
            .map_err(|_| stopped())?
            .map_err(anyhow::Error::msg)
    }
}

fn job(key: &Key, step: Step) -> (Job, oneshot::Receiver<Result<Answer, String>>) {
    let (promise, answer) = oneshot::channel();
    let command = Command {
        digest: digest(key),
        step,
    };
    let job = Job {
        command,
        promise,
        word: None,
    };
    (job, answer)
}

fn stopped() -> anyhow::Error {
    anyhow!("the writer has stopped")
}

impl Caller for Handle {
    fn begin(&mut self, key: &Key) -> Result<Answer> {
        self.ask(key, Step::Begin)
    }

    fn complete(&mut self, key: &Key, reply: Bytes) -> Result<()> {
        self.ask(key, Step::Complete(reply)).map(drop)
    }
}

impl Task for Handle {
    fn begin<'a>(&'a mut self, key: &'a Key) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(self.ask_async(key, Step::Begin))
    }

    fn complete<'a>(&'a mut self, key: &'a Key, reply: Bytes) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.ask_async(key, Step::Complete(reply)).await.map(drop) })
    }
}
