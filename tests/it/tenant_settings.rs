//! The command `cordon tenant set`, which changes the settings of one tenant.

use crate::cli::{Desk, OPERATOR};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

#[test]
fn an_operator_changes_the_settings_of_one_tenant() {
    let desk = Desk::new("terms");
    desk.json(&[], &["init", "--admin-url-env", "ADMIN_URL"]);
    desk.json(OPERATOR, &["tenant", "create", "lakeside", "--name", "A clinic"]);
    let neighbour = desk.json(OPERATOR, &["tenant", "create", "riverside", "--name", "Another", "--model", "shared"]);
    let set = |arguments: &[&str]| desk.json(OPERATOR, &[&["tenant", "set", "lakeside"], arguments].concat());
    let defaults =
        json!({ "origins": [], "statement_timeout_ms": null, "requests_per_second": null, "concurrency": null });
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "lakeside"])["settings"], defaults);

    let origins = ["--origin", "https://app.example", "--origin", "http://localhost:5173"];
    let all = [
        &origins[..],
        &["--statement-timeout-ms", "500", "--requests-per-second", "20", "--concurrency", "4", "--plan", "large"],
    ]
    .concat();
    let changed = set(&all);
    let terms = json!({ "origins": ["https://app.example", "http://localhost:5173"], "statement_timeout_ms": 500,
        "requests_per_second": 20, "concurrency": 4 });
    assert_eq!((&changed["settings"], &changed["plan"]), (&terms, &json!("large")));
    assert_eq!(set(&all), changed, "the second call changes nothing");
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "lakeside"]), changed);
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "riverside"]), neighbour);

    // Settings that are not named stay unchanged.
    let mut expected = terms;
    expected["concurrency"] = Value::Null;
    assert_eq!(set(&["--concurrency", "default"])["settings"], expected);
    expected["origins"] = json!(["https://other.example"]);
    assert_eq!(set(&["--origin", "https://other.example"])["settings"], expected);
    expected["origins"] = json!([]);
    let without_origins = set(&["--no-origins"]);
    assert_eq!((&without_origins["settings"], &without_origins["plan"]), (&expected, &json!("large")));
    let output =
        String::from_utf8(desk.cordon(OPERATOR, &["tenant", "show", "lakeside"]).output().unwrap().stdout).unwrap();
    let output = output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        output.contains("PLAN")
            && output.contains("active schema large")
            && output.contains("statement-timeout-ms 500")
            && !output.contains("concurrency"),
        "{output}"
    );

    for invalid in [
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
        assert_eq!(desk.fails(OPERATOR, &[&["tenant", "set", "lakeside"], invalid].concat()).0, 2, "{invalid:?}");
    }
    assert_eq!(desk.fails(OPERATOR, &["tenant", "set", "nobody", "--no-origins"]).0, 2);
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "lakeside"]), without_origins, "nothing was changed");

    let log = log(&desk);
    assert_eq!(log.iter().filter(|row| row.as_str() == "lakeside done").count(), 5, "{log:?}");
    assert_eq!(log.len(), 5);
}

fn log(desk: &Desk) -> Vec<String> {
    let url = desk.cluster.superuser_url("cordon_control");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let session = crate::support::site::connect_session(&url.expose_secret().parse().unwrap()).await;
        let rows = session
            .query("select subject || ' ' || state from cordon_catalog.operations where kind = 'tenant.set'", &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    })
}
