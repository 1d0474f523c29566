//! Code generation for build scripts: what `tonic-prost-build` makes, with `connect()` on this
//! crate's [`Channel`](crate::transport::Channel), and without protoc.
//!
//! ```no_run
//! // build.rs; [build-dependencies] tonic-homa = { features = ["build"] }
//! fn main() -> std::io::Result<()> {
//!     tonic_homa::build::compile_protos("proto/greeter.proto")
//! }
//! ```
//!
//! The generated code needs the crates `tonic`, `tonic-prost` and `prost` beside this one, as
//! tonic's own does, and `tonic::include_proto!` finds it.
//!
//! ```no_run
//! tonic_homa::build::configure()
//!     .type_attribute(".", "#[derive(Hash)]")
//!     .compile_protos(&["proto/greeter.proto"], &["proto"])?;
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use protox::Compiler;
use protox::prost::Message as _;
pub use tonic_prost_build::{Config, FileDescriptorSet};

/// Generates client and server of one `.proto` file, whose folder is the only include path.
///
/// # Errors
///
/// The compiler's message for a faulty file; an IO error if output cannot be written.
pub fn compile_protos(proto: impl AsRef<Path>) -> io::Result<()> {
    let proto = proto.as_ref();
    let folder = proto
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    configure().compile_protos(&[proto], &[folder.unwrap_or(Path::new("."))])
}

/// Generates clients and servers of descriptors that were made elsewhere.
///
/// # Errors
///
/// An IO error if output cannot be written.
pub fn compile_fds(fds: FileDescriptorSet) -> io::Result<()> {
    configure().compile_fds(fds)
}

/// Code generation with options.
pub fn configure() -> Builder {
    Builder {
        tonic: tonic_prost_build::configure().type_attribute(".", "#[allow(clippy::all)]"),
        out_dir: None,
        file_descriptor_set_path: None,
        transport_path: "tonic_homa::transport".into(),
        rerun_if_changed: env::var_os("CARGO").is_some(),
    }
}

/// Options of code generation: those of `tonic_prost_build::Builder` but the ones for protoc.
///
/// ```no_run
/// tonic_homa::build::configure()
///     .build_server(false)
///     .compile_protos(&["proto/greeter.proto"], &["proto"])?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is generated before one of the compile methods"]
pub struct Builder {
    tonic: tonic_prost_build::Builder,
    out_dir: Option<PathBuf>,
    file_descriptor_set_path: Option<PathBuf>,
    transport_path: String,
    rerun_if_changed: bool,
}

/// Options that are tonic's own.
macro_rules! tonics_own {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*);)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $($arg: $type),*) -> Self {
            self.tonic = self.tonic.$name($($arg),*);
            self
        }
    )*};
}

impl Builder {
    tonics_own! {
        /// Whether clients are generated. Default: yes.
        build_client(enable: bool);
        /// Whether servers are generated. Default: yes.
        build_server(enable: bool);
        /// Whether clients get `connect()`. Default: yes.
        build_transport(enable: bool);
        /// Uses a Rust path for a protobuf path instead of generating it.
        extern_path(proto_path: impl AsRef<str>, rust_path: impl AsRef<str>);
        /// Adds an attribute to the fields that match.
        field_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Adds an attribute to the messages that match.
        message_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Adds an attribute to the enumerations that match.
        enum_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Adds an attribute to the types that match.
        type_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Boxes the fields that match.
        boxed(path: impl AsRef<str>);
        /// Uses `BTreeMap` for the map fields that match.
        btree_map(path: impl AsRef<str>);
        /// Uses `bytes::Bytes` for the fields of type `bytes` that match: they then share the
        /// memory of the received message instead of copying it.
        bytes(path: impl AsRef<str>);
        /// Adds an attribute to the modules of servers.
        server_mod_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Adds an attribute to server structs.
        server_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Adds an attribute to service traits.
        trait_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Adds an attribute to the modules of clients.
        client_mod_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Adds an attribute to client structs.
        client_attribute(path: impl AsRef<str>, attribute: impl AsRef<str>);
        /// Where services find the generated types. Default: `super`.
        proto_path(proto_path: impl AsRef<str>);
        /// Whether `google.protobuf` types are generated. Default: no.
        compile_well_known_types(enable: bool);
        /// A file, in the output folder, that includes all generated ones.
        include_file(path: impl AsRef<Path>);
        /// Leaves out the comments of the services and methods that match.
        disable_comments(paths: impl IntoIterator<Item = impl AsRef<str>>);
        /// Whether methods of service traits take `Arc<Self>`. Default: no.
        use_arc_self(enable: bool);
        /// Whether service traits have default methods that are `UNIMPLEMENTED`. Default: no.
        generate_default_stubs(enable: bool);
        /// The codec. Default: `tonic_prost::ProstCodec`.
        codec_path(path: impl AsRef<str>);
        /// Leaves out `Debug` for the types that match.
        skip_debug(paths: impl IntoIterator<Item = impl AsRef<str>>);
    }

