//! Every kind of bad input has its code, names its field and says what to do.

use super::*;

fn environment() -> Environment {
    Environment {
        command: "ADD".into(),
        container_id: "0123abc".into(),
        netns: "/run/netns/x".into(),
        ifname: "eth0".into(),
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;OTHER=".into(),
    }
}

#[test]
fn a_good_environment_is_read() {
    let e = environment();
    assert_eq!(e.command(), Ok(Command::Add));
    assert_eq!(e.attachment().unwrap().ifname, "eth0");
    let pod = e.pod().unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_deref()), ("default", "web-0", Some("u-1")));
    assert_eq!(Environment { args: String::new(), ..environment() }.pod().unwrap(), PodRef::default());
}

#[test]
fn bad_variables_are_named() {
    type Spoil = fn(&mut Environment);
    let cases: &[(Spoil, &str)] = &[
        (|e| e.command = String::new(), "CNI_COMMAND is not set"),
        (|e| e.command = "add".into(), "CNI_COMMAND \"add\" is unknown"),
        (|e| e.container_id = String::new(), "CNI_CONTAINERID is not set"),
        (|e| e.container_id = "../../etc".into(), "CNI_CONTAINERID \"../../etc\" is not a container id"),
        (|e| e.container_id = "-x".into(), "CNI_CONTAINERID"),
        (|e| e.ifname = String::new(), "CNI_IFNAME is not set"),
        (|e| e.ifname = "sixteen-bytes-xx".into(), "CNI_IFNAME \"sixteen-bytes-xx\" is not"),
        (|e| e.ifname = "..".into(), "CNI_IFNAME"),
        (|e| e.ifname = "a/b".into(), "CNI_IFNAME"),
        (|e| e.ifname = "a b".into(), "CNI_IFNAME"),
        (|e| e.netns = String::new(), "CNI_NETNS is not set"),
        (|e| e.args = "K8S_POD_NAME".into(), "CNI_ARGS has \"K8S_POD_NAME\" without"),
        (|e| e.args = "K8S_POD_NAME=x".into(), "CNI_ARGS has one of"),
    ];
    for (spoil, expected) in cases {
        let mut e = environment();
        spoil(&mut e);
        let all = [e.command().err(), e.attachment().err(), e.netns().err(), e.pod().err()];
        let errors: Vec<CniError> = all.into_iter().flatten().collect();
        assert_eq!(errors.len(), 1, "{expected}");
        assert_eq!(errors[0].code, code::INVALID_ENVIRONMENT);
        assert!(errors[0].message.contains(expected), "{:?}", errors[0]);
        assert!(!errors[0].details.is_empty(), "{expected} has no remedy");
    }
}

