use super::*;

fn service(number: u32, revision: u64, port: u16) -> Arc<Object> {
    let tree = json!({
        "metadata": {
            "name": format!("s{number}"),
            "namespace": "default",
            "uid": format!("u{number}"),
            "resourceVersion": revision.to_string(),
        },
        "spec": {
            "clusterIPs": [Ipv4Addr::from(0x0a00_0000 + number).to_string()],
            "ports": [{"port": 80, "nodePort": port}],
        },
    });
    Arc::new(Object::from_json(&kinds::SERVICE, tree.to_string().into()).expect("a Service"))
}

/// Each creation read all Services there were, so that five thousand took minutes: what was read once is not read again.
#[test]
fn services_are_read_once_for_each_change() {
    let mut taken = Taken::default();
    let mut services = Vec::new();
    let mut read = 0;
    for number in 0..100 {
        services.push(service(number, 1, 30000 + number as u16));
        read += taken.follow(&services);
    }
    assert_eq!(read, 100, "created one after the other");
    assert_eq!(taken.follow(&services), 0, "nothing changed");
    assert!(taken.has(&port_key(30007)) && taken.has(&address_key(Ipv4Addr::new(10, 0, 0, 7))));

    // What they hold is what they held last.
    services[7] = service(7, 2, 31000);
    let gone = services.remove(8);
    assert_eq!(taken.follow(&services), 1);
    assert!(taken.has(&port_key(31000)) && !taken.has(&port_key(30007)));
    assert!(!taken.has(&port_key(30008)) && !taken.has(&address_key(Ipv4Addr::new(10, 0, 0, 8))));
    services.push(gone);
    assert_eq!(taken.follow(&services), 1);
    assert!(taken.has(&port_key(30008)));
}
