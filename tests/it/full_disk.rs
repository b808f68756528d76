//! A full disk: acknowledged notes are stored, rejected ones are not, and writes succeed again when there is space. One
//! test needs the right to mount a file system of 200 MB; the other raises the error that PostgreSQL raises on a full
//! disk.

use crate::support::chart_writer::{ChartWriter, DRAFT};
use crate::support::options;
use crate::support::site::{MODELS, Site};
use cordon::cluster::{Cluster, Options};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A tmpfs file system. It is unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let at = crate::support::run_dir().join("full-disk");
        std::fs::create_dir(&at).unwrap();
        let mounted = geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=200m,mode=755", "none"])
                .arg(&at)
                .status()
                .is_ok_and(|s| s.success());
        mounted.then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn note(writer: &ChartWriter<'_>, body: &str) -> Value {
    json!({ "patientId": writer.patient, "type": "34117-2", "body": body })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_no_acknowledged_note() {
    let Some(disk) = SmallDisk::mount() else {
        println!("a file system may not be mounted here: only the error is tested");
        return;
    };
    let small =
        [("max_wal_size", "32MB"), ("min_wal_size", "32MB"), ("shared_buffers", "16MB"), ("wal_init_zero", "on")];
    let settings = small.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let cluster = Cluster::start(&Options { dir: disk.0.join("pg"), settings, ..options("unused") }).unwrap();
    let site = Site::create(&cluster, "full-disk-site").await;
    let writer = ChartWriter::create(&site, site.tenant(MODELS[1]).await).await;
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 40 << 20]).unwrap();
    let body = "x".repeat(400_000);
    let (mut acknowledged, mut rejected) = (Vec::new(), 0);
    for _ in 0..600 {
        match writer.mutate(&writer.alice, DRAFT, note(&writer, &body)).await {
            Ok(note) => acknowledged.push(note["id"].as_str().unwrap().to_owned()),
            Err((code, _)) => {
                assert_eq!(code, "UNAVAILABLE", "after {} notes", acknowledged.len());
                rejected += 1;
                if rejected == 5 {
                    break;
                }
            }
        }
    }
    println!("{} notes of 400 kB, then the disk was full", acknowledged.len());
    assert!(acknowledged.len() > 10 && rejected == 5);
    free_space(&ballast);
    let started = Instant::now();
    while let Err((code, _)) = writer.mutate(&writer.alice, DRAFT, note(&writer, "space again")).await {
        assert_eq!(code, "UNAVAILABLE");
        assert!(started.elapsed() < Duration::from_secs(60), "no write succeeded after space was freed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let query = "query ($id: ID!) { note(id: $id) { body } }";
    for id in &acknowledged {
        let data = writer.server.data(&writer.alice, query, json!({ "id": id })).await;
        assert_eq!(data["note"]["body"].as_str().map(str::len), Some(body.len()), "an acknowledged note is stored");
    }
    let (notes, versions) = (writer.rows(&count("clinical_notes")).await, writer.rows(&count("note_versions")).await);
    let (notes, versions): (i64, i64) = (notes[0].get(0), versions[0].get(0));
    assert_eq!(notes, versions, "no note is stored without its version");
    // A commit whose response was lost may be stored; no other rejected note may be.
    assert!(
        (acknowledged.len() as i64 + 1..=acknowledged.len() as i64 + 1 + rejected).contains(&notes),
        "{notes} notes, {} acknowledged",
        acknowledged.len()
    );
}

#[tokio::test]
async fn a_disk_full_error_is_temporary() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[2]).await).await;
    let database = &writer.tenant.placement.as_ref().unwrap().database;
    let superuser = site.superuser(database).await;
    let trigger = "create function public.no_room() returns trigger language plpgsql as $$ begin
          raise exception 'could not extend file \"base/1/2\": No space left on device' using errcode = '53100'; end $$;
        create trigger no_room before insert on tenant.note_versions for each row execute function public.no_room()";
    superuser.batch_execute(trigger).await.unwrap();
    let (status, answer) = writer.server.query(&writer.alice, DRAFT, json!({ "input": note(&writer, "b") })).await;
    assert_eq!((status, &answer["errors"][0]["extensions"]["code"]), (503, &json!("UNAVAILABLE")), "{answer}");
    assert!(!answer.to_string().contains("extend"), "{answer}");
    assert_eq!(writer.rows(&count("clinical_notes")).await[0].get::<_, i64>(0), 0);
    superuser.batch_execute("drop function public.no_room() cascade").await.unwrap();
    writer.mutate(&writer.alice, DRAFT, note(&writer, "b")).await.unwrap();
}

fn count(table: &str) -> String {
    format!("select count(*) from {table} where tenant_id = $tenant")
}

fn free_space(ballast: &Path) {
    std::fs::remove_file(ballast).unwrap();
}