#[test]
fn a_good_configuration_is_read() {
    let c = Config::parse(
        br#"{"cniVersion":"1.0.0","name":"causeway","type":"causeway-cni","agentSocket":"/run/x/agent.sock",
            "logFile":"/var/log/x","mtu":9000,"runtimeConfig":{},"cni.dev/attachments":1,"strangeVendorThing":{},"mac":"x"}"#,
    )
    .unwrap();
    assert_eq!(c.version, Version::V1_0_0);
    assert_eq!(c.deletion_queue, PathBuf::from("/run/x/deletions"));
    assert_eq!((c.mtu, c.log_file), (Some(9000), Some("/var/log/x".into())));
    let plain = Config::parse(br#"{"cniVersion":"0.3.1","name":"x","type":"y","mtu":0,"ipam":{}}"#).unwrap();
    assert_eq!((plain.agent_socket, plain.mtu), (causeway_api::DEFAULT_SOCKET.into(), None));
    let queue = Config::parse(br#"{"cniVersion":"1.1.0","name":"x","deletionQueue":"/q"}"#).unwrap();
    assert_eq!(queue.deletion_queue, PathBuf::from("/q"));
}

#[test]
fn bad_configurations_are_named() {
    let cases: &[(&str, u32, &str)] = &[
        ("", code::DECODE, "not JSON"),
        ("{", code::DECODE, "not JSON"),
        ("[]", code::DECODE, "not a JSON object"),
        ("{}", code::INCOMPATIBLE_VERSION, "\"cniVersion\" is missing"),
        (r#"{"cniVersion":"0.2.0","name":"x"}"#, code::INCOMPATIBLE_VERSION, "\"0.2.0\" is not supported"),
        (r#"{"cniVersion":"9.0.0","name":"x"}"#, code::INCOMPATIBLE_VERSION, "\"9.0.0\" is not supported"),
        (r#"{"cniVersion":1,"name":"x"}"#, code::INVALID_CONFIG, "\"cniVersion\" is 1, not a string"),
        (r#"{"cniVersion":"1.0.0"}"#, code::INVALID_CONFIG, "\"name\" is missing"),
        (r#"{"cniVersion":"1.0.0","name":"a b"}"#, code::INVALID_CONFIG, "\"a b\" is not a network's name"),
        (r#"{"cniVersion":"1.0.0","name":"x","agentSocket":7}"#, code::INVALID_CONFIG, "\"agentSocket\" is 7"),
        (r#"{"cniVersion":"1.0.0","name":"x","agentSocket":"run/x"}"#, code::INVALID_CONFIG, "relative path"),
        (r#"{"cniVersion":"1.0.0","name":"x","agentSoket":"/x"}"#, code::INVALID_CONFIG, "\"agentSoket\" is unknown"),
        (r#"{"cniVersion":"1.0.0","name":"x","MTU":1500}"#, code::INVALID_CONFIG, "\"MTU\" is unknown"),
        (r#"{"cniVersion":"1.0.0","name":"x","mtu":100}"#, code::INVALID_CONFIG, "\"mtu\" is 100"),
        (r#"{"cniVersion":"1.0.0","name":"x","mtu":"9000"}"#, code::INVALID_CONFIG, "\"mtu\" is \"9000\""),
        (
            r#"{"cniVersion":"1.0.0","name":"x","ipam":{"type":"host-local"}}"#,
            code::UNSUPPORTED_FIELD,
            r#""ipam": {"type":"host-local"}"#,
        ),
        (
            r#"{"cniVersion":"1.1.0","name":"x","cni.dev/valid-attachments":{}}"#,
            code::INVALID_CONFIG,
            "\"cni.dev/valid-attachments\" is not a list",
        ),
        (
            r#"{"cniVersion":"1.1.0","name":"x","cni.dev/valid-attachments":[{"containerID":"a"}]}"#,
            code::INVALID_CONFIG,
            "\"cni.dev/valid-attachments[0].ifname\" is missing",
        ),
    ];
    for (text, code, expected) in cases {
        let error = Config::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.code, *code, "{text}: {error:?}");
        assert!(error.message.contains(expected), "{error:?}\nhas not\n{expected}");
    }
}

#[test]
fn previous_results_are_read() {
    let config = |prev: &str| {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"x","prevResult":{prev}}}"#);
        Config::parse(text.as_bytes()).unwrap().prev_ips()
    };
    assert_eq!(config(r#"{"ips":[{"address":"10.1.1.2/32"}]}"#).unwrap(), ["10.1.1.2/32".parse::<IpNet>().unwrap()]);
    assert_eq!(config("{}").unwrap(), []);
    for (prev, expected) in [
        ("null", "\"prevResult\" is missing"),
        (r#"{"ips":1}"#, "\"prevResult.ips\" is not a list"),
        (r#"{"ips":[{}]}"#, "\"prevResult.ips[0].address\" is missing"),
        (r#"{"ips":[{"address":"x"}]}"#, "\"x\" is not an address"),
    ] {
        let error = config(prev).unwrap_err();
        assert!(error.code == code::INVALID_CONFIG && error.message.contains(expected), "{error:?}");
    }
}

#[test]
fn arbitrary_bytes_are_refused_and_nothing_worse() {
    let good = br#"{"cniVersion":"1.1.0","name":"x","mtu":1500,"prevResult":{"ips":[{"address":"10.1.1.2/32"}]}}"#;
    for cut in 0..good.len() {
        assert!(Config::parse(&good[..cut]).is_err(), "{cut}");
        let mut spoilt = good.to_vec();
        spoilt[cut] = 0xff;
        // Either it is refused, or the byte stood where nothing is read.
        let _ = Config::parse(&spoilt).and_then(|config| config.prev_ips());
    }
}
