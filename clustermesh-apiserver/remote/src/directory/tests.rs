//! The directory as files come, change and go: links swapped as kubelet does, bad files, names that are ours.

use std::os::unix::fs::symlink;

use super::*;

struct Files {
    dir: tempfile::TempDir,
    directory: Directory,
}

const GOOD: &str = "
endpoints:
- https://c2.mesh.cilium.io:2379
trusted-ca-file: c2.etcd-client-ca.crt
cert-file: /etc/certs/c2.crt
key-file: c2.etcd-client.key
cilium-host-aliases:
- hostname: c2.mesh.cilium.io
  ips: [10.0.0.1, fd00::1]
";

impl Files {
    fn new() -> Files {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().to_owned(), ClusterName::parse("own").unwrap());
        Files { dir, directory }
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.dir.path().join(name), content).unwrap();
    }

    /// The differences in short: `+c2 ~c3 -c4`.
    fn scan(&mut self) -> String {
        let word = |difference: Difference| match difference {
            Difference::Added(name, _) => format!("+{name}"),
            Difference::Changed(name, _) => format!("~{name}"),
            Difference::Removed(name) => format!("-{name}"),
        };
        let words: Vec<String> = self.directory.scan().unwrap().into_iter().map(word).collect();
        words.join(" ")
    }

    fn problems(&self) -> Vec<String> {
        let short = |problem: &FileProblem| problem.to_string().replace(&format!("{}/", self.dir.path().display()), "");
        self.directory.problems().iter().map(short).collect()
    }
}

