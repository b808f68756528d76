//! Generated files: the tests write them when `UPDATE=1` is set, and fail when the committed files are stale.

use crate::support::site::Site;
use std::fmt::Write;
use std::path::Path;

/// Compares a committed file with its generated content, or writes it when `UPDATE=1` is set.
pub fn assert_fresh(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, expected).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    assert!(committed == expected, "{path} is stale: run UPDATE=1 cargo test fresh, and read the diff");
}

#[tokio::test]
async fn table_definitions_are_fresh() {
    let site = Site::shared().await;
    assert_fresh(
        "src/db/schema/tenant.rs",
        &tables(
            site,
            "cordon_data",
            "shared",
            "",
            "Tables of a tenant schema, unqualified: placement decides through search_path.",
        )
        .await,
    );
    let about = "Tables of the catalog, always qualified.";
    assert_fresh(
        "src/db/schema/catalog.rs",
        &tables(site, "cordon_control", "cordon_catalog", "cordon_catalog.", about).await,
    );
}

#[test]
fn the_schema_is_fresh() {
    let limits = cordon::config::Settings::load(None, None).unwrap().limits;
    assert_fresh("schema.graphql", &cordon::graphql::Api::new(&limits).unwrap().sdl());
}

/// Returns the `table!` definitions of all tables of a schema.
async fn tables(site: &Site, database: &str, schema: &str, prefix: &str, about: &str) -> String {
    let rows = site
        .superuser(database)
        .await
        .query(
            "select c.relname::text, a.attname::text, t.typname::text, a.attnotnull,
               (select string_agg(k.attname, ', ' order by array_position(i.indkey::int2[], k.attnum)) from pg_index i
                join pg_attribute k on k.attrelid = c.oid and k.attnum = any (i.indkey) where i.indrelid = c.oid and \
                i.indisprimary)
             from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped join \
             pg_type t on t.oid = a.atttypid
             where c.relnamespace = $1::text::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and \
             c.relname not like '\\_\\_%'
             order by c.relname, a.attnum",
            &[&schema],
        )
        .await
        .unwrap();
    let mut text = format!(
        "//! {about}\n//! Written by `UPDATE=1 cargo test fresh` from a migrated database; columns of type xid8 are \
         the database's own and left out.\n"
    );
    let mut names: Vec<String> = Vec::new();
    for row in &rows {
        let (table, column, kind, required): (String, String, String, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        if names.last() != Some(&table) {
            if !names.is_empty() {
                text.push_str("    }\n}\n");
            }
            writeln!(text, "\ndiesel::table! {{\n    {prefix}{table} ({}) {{", row.get::<_, String>(4)).unwrap();
            names.push(table);
        }
        if let Some(kind) = diesel_type(&kind) {
            let kind = if required { kind.to_owned() } else { format!("Nullable<{kind}>") };
            writeln!(text, "        {column} -> {kind},").unwrap();
        }
    }
    writeln!(text, "    }}\n}}\n\ndiesel::allow_tables_to_appear_in_same_query!({});", names.join(", ")).unwrap();
    text
}

/// Returns the Diesel type of a PostgreSQL type; `None` for types of columns that only the database uses.
fn diesel_type(name: &str) -> Option<&'static str> {
    Some(match name {
        "uuid" => "Uuid",
        "text" | "name" => "Text",
        "int4" => "Int4",
        "int8" => "Int8",
        "bool" => "Bool",
        "bytea" => "Bytea",
        "timestamptz" => "Timestamptz",
        "_text" => "Array<Text>",
        "_uuid" => "Array<Uuid>",
        "_int8" => "Array<Int8>",
        "xid8" | "inet" => return None,
        other => panic!("no diesel type for {other}"),
    })
}
