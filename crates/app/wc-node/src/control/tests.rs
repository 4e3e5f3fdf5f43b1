//! Requests over a path that dies.

use wc_mesh::{LanDiscovery, MeshConfig};

use super::*;
use crate::sample::manifest;

async fn mesh(seed: u8, network: &str) -> Mesh {
    let mut config = MeshConfig::new([seed; 32], network);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")];
    config.lan = LanDiscovery { mdns: false, loopback: false };
    let (mesh, mut events) = Mesh::start(config).await.expect("starts");
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    mesh
}

/// Asks a coordinator that takes the first request in and dies, and refuses the second one as a duplicate.
async fn ask_twice(request: &CellRequest) -> (Response, usize) {
    // A second one in the same process finds it installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let network = format!("twice-{}", std::process::id());
    let (asker, coordinator) = (mesh(1, &network).await, mesh(2, &network).await);
    let mut incoming = coordinator.accept(version::CONTROL).expect("accepted once");
    let answering = tokio::spawn(async move {
        let mut heard = 0;
        while let Some((_, mut stream)) = incoming.recv().await {
            let asked: CellRequest = link::read(&mut stream, REQUEST_BYTES_MAX).await.expect("a request");
            heard += usize::from(matches!(asked, CellRequest::Submit { .. } | CellRequest::Cancel(_)));
            if heard == 2 {
                let refusal = Refusal::new(wc_policy::code::DUPLICATE, "its job exists");
                link::write(&mut stream, &Response::Refused(vec![refusal]), FRAME_BYTES_MAX)
                    .await
                    .expect("answered");
                return 2;
            }
        }
        heard
    });
    let addr = coordinator.listen_addrs().await.remove(0);
    asker.dial(addr).await.expect("connects");
    let response = Messenger::new(asker).ask(coordinator.node_id(), request).await;
    coordinator.stop().await;
    (response, answering.await.expect("answers"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_submission_whose_answer_was_lost_is_sent_again_and_is_one_job() {
    let (manifest, holders) = (manifest(), Vec::new());
    let cid = manifest.cid();
    let request = CellRequest::Submit { manifest: Box::new(manifest.clone()), holders, dry_run: false };
    let (response, heard) = ask_twice(&request).await;
    let expected = Response::Submitted { job: manifest.job_id(&cid), manifest: cid };
    assert_eq!((response, heard), (expected, 2));
}