#[test]
fn a_file_says_where_a_cluster_is() {
    let connect = parse(Path::new("/mesh/c2"), GOOD.as_bytes()).unwrap();
    assert_eq!(connect.endpoints, ["https://c2.mesh.cilium.io:2379"]);
    let tls = connect.tls.unwrap();
    assert_eq!(tls.ca, Path::new("/mesh/c2.etcd-client-ca.crt"), "relative: of the same directory");
    assert_eq!(tls.cert, Path::new("/etc/certs/c2.crt"));
    assert_eq!(tls.key, Path::new("/mesh/c2.etcd-client.key"));
    assert_eq!(connect.aliases[0].hostname, "c2.mesh.cilium.io");
    assert_eq!(connect.aliases[0].ips, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
}

#[test]
fn bad_files_are_named_with_field_and_remedy() {
    let table = [
        ("endpoints: [", "c2: not the YAML that is expected"),
        ("endpoints: 7", "endpoints: invalid type"),
        ("endpoints: []", "c2: endpoints: there are none; name at least one"),
        ("endpoints: ['c2:2379']", "c2: endpoints: \"c2:2379\" is no http or https address; write it as https"),
        ("endpoints: ['https://c2']", "has no port"),
        ("endpoints: ['https://c2:port']", "\"port\" is no port"),
        ("endpoints: ['https://c2:1/x']", "more than a host and a port"),
        ("endpoints: ['https://c2:1']", "c2: trusted-ca-file: missing; an https endpoint needs"),
        ("endpoints: ['http://c2:1']\ncert-file: a\ntrusted-ca-file: b", "c2: key-file: missing; a client needs"),
        (
            "endpoints: ['http://c2:1']\ncilium-host-aliases: [{hostname: a, ips: [b]}]",
            "cilium-host-aliases: a: [\"b\"]",
        ),
        ("endpoints: ['http://c2:1']\ncilium-host-aliases: [{ips: []}]", "missing field `hostname`"),
    ];
    for (content, said) in table {
        let problem = parse(Path::new("c2"), content.as_bytes()).unwrap_err().to_string();
        assert!(problem.contains(said), "{content:?}: {problem}");
    }
    assert!(parse(Path::new("c2"), b"\xff endpoints:").is_err());
}

#[test]
fn only_configurations_count() {
    let mut files = Files::new();
    assert_eq!(files.scan(), "");
    files.write("c2", GOOD);
    files.write("own", GOOD);
    files.write("c2.etcd-client.crt", "-----BEGIN CERTIFICATE-----");
    files.write(".hidden", GOOD);
    fs::create_dir(files.dir.path().join("directory")).unwrap();
    symlink("nowhere", files.dir.path().join("dangling")).unwrap();
    assert_eq!(files.scan(), "+c2");
    assert_eq!(files.problems(), [""; 0]);
    assert_eq!(files.scan(), "", "nothing is new");
    files.write("c2.etcd-client.crt", "renewed");
    files.write("c2", GOOD);
    assert_eq!(files.scan(), "", "new certificates, and the same again");
    files.write("c2", &GOOD.replace("2379", "2380"));
    files.write("c3", GOOD);
    assert_eq!(files.scan(), "~c2 +c3");
    fs::remove_file(files.dir.path().join("c2")).unwrap();
    assert_eq!(files.scan(), "-c2");
}

#[test]
fn a_directory_that_is_not_there_is_empty() {
    let mut files = Files::new();
    files.write("c2", GOOD);
    assert_eq!(files.scan(), "+c2");
    fs::remove_dir_all(files.dir.path()).unwrap();
    assert_eq!(files.scan(), "-c2");
}

#[test]
fn a_bad_file_disturbs_nobody() {
    let mut files = Files::new();
    files.write("c2", "endpoints: []");
    files.write("C3", GOOD);
    files.write("c4", GOOD);
    assert_eq!(files.scan(), "+c4");
    let problems = files.problems();
    assert!(problems[0].starts_with("C3: \"C3\" is no cluster name"), "{problems:?}");
    assert!(problems[1].starts_with("c2: endpoints: there are none"), "{problems:?}");
    assert_eq!((files.scan().as_str(), files.problems()), ("", problems), "said every time");
    files.write("c2", GOOD);
    assert_eq!(files.scan(), "+c2", "mended");
}

#[test]
fn a_file_that_became_bad_takes_no_connection_down() {
    let mut files = Files::new();
    files.write("c2", GOOD);
    assert_eq!(files.scan(), "+c2");
    files.write("c2", "endpoints: []");
    assert_eq!((files.scan().as_str(), files.problems().len()), ("", 1));
    files.write("c2", GOOD);
    assert_eq!((files.scan().as_str(), files.problems().len()), ("", 0));
    files.write("c2", "");
    assert_eq!((files.scan().as_str(), files.problems().len()), ("", 0), "it is being written");
    files.write("c2", "no configuration any more");
    assert_eq!(files.scan(), "-c2");
}

#[test]
fn a_file_that_cannot_be_read_takes_no_connection_down() {
    let mut files = Files::new();
    let path = files.dir.path().join("c2");
    files.write("c2", GOOD);
    assert_eq!(files.scan(), "+c2");
    let unread = |files: &mut Files, what: &str| {
        assert_eq!(files.scan(), "", "{what}");
        let problems = files.problems();
        assert!(problems.len() == 1 && problems[0].starts_with("c2: ") && problems[0].contains(what), "{problems:?}");
    };
    files.write("c2", &format!("{GOOD}#{}", "x".repeat(64 << 10)));
    unread(&mut files, "longer than 65536 bytes");
    // Root may read everything, but not follow a link in a circle.
    fs::remove_file(&path).unwrap();
    symlink("c2", &path).unwrap();
    unread(&mut files, "make the file readable");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    unread(&mut files, "not a regular file");
    fs::remove_dir(&path).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    unread(&mut files, "not a regular file");
    fs::remove_file(&path).unwrap();
    files.write("c2", GOOD);
    assert_eq!((files.scan().as_str(), files.problems().len()), ("", 0), "the same as before");
    fs::remove_file(&path).unwrap();
    assert_eq!(files.scan(), "-c2");
}

#[test]
fn a_new_file_that_is_too_long_is_named_if_it_is_named_as_a_cluster() {
    let mut files = Files::new();
    let long = "x".repeat(65 << 10);
    files.write("c2", &long);
    files.write("bundle.crt", &long);
    files.write("own", &long);
    assert_eq!(files.scan(), "");
    let problems = files.problems();
    assert!(problems.len() == 1 && problems[0].starts_with("c2: longer than"), "{problems:?}");
}

/// Kubelet projects a Secret so: names link to `..data/name`, and `..data` links to a directory that is swapped.
#[test]
fn kubelets_swap_is_seen_through() {
    let Files { dir, mut directory } = Files::new();
    let at = |name: &str| dir.path().join(name);
    for (version, content) in [("..1", GOOD.to_owned()), ("..2", GOOD.to_owned()), ("..3", GOOD.replace("2379", "1"))] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("c2"), content).unwrap();
    }
    symlink("..data/c2", at("c2")).unwrap();
    let swap = |target: &str| {
        symlink(target, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    let mut seen = Vec::new();
    for target in ["..1", "..2", "..3"] {
        swap(target);
        seen.push(directory.scan().unwrap().len());
    }
    assert_eq!(seen, [1, 0, 1]);
}

#[tokio::test]
async fn a_written_file_wakes_the_watch() {
    let files = Files::new();
    let mut watch = Watch::new(files.dir.path());
    let limit = std::time::Duration::from_secs(20);
    for name in ["c2", "c3"] {
        files.write(name, GOOD);
        tokio::time::timeout(limit, watch.changed()).await.expect("inotify is faster than the fallback");
    }
}

#[tokio::test]
async fn a_directory_that_is_made_again_is_watched_again() {
    for moved in [false, true] {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("mesh");
        fs::create_dir(&path).unwrap();
        let mut watch = Watch::new(&path);
        if moved {
            fs::rename(&path, parent.path().join("old")).unwrap();
        } else {
            fs::remove_dir(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        // Until all that has happened so far is known.
        while tokio::time::timeout(std::time::Duration::from_millis(500), watch.changed()).await.is_ok() {}
        fs::write(path.join("c2"), GOOD).unwrap();
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, watch.changed()).await.expect("inotify is faster than the fallback");
    }
}
