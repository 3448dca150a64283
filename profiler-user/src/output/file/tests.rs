//! Names, overwriting, hostile directories and full disks. What needs root is skipped without it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use super::*;
use crate::output::{Format, OutputOptions, fixture};
use crate::system::identity::Invoker;

const USER: u32 = 54_321;

fn user() -> Invoker {
    Invoker { uid: USER, gid: USER, groups: vec![USER] }
}

fn is_root() -> bool {
    rustix::process::geteuid().as_raw() == 0
}

fn write_text(destination: &Destination, text: &str) -> Result<Written, FileError> {
    destination.write(|out| Ok(out.write_all(text.as_bytes())?))
}

/// An error with its causes, as the command line prints it.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

fn put(path: &Path, existing: Existing, text: &str) -> Result<Written, FileError> {
    write_text(&Destination::open(path, existing, None)?, text)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn nothing_is_overwritten_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.svg");
    assert_eq!(put(&path, Existing::KeepAsOld, "one").unwrap().old, None);
    let second = put(&path, Existing::KeepAsOld, "two").unwrap();
    assert_eq!((second.bytes, second.old), (3, Some(directory.path().join("x.svg.old"))));
    assert_eq!(fs::read_to_string(directory.path().join("x.svg.old")).unwrap(), "one");
    assert_eq!(put(&path, Existing::Replace, "three").unwrap().old, None);
    let next = put(&path, Existing::TakeNextName, "four").unwrap();
    assert_eq!(next.path, directory.path().join("x-2.svg"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "three");
    assert_eq!(names(directory.path()), ["x-2.svg", "x.svg", "x.svg.old"]);
}

#[test]
fn compound_endings_stay_whole() {
    let numbered = |name: &str| place::numbered(name.as_ref(), 2).into_string().unwrap();
    assert_eq!([numbered("a.pb.gz"), numbered("a.svg"), numbered("a")], ["a-2.pb.gz", "a-2.svg", "a-2"]);
}

#[test]
fn links_devices_and_directories_are_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    symlink("/etc/passwd", at("link.svg")).unwrap();
    fs::create_dir(at("dir.svg")).unwrap();
    for name in ["link.svg", "dir.svg"] {
        for existing in [Existing::KeepAsOld, Existing::Replace] {
            assert!(matches!(put(&at(name), existing, "x"), Err(FileError::InTheWay { .. })), "{name}");
        }
    }
    let free = put(&at("link.svg"), Existing::TakeNextName, "x").unwrap();
    assert_eq!(free.path, at("link-2.svg"));
}

#[test]
fn a_failed_write_leaves_nothing_and_says_how_far_it_came() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.svg");
    put(&path, Existing::KeepAsOld, "before").unwrap();
    let destination = Destination::open(&path, Existing::KeepAsOld, None).unwrap();
    let result = destination.write(|out| {
        out.write_all(&[0; 2048])?;
        Err(io::Error::from(io::ErrorKind::StorageFull).into())
    });
    let message = chain(&result.unwrap_err());
    assert!(message.contains("x.svg (stopped after 2.0 KiB): no storage space"), "{message}");
    assert_eq!(names(directory.path()), ["x.svg"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
}

#[test]
fn wrong_places_are_refused_before_anything_is_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let open = |path: &Path| Destination::open(path, Existing::KeepAsOld, None).map(|_| ());
    assert!(matches!(open(Path::new("/")), Err(FileError::NoName { .. })));
    assert!(matches!(open(&directory.path().join("no/x.svg")), Err(FileError::Directory { .. })));
    let request = |paths: &[&str]| {
        let request = PlanRequest {
            paths: paths.iter().map(|path| directory.path().join(path)).collect(),
            ..PlanRequest::default()
        };
        OutputPlan::open_as(&request, &NameParts::default(), None).map(|_| ()).unwrap_err()
    };
    assert!(request(&["x.svg", "x.svg"]).is_usage());
    assert!(request(&["x.png"]).is_usage());
    assert!(request(&["%q.svg"]).is_usage());
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[test]
fn default_files_share_a_stem_and_the_links_follow() {
    let directory = tempfile::tempdir().unwrap();
    let parts = NameParts { slug: "web-1".into(), mode: "cpu".into(), ..NameParts::default() };
    let stem = default_stem(&parts);
    let profile = fixture::recursive();
    for number in ["", "-2", "-3"] {
        if number == "-3" {
            // Only the picture is in the way: the profile takes the next number as well.
            fs::write(directory.path().join(format!("{stem}-2.svg")), "x").unwrap();
        }
        let plan = OutputPlan::open_default(directory.path(), &parts, None).unwrap();
        let written: Vec<_> = plan
            .write(&profile, &OutputOptions::default())
            .into_iter()
            .map(|result| result.unwrap().path)
            .collect();
        assert_eq!(written[0], directory.path().join(format!("{stem}{number}.svg")));
        assert_eq!(written[1], directory.path().join(format!("{stem}{number}.pb.gz")));
        let link = fs::read_link(directory.path().join("last.svg")).unwrap();
        assert_eq!(link.to_str().unwrap(), format!("{stem}{number}.svg"));
        let back = crate::import::read_file(&directory.path().join("last.pb.gz")).unwrap();
        assert_eq!(back, profile);
    }
}

#[test]
fn a_file_named_like_the_link_stays() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("last.svg"), "mine").unwrap();
    let plan = OutputPlan::open_default(directory.path(), &NameParts::default(), None).unwrap();
    assert!(plan.write(&fixture::recursive(), &OutputOptions::default()).iter().all(Result::is_ok));
    assert_eq!(fs::read_to_string(directory.path().join("last.svg")).unwrap(), "mine");
}

