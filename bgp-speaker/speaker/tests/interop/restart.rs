//! Graceful restart: the stand-alone binary is killed and started again, and FRR keeps its routes all the while.
use std::process::{Child, Command, Stdio};

use crate::frr::Frr;
use crate::net::{Net, OUR_V4, PEER_V4, eventually};
use crate::ours::{OUR_ASN, PEER_ASN};

const SPEAKER: &str = env!("CARGO_BIN_EXE_bgp-speaker");

/// Our binary, killed with the test.
struct Process(Child);

impl Process {
    fn start(net: &Net, extra: &[&str]) -> Self {
        let config = net.file(
            "speaker.toml",
            &format!(
                "[[instance]]\nname = \"rack\"\nlocal-asn = {OUR_ASN}\nrouter-id = \"{OUR_V4}\"\n\
                 [[instance.peer]]\nname = \"tor\"\naddress = \"{PEER_V4}\"\nasn = {PEER_ASN}\nconnect-retry-s = 2\n\
                 hold-time-s = 9\ngraceful-restart-s = 60\n\
                 [[instance.route]]\nprefix = \"192.0.2.1/32\"\n[[instance.route]]\nprefix = \"10.1.1.0/24\"\n\
                 [[instance.route]]\nprefix = \"2001:db8::1/128\"\n"
            ),
        );
        let child = Command::new(SPEAKER)
            .arg("--config")
            .arg(config)
            .args(extra)
            .stdin(Stdio::null())
            .spawn()
            .expect("starting our own binary");
        Self(child)
    }

    fn kill(mut self) {
        self.0.kill().expect("killing our own process");
        self.0.wait().expect("its end");
    }
}

impl Process {
    fn terminate(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal to our own process");
        assert!(self.0.wait().expect("its end").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killed already, or the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const V4: [&str; 2] = ["10.1.1.0/24", "192.0.2.1/32"];
const V6: [&str; 1] = ["2001:db8::1/128"];

fn has_all(frr: &Frr) -> Result<(), String> {
    for (family, expected) in [("ipv4", V4.as_slice()), ("ipv6", V6.as_slice())] {
        let found = frr.prefixes(family)?;
        if !found.iter().eq(expected) {
            return Err(format!("{family}: {found:?}"));
        }
    }
    Ok(())
}

fn session_state(frr: &Frr) -> Result<String, String> {
    let neighbor = frr.json(&format!("show bgp neighbors {OUR_V4} json"))?;
    Ok(neighbor[OUR_V4]["bgpState"].as_str().unwrap_or_default().to_owned())
}

fn stale(frr: &Frr) -> Result<bool, String> {
    let table = frr.json("show bgp ipv4 unicast json")?;
    Ok(table.to_string().contains("\"stale\":true"))
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn a_killed_speaker_comes_back_and_no_route_is_ever_gone() {
    let net = Net::enter();
    let frr = Frr::start(&net, "");
    eventually("FRR answers", || frr.command("debug bgp updates in")).await;
    let first = Process::start(&net, &[]);
    eventually("all routes at FRR", || has_all(&frr)).await;
    first.kill();
    eventually("FRR sees the end of the session", || match session_state(&frr)?.as_str() {
        "Established" => Err("still established".to_owned()),
        _ => Ok(()),
    })
    .await;
    has_all(&frr).expect("FRR keeps the routes of a restarting peer");
    eventually("FRR marks the routes stale", || stale(&frr)?.then_some(()).ok_or_else(|| "not stale".to_owned())).await;

    let _second = Process::start(&net, &["--restarting", "--forwarding-preserved"]);
    eventually("the session is back and the routes are fresh", || {
        has_all(&frr).unwrap_or_else(|gone| panic!("a route was gone during the restart: {gone}"));
        match (session_state(&frr)?.as_str(), stale(&frr)?) {
            ("Established", false) => Ok(()),
            (state, stale) => Err(format!("{state}, stale: {stale}")),
        }
    })
    .await;
    has_all(&frr).expect("and still has them afterwards");
    let log = std::fs::read_to_string(net.folder.path().join("bgpd.log")).unwrap();
    assert!(log.contains("192.0.2.1/32"), "updates are not in FRR's log, so it cannot show withdrawals");
    let withdrawn: Vec<&str> = log.lines().filter(|line| line.contains("withdrawn")).collect();
    assert!(withdrawn.is_empty(), "FRR saw withdrawals: {withdrawn:#?}");
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn an_administrative_end_takes_the_routes_away_at_once() {
    let net = Net::enter();
    let frr = Frr::start(&net, "");
    let process = Process::start(&net, &[]);
    eventually("all routes at FRR", || has_all(&frr)).await;
    process.terminate();
    frr.until_has("ipv4", &[]).await;
    frr.until_has("ipv6", &[]).await;
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn an_end_for_a_restart_keeps_the_routes() {
    let net = Net::enter();
    let frr = Frr::start(&net, "");
    let process = Process::start(&net, &["--on-stop", "restart"]);
    eventually("all routes at FRR", || has_all(&frr)).await;
    process.terminate();
    eventually("FRR marks the routes stale", || stale(&frr)?.then_some(()).ok_or_else(|| "not stale".to_owned())).await;
    has_all(&frr).expect("FRR keeps the routes of a speaker that went for a restart");
}