    /// Where the code goes. Default: `OUT_DIR`.
    pub fn out_dir(mut self, folder: impl AsRef<Path>) -> Self {
        self.out_dir = Some(folder.as_ref().into());
        self.tonic = self.tonic.out_dir(folder);
        self
    }

    /// A file for the descriptors, as reflection needs them.
    pub fn file_descriptor_set_path(mut self, path: impl AsRef<Path>) -> Self {
        self.file_descriptor_set_path = Some(path.as_ref().into());
        self
    }

    /// The path of this crate's `transport` module, for those who import it under another name.
    /// Default: `tonic_homa::transport`.
    pub fn transport_path(mut self, path: impl Into<String>) -> Self {
        self.transport_path = path.into();
        self
    }

    /// Whether cargo is told which files were read. Default: yes, when cargo runs this.
    pub fn emit_rerun_if_changed(mut self, enable: bool) -> Self {
        self.rerun_if_changed = enable;
        self
    }

    /// Compiles `.proto` files and generates their code.
    ///
    /// # Errors
    ///
    /// The compiler's message for a faulty file; an IO error if output cannot be written.
    pub fn compile_protos(
        self,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> io::Result<()> {
        self.compile_with_config(Config::new(), protos, includes)
    }

    /// The same with options of prost's own.
    ///
    /// # Errors
    ///
    /// Those of [`compile_protos`](Self::compile_protos).
    pub fn compile_with_config(
        self,
        config: Config,
        protos: &[impl AsRef<Path>],
        includes: &[impl AsRef<Path>],
    ) -> io::Result<()> {
        let mut compiler = Compiler::new(includes).map_err(compile_error)?;
        compiler.include_source_info(true).include_imports(true);
        compiler.open_files(protos).map_err(compile_error)?;
        if self.rerun_if_changed {
            for path in compiler
                .files()
                .filter_map(protox::file::FileMetadata::path)
            {
                println!("cargo:rerun-if-changed={}", path.display());
            }
        }
        self.compile_fds_with_config(compiler.file_descriptor_set(), config)
    }

    /// Generates the code of descriptors that were made elsewhere.
    ///
    /// # Errors
    ///
    /// An IO error if output cannot be written.
    pub fn compile_fds(self, fds: FileDescriptorSet) -> io::Result<()> {
        self.compile_fds_with_config(fds, Config::new())
    }

    /// The same with options of prost's own.
    ///
    /// # Errors
    ///
    /// An IO error if output cannot be written.
    pub fn compile_fds_with_config(self, fds: FileDescriptorSet, config: Config) -> io::Result<()> {
        let out_dir = self
            .out_dir
            .or_else(|| env::var_os("OUT_DIR").map(PathBuf::from));
        let out_dir = out_dir.ok_or_else(|| {
            io::Error::other("OUT_DIR is not set: run this in a build script, or set out_dir")
        })?;
        if let Some(path) = &self.file_descriptor_set_path {
            fs::write(path, fds.encode_to_vec())?;
        }
        let with_services = fds.file.iter().filter(|file| !file.service.is_empty());
        let packages: HashSet<_> = with_services.map(|file| plain(file.package())).collect();
        self.tonic.compile_fds_with_config(fds, config)?;
        for entry in fs::read_dir(&out_dir)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(OsStr::to_str).map(plain);
            let is_code = path.extension() == Some(OsStr::new("rs"));
            if is_code && stem.is_some_and(|stem| packages.contains(&stem)) {
                retarget(&path, &self.transport_path)?;
            }
        }
        Ok(())
    }
}

/// A package and the name of its file, made equal: prost turns one into the other by rules that
/// are its own.
fn plain(name: &str) -> String {
    name.replace("r#", "").replace('_', "").to_lowercase()
}

/// Puts `connect()` on another transport. tonic's generator has no option for it.
fn retarget(path: &Path, transport: &str) -> io::Result<()> {
    let mut code = fs::read_to_string(path)?;
    for name in ["Channel", "Endpoint", "Error"] {
        let (from, to) = (
            format!("tonic::transport::{name}"),
            format!("{transport}::{name}"),
        );
        code = code.replace(&from, &to);
    }
    fs::write(path, code)
}

fn compile_error(error: protox::Error) -> io::Error {
    // Its `Debug` output has the place in the file; `Display` has not.
    io::Error::other(format!("{error:?}"))
}
