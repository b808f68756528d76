//! The explorer's page: served where it is switched on, out of the binary alone, and with a policy that keeps it to its
//! own server.

use crate::support::server::TestServer;
use crate::support::site::Site;
use cordon::isolation::BootCheck;

const FILES: [&str; 8] =
    ["", "/page.js", "/page.css", "/vendor.js", "/vendor.css", "/LICENSES.txt", "/schema.graphql", "/examples.json"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_explorer_is_served_where_it_is_on() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    assert!(!settings.http.explorer, "off by default");
    let off = TestServer::start(site, settings.clone(), BootCheck::On);
    settings.http.explorer = true;
    let on = TestServer::start(site, settings, BootCheck::On);
    let get = async |server: &TestServer<'_>, file: &str| {
        let url = server.url.replace("/graphql", &format!("/explorer{file}"));
        reqwest::Client::new().get(url).send().await.unwrap()
    };
    for file in FILES {
        assert_eq!(get(&off, file).await.status(), 404, "{file}");
        let response = get(&on, file).await;
        assert_eq!(response.status(), 200, "{file}");
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        for part in ["default-src 'none'", "script-src 'self';", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{file}: {policy}");
        }
        let kept = headers["cache-control"].to_str().unwrap().contains("immutable");
        assert_eq!(kept, file.starts_with("/vendor"), "{file}");
        assert_eq!(headers.get("content-encoding").is_some_and(|coding| coding == "gzip"), kept, "{file}");
    }
    let page = get(&on, "").await.text().await.unwrap();
    let urls: Vec<_> = page.split(['"', '\'']).filter(|part| part.contains("//")).collect();
    assert_eq!(urls, Vec::<&str>::new(), "the page names no other server");
    assert_eq!(get(&on, "/tokens").await.status(), 404, "only `cordon dev` hands out tokens");
}
