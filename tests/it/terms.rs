//! `cordon tenant set`: what is one tenant's own, as an operator types it.

use crate::cli::{Desk, OPERATOR};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

#[test]
fn an_operator_sets_what_is_a_tenants_own() {
    let desk = Desk::new("terms");
    desk.json(&[], &["init", "--admin-url-env", "ADMIN_URL"]);
    desk.json(OPERATOR, &["tenant", "create", "lakeside", "--name", "A clinic"]);
    let neighbour = desk.json(OPERATOR, &["tenant", "create", "riverside", "--name", "Another", "--model", "shared"]);
    let set = |arguments: &[&str]| desk.json(OPERATOR, &[&["tenant", "set", "lakeside"], arguments].concat());
    let fresh =
        json!({ "origins": [], "statement_timeout_ms": null, "requests_per_second": null, "concurrency": null });
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "lakeside"])["terms"], fresh);

    let pages = ["--origin", "https://app.example", "--origin", "http://localhost:5173"];
    let all = [
        &pages[..],
        &["--statement-timeout-ms", "500", "--requests-per-second", "20", "--concurrency", "4", "--plan", "large"],
    ]
    .concat();
    let changed = set(&all);
    let terms = json!({ "origins": ["https://app.example", "http://localhost:5173"], "statement_timeout_ms": 500, "requests_per_second": 20, "concurrency": 4 });
    assert_eq!((&changed["terms"], &changed["plan"]), (&terms, &json!("large")));
    assert_eq!(set(&all), changed, "again, nothing changes");
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "lakeside"]), changed);
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "riverside"]), neighbour);

    // What is not named stays.
    let mut wanted = terms;
    wanted["concurrency"] = Value::Null;
    assert_eq!(set(&["--concurrency", "default"])["terms"], wanted);
    wanted["origins"] = json!(["https://other.example"]);
    assert_eq!(set(&["--origin", "https://other.example"])["terms"], wanted);
    wanted["origins"] = json!([]);
    let bare = set(&["--no-origins"]);
    assert_eq!((&bare["terms"], &bare["plan"]), (&wanted, &json!("large")));
    let said =
        String::from_utf8(desk.cordon(OPERATOR, &["tenant", "show", "lakeside"]).output().unwrap().stdout).unwrap();
    assert!(
        said.contains("plan large") && said.contains("statement-timeout-ms 500") && !said.contains("concurrency"),
        "{said}"
    );

    for wrong in [
        &[][..],
        &["--origin", "app.example"],
        &["--origin", "https://app.example/"],
        &["--origin", "*"],
        &["--origin", "http://app.example"],
        &["--origin", "https://app.example", "--no-origins"],
        &["--concurrency", "0"],
        &["--requests-per-second", "-1"],
        &["--requests-per-second", "many"],
        &["--statement-timeout-ms", "600001"],
        &["--plan", " "],
    ] {
        assert_eq!(desk.fails(OPERATOR, &[&["tenant", "set", "lakeside"], wrong].concat()).0, 2, "{wrong:?}");
    }
    assert_eq!(desk.fails(OPERATOR, &["tenant", "set", "nobody", "--no-origins"]).0, 2);
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "lakeside"]), bare, "and nothing was changed");

    let log = log(&desk);
    assert_eq!(log.iter().filter(|row| row.as_str() == "lakeside done").count(), 5, "{log:?}");
    assert_eq!(log.len(), 5);
}

fn log(desk: &Desk) -> Vec<String> {
    let url = desk.cluster.superuser_url("cordon_control");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let session = crate::site::open(&url.expose_secret().parse().unwrap()).await;
        let rows = session
            .query("select subject || ' ' || state from cordon_catalog.operations where kind = 'tenant.set'", &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    })
}
