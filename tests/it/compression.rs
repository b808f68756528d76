//! Compressed responses: large responses are compressed with gzip if the client accepts it.

use crate::support::server::{Response, TestServer};
use crate::support::site::Site;
use cordon::isolation::BootCheck;
use cordon::tenant::TenancyModel;

#[tokio::test]
async fn large_responses_are_compressed_with_gzip_on_request() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let mut settings = site.server_settings();
    settings.limits.introspection = true;
    let server = TestServer::start(site, settings, BootCheck::Dev);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let (small, large) = ("{ viewer { id } }", "{ __schema { types { name fields { name description } } } }");
    let plain = Response::of(server.query_request(&token, large, serde_json::Value::Null)).await;
    assert!(
        plain.status == 200 && plain.body.len() > 5_000 && !plain.headers.contains_key("content-encoding"),
        "{plain:?}"
    );
    for (query, accepts, encoded) in [
        (large, "gzip", true),
        (large, "br, gzip;q=0.5", true),
        (large, "br, deflate, zstd", false),
        (large, "gzip;q=0", false),
        (large, "identity;q=0, *;q=0", false),
        (small, "gzip", false),
    ] {
        let answer = server
            .query_request(&token, query, serde_json::Value::Null)
            .header("accept-encoding", accepts)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{accepts}");
        let encoding = answer.headers().get("content-encoding").map(|encoding| encoding.to_str().unwrap().to_owned());
        assert_eq!(encoding.as_deref(), encoded.then_some("gzip"), "{accepts}");
        let varies = answer.headers().get_all("vary").iter().any(|vary| vary == "accept-encoding");
        assert!(varies == encoded && answer.headers()["cache-control"] == "no-store");
        let bytes = answer.bytes().await.unwrap();
        if encoded {
            // The last four bytes of gzip data are the length of the uncompressed data.
            let (body, length) = bytes.split_at(bytes.len() - 4);
            assert_eq!(u32::from_le_bytes(length.try_into().unwrap()) as usize, plain.body.len());
            assert!(
                body.starts_with(&[0x1f, 0x8b]) && bytes.len() * 3 < plain.body.len(),
                "{} of {}",
                bytes.len(),
                plain.body.len()
            );
        } else if query == large {
            assert_eq!(bytes, plain.body.as_bytes());
        }
    }
}
