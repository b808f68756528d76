//! A full disk: what was answered is there, what was refused is not, and with room again all goes on. On a disk of 200 MB where one may be
//! mounted; everywhere with the error that PostgreSQL gives.

use crate::options;
use crate::site::{MODELS, Site};
use crate::write::{DRAFT, Ward};
use cordon::cluster::{Cluster, Options};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A memory disk, until dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount() -> Option<Self> {
        let at = crate::run_dir().join("full-disk");
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

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn note(ward: &Ward<'_>, body: &str) -> Value {
    json!({ "patientId": ward.patient, "type": "34117-2", "body": body })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing() {
    let Some(disk) = Disk::mount() else {
        println!("a disk of its own may not be mounted here: the error alone is tried");
        return;
    };
    let small =
        [("max_wal_size", "32MB"), ("min_wal_size", "32MB"), ("shared_buffers", "16MB"), ("wal_init_zero", "on")];
    let settings = small.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let cluster = Cluster::start(&Options { dir: disk.0.join("pg"), settings, ..options("unused") }).unwrap();
    let site = Site::make(&cluster, "full-disk-site").await;
    let ward = Ward::open(&site, site.tenant(MODELS[1]).await).await;
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 40 << 20]).unwrap();
    let body = "x".repeat(400_000);
    let (mut answered, mut refused) = (Vec::new(), 0);
    for _ in 0..600 {
        match ward.change(&ward.alice, DRAFT, note(&ward, &body)).await {
            Ok(note) => answered.push(note["id"].as_str().unwrap().to_owned()),
            Err((code, _)) => {
                assert_eq!(code, "UNAVAILABLE", "after {} notes", answered.len());
                refused += 1;
                if refused == 5 {
                    break;
                }
            }
        }
    }
    println!("{} notes of 400 kB, then no room", answered.len());
    assert!(answered.len() > 10 && refused == 5);
    make_room(&ballast);
    let began = Instant::now();
    while let Err((code, _)) = ward.change(&ward.alice, DRAFT, note(&ward, "room again")).await {
        assert_eq!(code, "UNAVAILABLE");
        assert!(began.elapsed() < Duration::from_secs(60), "no write after there was room again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let seen = "query ($id: ID!) { note(id: $id) { body } }";
    for id in &answered {
        let data = ward.server.data(&ward.alice, seen, json!({ "id": id })).await;
        assert_eq!(data["note"]["body"].as_str().map(str::len), Some(body.len()), "what was answered is there");
    }
    let (notes, versions) = (ward.rows(&count("clinical_notes")).await, ward.rows(&count("note_versions")).await);
    let (notes, versions): (i64, i64) = (notes[0].get(0), versions[0].get(0));
    assert_eq!(notes, versions, "nothing is half written");
    // A commit whose answer was lost may stand; nothing else.
    assert!(
        (answered.len() as i64 + 1..=answered.len() as i64 + 1 + refused).contains(&notes),
        "{notes} notes, {} answered",
        answered.len()
    );
}

#[tokio::test]
async fn no_room_is_an_error_that_passes() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[2]).await).await;
    let database = &ward.tenant.placement.as_ref().unwrap().database;
    let superuser = site.superuser(database).await;
    let full = "create function public.no_room() returns trigger language plpgsql as $$ begin
          raise exception 'could not extend file \"base/1/2\": No space left on device' using errcode = '53100'; end $$;
        create trigger no_room before insert on tenant.note_versions for each row execute function public.no_room()";
    superuser.batch_execute(full).await.unwrap();
    let (status, answer) = ward.server.ask(&ward.alice, DRAFT, json!({ "input": note(&ward, "b") })).await;
    assert_eq!((status, &answer["errors"][0]["extensions"]["code"]), (503, &json!("UNAVAILABLE")), "{answer}");
    assert!(!answer.to_string().contains("extend"), "{answer}");
    assert_eq!(ward.rows(&count("clinical_notes")).await[0].get::<_, i64>(0), 0);
    superuser.batch_execute("drop function public.no_room() cascade").await.unwrap();
    ward.change(&ward.alice, DRAFT, note(&ward, "b")).await.unwrap();
}

fn count(table: &str) -> String {
    format!("select count(*) from {table} where tenant_id = $tenant")
}

fn make_room(ballast: &Path) {
    std::fs::remove_file(ballast).unwrap();
}