#[test]
fn behind_sudo_files_are_the_users() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = directory.path().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(USER), Some(USER)).unwrap();
    let destination = Destination::open(&home.join("x.svg"), Existing::KeepAsOld, Some(&user())).unwrap();
    write_text(&destination, "x").unwrap();
    destination.point_link("last.svg", "x.svg".as_ref()).unwrap();
    let metadata = fs::symlink_metadata(home.join("x.svg")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o022), (USER, USER, 0));
    assert_eq!(fs::symlink_metadata(home.join("last.svg")).unwrap().uid(), USER);
}

#[test]
fn behind_sudo_a_hostile_directory_leads_nowhere() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let secret = directory.path().join("secret");
    let hostile = directory.path().join("hostile");
    fs::create_dir(&secret).unwrap();
    fs::create_dir(&hostile).unwrap();
    chown(&hostile, Some(USER + 1), Some(USER + 1)).unwrap();
    fs::set_permissions(&hostile, fs::Permissions::from_mode(0o777)).unwrap();
    // The directory's owner leads the way into a place of root's.
    symlink(&secret, hostile.join("out")).unwrap();
    symlink(secret.join("planted"), hostile.join("x.svg")).unwrap();
    let open = |path: &Path| Destination::open(path, Existing::Replace, Some(&user()));
    let refused = open(&hostile.join("out/x.svg")).unwrap_err();
    assert!(refused.to_string().contains("user behind sudo"), "{refused}");
    assert!(matches!(open(&hostile.join("x.svg")), Err(FileError::InTheWay { .. })));
    assert_eq!(names(&secret), Vec::<String>::new());
}

#[test]
fn behind_sudo_roots_own_directories_are_still_usable() {
    if !is_root() {
        return;
    }
    // In /tmp, which anyone may write, but where the sticky bit keeps others from exchanging what is root's.
    let directory = tempfile::tempdir().unwrap();
    let open =
        |name: &str| Destination::open(&directory.path().join(name), Existing::KeepAsOld, Some(&user()));
    assert_eq!(write_text(&open("x.svg").unwrap(), "x").unwrap().bytes, 1);
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    assert!(open("inner/x.svg").is_ok());
    // A way through a link or a directory that others may write is not trusted.
    symlink(&inner, directory.path().join("link")).unwrap();
    assert!(open("link/x.svg").is_err() && open("inner/../x.svg").is_err());
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o770)).unwrap();
    assert!(open("y.svg").is_err() && open("inner/y.svg").is_err());
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing() {
    let full = Path::new("/dev/full");
    let request = PlanRequest {
        paths: vec![full.to_owned()],
        format: Format::from_name("svg").ok(),
        existing: Existing::Replace,
    };
    let plan = OutputPlan::open_as(&request, &NameParts::default(), None).unwrap();
    let error = plan.write(&fixture::hostile(), &OutputOptions::default()).remove(0).unwrap_err();
    assert!(chain(&error).contains("No space left"), "{}", chain(&error));
    assert!(full.exists());
}
