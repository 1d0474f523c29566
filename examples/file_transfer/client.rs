//! The client: a file that is sent, one that comes, and the progress of both.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::BytesMut;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::NamedTempFile;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tonic_homa::transport::Channel;

use crate::CHUNK;
use crate::counted::Counted;
use crate::proto::files_client::FilesClient;
use crate::proto::{GetRequest, PutRequest, Summary, get_reply, put_request};

/// Why a file on this side cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}: {source}", path.display())]
pub(crate) struct FileError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn cannot(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError {
        what,
        path: path.into(),
        source,
    }
}

/// A file that is sent.
pub(crate) struct Source {
    file: File,
    path: PathBuf,
    name: String,
    length: u64,
}

impl Source {
    pub(crate) async fn open(path: &Path) -> Result<Self, Box<dyn Error>> {
        let file = File::open(path).await.map_err(cannot("read", path))?;
        let metadata = file.metadata().await.map_err(cannot("read", path))?;
        if !metadata.is_file() {
            return Err(format!("cannot read {}: it is no file", path.display()).into());
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| format!("the name of {} is no text", path.display()))?;
        Ok(Self {
            file,
            path: path.into(),
            name: name.into(),
            length: metadata.len(),
        })
    }
}

/// A file that comes. It gets its name when all of it is there.
pub(crate) struct Target {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl Target {
    pub(crate) fn create(path: &Path) -> Result<Self, Box<dyn Error>> {
        // Folders and devices must not be replaced.
        if path.exists() && !path.is_file() {
            return Err(format!("cannot replace {}: it is no file", path.display()).into());
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let temporary = NamedTempFile::new_in(folder).map_err(cannot("write into", folder))?;
        Ok(Self {
            temporary,
            path: path.into(),
        })
    }
}

/// A client of the service.
pub(crate) struct Client {
    files: FilesClient<Channel>,
}

impl Client {
    pub(crate) async fn connect(uri: &str) -> Result<Self, Box<dyn Error>> {
        let files = FilesClient::connect(uri.to_owned()).await?;
        Ok(Self { files })
    }

    pub(crate) async fn put(&mut self, source: Source) -> Result<(), Box<dyn Error>> {
        let transfer = Transfer::begin("sent", source.length);
        let bar = transfer.bar.clone();
        let Source {
            mut file,
            path,
            name,
            ..
        } = source;
        let (failure, mut failed) = oneshot::channel();
        let (summary, mut summed) = oneshot::channel();
        // It is asked for more only as fast as the server takes it: memory stays bounded.
        let requests = async_stream::stream! {
            yield part(put_request::Part::Name(name));
            let mut sent = Counted::default();
            loop {
                let mut content = BytesMut::with_capacity(CHUNK);
                match file.read_buf(&mut content).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    // The server stores nothing that ends without a summary.
                    Err(error) => {
                        let _ = failure.send(cannot("read", &path)(error));
                        return;
                    }
                }
                sent.add(&content);
                bar.inc(content.len() as u64);
                yield part(put_request::Part::Content(content.freeze()));
            }
            let _ = summary.send(sent.summary());
            yield part(put_request::Part::Summary(sent.summary()));
        };
        let stored = self.files.put(requests).await;
        if let Ok(error) = failed.try_recv() {
            return Err(error.into());
        }
        let stored = stored?.into_inner();
        transfer.end(&summed.try_recv()?, &stored)
    }

    pub(crate) async fn get(&mut self, name: &str, target: Target) -> Result<(), Box<dyn Error>> {
        let request = GetRequest { name: name.into() };
        let mut replies = self.files.get(request).await?.into_inner();
        let transfer = Transfer::begin("got", 0);
        let Target { temporary, path } = target;
        let file = temporary.reopen().map_err(cannot("write", &path))?;
        let mut file = File::from_std(file);
        let mut got = Counted::default();
        let mut told = None;
        while let Some(reply) = replies.message().await? {
            match reply.part {
                Some(get_reply::Part::Length(length)) => transfer.bar.set_length(length),
                Some(get_reply::Part::Content(content)) => {
                    got.add(&content);
                    let written = file.write_all(&content).await;
                    written.map_err(cannot("write", &path))?;
                    transfer.bar.inc(content.len() as u64);
                }
                Some(get_reply::Part::Summary(summary)) => told = Some(summary),
                None => {}
            }
        }
        file.flush().await.map_err(cannot("write", &path))?;
        let told = told.ok_or("the server has sent no checksum")?;
        transfer.end(&got.summary(), &told)?;
        let kept = temporary.persist(&path);
        kept.map_err(|error| cannot("write", &path)(error.error))?;
        Ok(())
    }
}

fn part(part: put_request::Part) -> PutRequest {
    PutRequest { part: Some(part) }
}

/// How far it is, and how fast.
struct Transfer {
    verb: &'static str,
    bar: ProgressBar,
    began: Instant,
}

impl Transfer {
    /// `length` is 0 as long as it is unknown.
    fn begin(verb: &'static str, length: u64) -> Self {
        let bar = ProgressBar::new(length);
        let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            verb,
            bar,
            began: Instant::now(),
        }
    }

    fn end(self, ours: &Summary, theirs: &Summary) -> Result<(), Box<dyn Error>> {
        self.bar.finish_and_clear();
        if ours != theirs {
            return Err(format!("here it is {ours:?}, at the server {theirs:?}").into());
        }
        let seconds = self.began.elapsed().as_secs_f64();
        println!(
            "{} {} bytes in {seconds:.2} s, {:.0} MB/s, CRC-32 {:08x} at both ends",
            self.verb,
            ours.length,
            ours.length as f64 / seconds / 1e6,
            ours.crc32,
        );
        Ok(())
    }
}
