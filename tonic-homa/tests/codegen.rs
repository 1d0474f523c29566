//! `tonic_homa::build`: the code that the other tests use is what it generates today.

use std::path::Path;
use std::{env, fs};

use tonic_homa::build;

const GENERATED: &str = "tests/generated/tonic_homa.test.v1.rs";

fn generate(folder: &Path, configure: impl FnOnce(build::Builder) -> build::Builder) -> String {
    fs::create_dir_all(folder).unwrap();
    let builder = build::configure()
        .out_dir(folder)
        .emit_rerun_if_changed(false);
    configure(builder)
        .compile_protos(&["tests/proto/test.proto"], &["tests/proto"])
        .unwrap();
    fs::read_to_string(folder.join("tonic_homa.test.v1.rs")).unwrap()
}

#[test]
fn the_generated_code_is_up_to_date() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("codegen");
    let code = generate(&folder, |builder| builder);
    if env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(GENERATED, &code).unwrap();
    }
    let stored = fs::read_to_string(GENERATED).unwrap_or_default();
    assert!(
        code == stored,
        "{GENERATED} is out of date: run `UPDATE_GENERATED=1 cargo test -p tonic-homa --test codegen`"
    );
}

#[test]
fn connect_is_on_our_channel() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("codegen-channel");
    let code = generate(&folder, |builder| builder);
    assert!(
        code.contains("impl TestClient<tonic_homa::transport::Channel>"),
        "{code}"
    );
    assert!(!code.contains("tonic::transport"), "{code}");
    let code = generate(&folder, |builder| {
        builder.transport_path("crate::net::transport")
    });
    assert!(
        code.contains("impl TestClient<crate::net::transport::Channel>"),
        "{code}"
    );
    let code = generate(&folder, |builder| {
        builder.build_client(false).use_arc_self(true)
    });
    assert!(
        !code.contains("TestClient") && code.contains("self: std::sync::Arc<Self>"),
        "{code}"
    );
}

#[test]
fn faults_are_told_with_their_place() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("codegen-faults");
    fs::create_dir_all(&folder).unwrap();
    let proto = folder.join("bad.proto");
    fs::write(
        &proto,
        "syntax = \"proto3\";\nmessage A {\n  Nothing b = 1;\n}\n",
    )
    .unwrap();
    let error = build::configure()
        .out_dir(&folder)
        .compile_protos(&[&proto], &[&folder])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("Nothing") && error.contains("bad.proto"),
        "{error}"
    );
    assert!(build::compile_protos("tests/proto/none.proto").is_err());
}
