//! Streaming calls: refused with a way out, unless everything is ready at once.

mod common;

use std::time::Duration;

use common::*;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

fn paused(requests: Vec<CallRequest>) -> impl tokio_stream::Stream<Item = CallRequest> {
    tokio_stream::iter(requests).then(|request| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        request
    })
}

fn refused(status: &Status, what: &str) {
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    assert!(
        status.message().contains(what) && status.message().contains("http://"),
        "{status}"
    );
}

#[tokio::test]
async fn streams_are_refused_over_homa_and_work_over_tcp() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let mut client = host.client().await;
        let down = client
            .down(CallRequest {
                count: 3,
                pause: true,
                ..ask("")
            })
            .await;
        let up = client.up(paused(vec![ask("a"), ask("b")])).await;
        let chat = client.chat(paused(vec![ask("a"), ask("b")])).await;
        if scheme == "homa" {
            refused(&down.unwrap_err(), "response");
            refused(&up.unwrap_err(), "request");
            refused(&chat.unwrap_err(), "request");
            // None of the two with a streamed request was sent.
            assert_eq!(host.service.started(), 1);
        } else {
            let replies: Vec<_> = down.unwrap().into_inner().collect().await;
            assert_eq!(replies.len(), 3);
            assert_eq!(up.unwrap().into_inner().text, "ab");
            let replies: Vec<_> = chat.unwrap().into_inner().collect().await;
            assert_eq!(replies.len(), 2);
        }
        assert_eq!(
            client.call(ask("on")).await.unwrap().into_inner().text,
            "on"
        );
    }
}

#[tokio::test]
async fn streams_that_are_ready_at_once_are_one_message_each_way() {
    for scheme in BOTH {
        let host = serve(scheme).await;
        let mut client = host.client().await;
        for count in [0, 1, 100] {
            let request = CallRequest {
                count,
                reply_bytes: 100,
                ..ask("")
            };
            let replies = client.down(request).await.unwrap().into_inner();
            let replies: Vec<_> = replies.map(|reply| reply.unwrap().text).collect().await;
            let expected: Vec<_> = (0..count).map(|number| number.to_string()).collect();
            assert_eq!(replies, expected, "{scheme}");
        }
        let requests = ["a", "b", "c"].map(ask);
        let reply = client
            .up(tokio_stream::iter(requests.clone()))
            .await
            .unwrap();
        assert_eq!(reply.into_inner().text, "abc");
        let replies = client
            .chat(tokio_stream::iter(requests))
            .await
            .unwrap()
            .into_inner();
        let replies: Vec<_> = replies.map(|reply| reply.unwrap().text).collect().await;
        assert_eq!(replies, ["a", "b", "c"]);
    }
}

#[tokio::test]
async fn a_ready_stream_over_the_limit_is_a_stream() {
    let host = serve("homa").await;
    let mut client = host.client().await;
    let request = CallRequest {
        count: u32::MAX,
        reply_bytes: 10_000,
        ..ask("")
    };
    refused(&client.down(request).await.unwrap_err(), "response");
    let requests = (0..).map(|_| CallRequest {
        payload: vec![1; 10_000],
        ..ask("")
    });
    refused(
        &client.up(tokio_stream::iter(requests)).await.unwrap_err(),
        "request",
    );
}
