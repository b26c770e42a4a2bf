use super::*;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop"}, "spec": spec,
    }))
    .unwrap()
}

#[test]
fn a_pod_knows_its_own_name() {
    // Cut to 63 characters, it would end with a hyphen.
    let long = format!("{}-x", "n".repeat(62));
    let full = "db.sub.shop.svc.cluster.local";
    for (spec, hostname_is, names_are) in [
        (json!({}), "web-1", &["web-1"][..]),
        (json!({"hostname": "db"}), "db", &["db"]),
        (json!({"subdomain": "sub"}), "web-1", &["web-1.sub.shop.svc.cluster.local", "web-1"]),
        (json!({"hostname": "db", "subdomain": "sub"}), "db", &[full, "db"]),
        (
            json!({"hostname": "db", "subdomain": "sub", "setHostnameAsFQDN": true}),
            full,
            &[full, "db"],
        ),
        (json!({"setHostnameAsFQDN": true}), "web-1", &["web-1"]),
        (
            json!({"hostname": "db", "subdomain": "sub", "hostnameOverride": "Other.test"}),
            "Other.test",
            &["Other.test"],
        ),
    ] {
        let pod = pod(spec);
        assert_eq!(hostname(&pod), hostname_is);
        assert_eq!(problem(&pod), None);
        assert_eq!(names(&pod), names_are);
    }
    let mut named = pod(json!({}));
    named.metadata.name = Some(long);
    assert_eq!(hostname(&named).len(), 62);
    let wide =
        pod(json!({"hostname": "x".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true}));
    assert!(problem(&wide).is_some_and(|p| p.contains("is too long (64 characters is the max")));
}

#[test]
fn host_aliases_are_handed_on() {
    let pod = pod(json!({"hostAliases": [
        {"ip": "192.0.2.1", "hostnames": ["a.test", "b.test"]}, {"ip": "2001:db8::1"}]}));
    let found = aliases(&pod);
    assert_eq!(found[0].names, ["a.test", "b.test"]);
    assert_eq!(found[1].ip, "2001:db8::1".parse::<IpAddr>().unwrap());
}

#[test]
fn a_resolver_is_told_what_the_pod_adds() {
    let machine =
        "# made by hand\nnameserver 192.0.2.53\nsearch a.test b.test\noptions ndots:1 edns0\n";
    let config = json!({"nameservers": ["192.0.2.99", "192.0.2.53"], "searches": ["c.test"],
        "options": [{"name": "ndots", "value": "3"}, {"name": "rotate"}]});
    let texts = |list: &[&str]| list.iter().map(|t| t.to_string()).collect::<Vec<_>>();
    for (spec, expected) in [
        (json!({}), None),
        (json!({"dnsPolicy": "Default"}), None),
        (
            json!({"dnsPolicy": "ClusterFirst", "dnsConfig": config}),
            Some((
                texts(&["192.0.2.53", "192.0.2.99"]),
                texts(&["a.test", "b.test", "c.test"]),
                texts(&["edns0", "ndots:3", "rotate"]),
            )),
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": config}),
            Some((
                texts(&["192.0.2.99", "192.0.2.53"]),
                texts(&["c.test"]),
                texts(&["ndots:3", "rotate"]),
            )),
        ),
    ] {
        let said = spec.to_string();
        let found = dns(&pod(spec), || machine.to_owned(), None);
        let found = found
            .map(|d| (d.servers.iter().map(|s| s.to_string()).collect(), d.searches, d.options));
        assert_eq!(found, expected, "{said}");
    }
}

#[test]
fn a_resolver_is_told_of_the_clusters_name_server() {
    let machine = || "nameserver 192.0.2.53\nsearch a.test\noptions edns0\n".to_owned();
    let cluster = "10.1.0.1".parse::<IpAddr>().unwrap();
    let searches = "shop.svc.cluster.local svc.cluster.local cluster.local a.test";
    let first = format!("10.1.0.1 | {searches} | ndots:5");
    for (spec, expected) in [
        (json!({}), first.clone()),
        (json!({"dnsPolicy": "ClusterFirst"}), first.clone()),
        (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), first),
        (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), "as the machine".to_owned()),
        (json!({"dnsPolicy": "Default"}), "as the machine".to_owned()),
        (
            json!({"dnsConfig": {"nameservers": ["192.0.2.99"], "options": [{"name": "ndots", "value": "2"}]}}),
            format!("10.1.0.1 192.0.2.99 | {searches} | ndots:2"),
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.99"]}}),
            "192.0.2.99 |  | ".to_owned(),
        ),
    ] {
        let said = spec.to_string();
        let found = dns(&pod(spec), machine, Some(cluster)).map(|dns| {
            let servers: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
            [servers.join(" "), dns.searches.join(" "), dns.options.join(" ")].join(" | ")
        });
        assert_eq!(found.unwrap_or_else(|| "as the machine".to_owned()), expected, "{said}");
    }
}
