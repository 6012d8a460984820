use super::*;

/// Returns the configuration, or all faults.
fn checked(args: &Args, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let environment = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| OsString::from(value))
    };
    let mut faults = Faults::default();
    let config = args.check(&environment, &mut faults);
    let faults: Vec<String> = faults.lines().map(str::to_owned).collect();
    config.filter(|_| faults.is_empty()).ok_or(faults)
}

fn faults(args: &Args, variables: &[(&str, &str)]) -> String {
    checked(args, variables).err().unwrap_or_default().join("\n")
}

fn with_endpoint(url: &str) -> Args {
    Args {
        register_endpoints: Some(url.to_owned()),
        ..Args::default()
    }
}

#[test]
fn the_defaults_are_those_of_go_stolon() {
    // cli 15
    let config = checked(&Args::default(), &[]).ok().unwrap();
    assert_eq!(config.consul.server.to_string(), "http://127.0.0.1:8500");
    assert_eq!(config.sleep_interval, Duration::from_secs(10));
    let expected = ServiceOptions {
        register_master: false,
        master_tags: vec!["master".to_owned()],
        standby_tags: vec!["slave".to_owned()],
    };
    assert_eq!(config.services, expected);
}

#[test]
fn tags_are_split_at_commas_and_not_trimmed() {
    // cli 15.2
    let args = Args {
        tag_master_as: Some("a, b,,c".to_owned()),
        tag_slave_as: Some(String::new()),
        ..Args::default()
    };
    let services = checked(&args, &[]).ok().unwrap().services;
    assert_eq!(services.master_tags, ["a", " b", "", "c"]);
    assert_eq!(services.standby_tags, [""]);
}

#[test]
fn scheme_host_and_port_of_the_url_count() {
    for (url, shown, host, port) in [
        ("http://10.0.0.1:8500", "http://10.0.0.1:8500", "10.0.0.1", 8500),
        ("HTTP://consul/ui?x", "http://consul", "consul", 80),
        ("http://[::1]:8501/", "http://[::1]:8501", "::1", 8501),
    ] {
        let server = checked(&with_endpoint(url), &[]).ok().unwrap().consul.server;
        assert_eq!(
            (server.to_string().as_str(), &server.address),
            (shown, &(host.to_owned(), port))
        );
    }
    assert_eq!(
        parse_endpoint("https://consul").unwrap().address,
        ("consul".to_owned(), 443)
    );
}

#[test]
fn what_cannot_be_an_agent_is_refused_with_the_remedy() {
    // cli 15.1
    for (url, words) in [
        (
            "http://a:1,http://b:2",
            "consul does not support multiple endpoints: http://a:1,http://b:2",
        ),
        ("127.0.0.1:8500", "the scheme is missing"),
        ("unix:///run/consul.sock", "neither http nor https"),
        ("http://", "invalid"),
        ("http://:8500", "invalid --register-endpoints"),
        ("http://a:0", "not a number from 1 to 65535"),
        ("http://a:65536", "invalid --register-endpoints"),
        ("http://a:x", "invalid --register-endpoints"),
        ("http://a b:1", "invalid --register-endpoints"),
        ("http://300.1.1.1:8500", "not an IPv4 address"),
        ("http://user:secret@a:1", "CONSUL_HTTP_AUTH"),
    ] {
        let fault = faults(&with_endpoint(url), &[]);
        assert!(fault.contains(words) && !fault.contains("secret"), "{url}: {fault}");
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let args = Args {
        register_backend: Some("etcd".to_owned()),
        sleep_interval: Some(GoInt(0)),
        ..with_endpoint("ftp://a")
    };
    let variables = [("CONSUL_HTTP_TOKEN", "sec ret"), ("CONSUL_HTTP_AUTH", "")];
    let lines = checked(&args, &variables).err().unwrap();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(
        lines[0],
        "unknown register backend: \"etcd\": use --register-backend=consul"
    );
    assert!(
        lines[2].contains("CONSUL_HTTP_TOKEN") && !lines[2].contains("sec ret"),
        "{lines:?}"
    );
    for seconds in [-1, 86_401, i64::MAX] {
        let args = Args {
            sleep_interval: Some(GoInt(seconds)),
            ..Args::default()
        };
        assert!(faults(&args, &[]).contains("--sleep-interval"), "{seconds}");
    }
}

#[test]
fn a_token_file_wins_over_a_token_and_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "first\n").unwrap();
    let file = path.to_str().unwrap();
    let variables = [("CONSUL_HTTP_TOKEN", "other"), ("CONSUL_HTTP_TOKEN_FILE", file)];
    let token = checked(&Args::default(), &variables).ok().unwrap().consul.token;
    assert_eq!(token.header().unwrap().unwrap(), "first");
    std::fs::write(&path, "second").unwrap();
    let header = token.header().unwrap().unwrap();
    assert_eq!(header, "second");
    assert!(!format!("{header:?}").contains("second"));
    for text in ["", "\n", "two words", "line\nline", "ü"] {
        std::fs::write(&path, text).unwrap();
        let fault = faults(&Args::default(), &variables);
        assert!(fault.contains("CONSUL_HTTP_TOKEN_FILE"), "{text:?}: {fault}");
    }
    let missing = faults(&Args::default(), &[("CONSUL_HTTP_TOKEN_FILE", "/nonexistent/token")]);
    assert!(missing.contains("/nonexistent/token"), "{missing}");
}

#[test]
fn credentials_are_encoded_and_not_shown() {
    let config = checked(&Args::default(), &[("CONSUL_HTTP_AUTH", "user:pass")])
        .ok()
        .unwrap();
    let header = config.consul.authorization.unwrap();
    assert_eq!(header, "Basic dXNlcjpwYXNz");
    assert!(header.is_sensitive());
}

#[test]
fn files_for_tls_come_from_options_then_from_variables() {
    let https = |args: Args| Args {
        register_endpoints: Some("https://consul:8501".to_owned()),
        ..args
    };
    let missing = [("CONSUL_CACERT", "/nonexistent/env.pem")];
    assert!(faults(&https(Args::default()), &missing).contains("/nonexistent/env.pem"));
    let option = Args {
        register_ca_file: Some("/nonexistent/option.pem".into()),
        ..Args::default()
    };
    assert!(faults(&https(option), &missing).contains("/nonexistent/option.pem"));
    // With http nothing of it is read.
    assert!(checked(&Args::default(), &missing).is_ok());
    let alone = Args {
        register_cert_file: Some("/nonexistent/cert.pem".into()),
        ..Args::default()
    };
    assert_eq!(
        faults(&https(alone), &[]),
        "--register-cert-file and --register-key must be given together"
    );
    for (variable, value, words) in [
        ("CONSUL_CAPATH", "/etc/ssl", "--register-ca-file"),
        ("CONSUL_HTTP_SSL_VERIFY", "maybe", "CONSUL_HTTP_SSL_VERIFY"),
        ("CONSUL_TLS_SERVER_NAME", "no name", "CONSUL_TLS_SERVER_NAME"),
    ] {
        let fault = faults(&https(Args::default()), &[(variable, value)]);
        assert!(fault.contains(words), "{fault}");
    }
    assert!(checked(&https(Args::default()), &[("CONSUL_HTTP_SSL_VERIFY", "false")]).is_ok());
}
