//! The service: a folder in which files are stored and found.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;

use bytes::BytesMut;
use tempfile::NamedTempFile;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::CHUNK;
use crate::counted::Counted;
use crate::proto::files_server::Files;
use crate::proto::{GetReply, GetRequest, PutRequest, Summary, get_reply, put_request};

/// A folder that is served.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(Self { path: path.into() }),
            Ok(_) => Err(format!("cannot serve {}: it is no folder", path.display())),
            Err(error) => Err(format!("cannot serve {}: {error}", path.display())),
        }
    }

    /// Where a file of this name is. Nobody gets out of the folder.
    fn locate(&self, name: &str) -> Result<PathBuf, Status> {
        let mut components = Path::new(name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(only)), None) if only == name => Ok(self.path.join(name)),
            _ => Err(Status::invalid_argument(format!(
                "`{name}` is no name of a file: write one without folders"
            ))),
        }
    }
}

#[tonic::async_trait]
impl Files for Folder {
    async fn put(
        &self,
        request: Request<Streaming<PutRequest>>,
    ) -> Result<Response<Summary>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.part);
        let Some(put_request::Part::Name(name)) = first else {
            return Err(Status::invalid_argument("the first message must be a name"));
        };
        let path = self.locate(&name)?;
        // Folders and devices must not be replaced.
        if path.exists() && !path.is_file() {
            let text = format!("cannot replace `{name}`: it is no file");
            return Err(Status::failed_precondition(text));
        }
        let failed = |error| failed("store", &name, &error);
        // If the call ends before its time, dropping this removes it.
        let temporary = NamedTempFile::new_in(&self.path).map_err(failed)?;
        let mut file = File::from_std(temporary.reopen().map_err(failed)?);
        let mut stored = Counted::default();
        let mut told = None;
        while let Some(request) = requests.message().await? {
            match request.part {
                Some(put_request::Part::Content(content)) if told.is_none() => {
                    stored.add(&content);
                    file.write_all(&content).await.map_err(failed)?;
                }
                Some(put_request::Part::Summary(summary)) => told = Some(summary),
                _ => return Err(Status::invalid_argument("this part cannot come here")),
            }
        }
        let stored = stored.summary();
        if told != Some(stored) {
            return Err(Status::data_loss(format!(
                "`{name}` has arrived as {stored:?} and was sent as {told:?}"
            )));
        }
        file.flush().await.map_err(failed)?;
        temporary
            .persist(path)
            .map_err(|error| failed(error.error))?;
        Ok(Response::new(stored))
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<GetReply, Status>> + Send>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let GetRequest { name } = request.into_inner();
        let path = self.locate(&name)?;
        let mut file = File::open(path)
            .await
            .map_err(|error| failed("read", &name, &error))?;
        let metadata = file.metadata().await;
        let metadata = metadata.map_err(|error| failed("read", &name, &error))?;
        if !metadata.is_file() {
            return Err(Status::not_found(format!("`{name}` is no file")));
        }
        let replies = async_stream::try_stream! {
            yield part(get_reply::Part::Length(metadata.len()));
            let mut sent = Counted::default();
            loop {
                let mut content = BytesMut::with_capacity(CHUNK);
                let read = file.read_buf(&mut content).await;
                if read.map_err(|error| failed("read", &name, &error))? == 0 {
                    break;
                }
                sent.add(&content);
                yield part(get_reply::Part::Content(content.freeze()));
            }
            yield part(get_reply::Part::Summary(sent.summary()));
        };
        Ok(Response::new(Box::pin(replies)))
    }
}

fn part(part: get_reply::Part) -> GetReply {
    GetReply { part: Some(part) }
}

fn failed(what: &str, name: &str, error: &io::Error) -> Status {
    let text = format!("cannot {what} `{name}`: {error}");
    match error.kind() {
        io::ErrorKind::NotFound => Status::not_found(text),
        io::ErrorKind::PermissionDenied => Status::permission_denied(text),
        io::ErrorKind::StorageFull => Status::resource_exhausted(text),
        _ => Status::internal(text),
    }
}
