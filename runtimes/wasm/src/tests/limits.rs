use std::net::{IpAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use coracle_sandbox::*;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::crafted::{caller, crafted, dialer, opener};
use super::fixture::*;

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn loops_do_not_harm_neighbours() {
    let host = TestHost::start().await;
    let busy = host.serve("busy", example("probe-http")).await;
    let victim = host.serve("victim", example("hello-v1")).await;
    let rate = async || {
        let begun = Instant::now();
        let clients = (0..8).map(|_| {
            tokio::spawn(async move {
                let mut connection = Connection::open(victim).await;
                let mut answered = 0;
                while begun.elapsed() < Duration::from_secs(2) {
                    assert_eq!(connection.get("/health").await.unwrap().0, 200);
                    answered += 1;
                }
                answered
            })
        });
        let mut all = 0;
        for client in clients.collect::<Vec<_>>() {
            all += client.await.unwrap();
        }
        all
    };
    rate().await;
    let alone = rate().await;
    let loops: Vec<_> = (0..8)
        .map(|_| tokio::spawn(async move { Connection::open(busy).await.get("/busy").await }))
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let beside = rate().await;
    assert!(beside * 2 > alone, "{beside} requests beside loops, {alone} alone");
    host.client.stop_container("id-busy", "app", Stop { grace_seconds: 0 }).await.unwrap();
    for task in loops {
        let broken = task.await.unwrap();
        assert!(broken.is_err() || broken.is_ok_and(|(status, ..)| status == 503));
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_is_limited() {
    let host = TestHost::start().await;
    // It requests as much, which others leave it: the limit is to be what holds it.
    let address = host
        .serve_with("busy", example("probe-http"), |app| {
            app.cpu_limit = Some(200);
            app.cpu_weight = 200;
        })
        .await;
    let spinning = (0..3)
        .map(|_| tokio::spawn(async move { Connection::open(address).await.get("/busy").await }));
    let spinning: Vec<_> = spinning.collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = host.client.sandbox("id-busy").await.unwrap();
    let used = status.containers[0].usage.cpu_nanoseconds / 1_000_000;
    // 200m of two seconds, and what could be saved up before.
    assert!((200..=600).contains(&used), "{used} ms used");
    host.client.delete_sandbox("id-busy").await.unwrap();
    drop(spinning);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_limited_over_all_instances() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("probe", example("probe-http"), |app| app.memory_limit = Some(48 * MIB))
        .await;
    let victim = host.serve("victim", example("hello-v1")).await;
    assert_eq!(get(address, "/grow?mib=30&ms=1").await.0, 200);
    assert_eq!(get(address, "/grow?mib=30&ms=1").await.0, 200, "memory was not given back");

    // Two of them do not fit at once: they wait for each other.
    let clients: Vec<_> = (0..12)
        .map(|_| tokio::spawn(async move { get(address, "/grow?mib=30&ms=20").await }))
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap().0, 200);
    }
    // One that does not fit alone is the container's end, and nobody else's.
    let (status, body) = get(address, "/grow?mib=60").await;
    assert_eq!((status, body.as_str()), (500, "the component failed\n"));
    let (code, reason, message) = host.exit("probe").await;
    assert_eq!((code, reason), (137, ExitReason::OOMKilled));
    assert!(message.contains("over the limit of 50331648"), "{message}");
    assert_eq!(get(victim, "/health").await.0, 200);

    let sandbox = host.client.sandbox("id-probe").await.unwrap().spec;
    let next = ContainerSpec { attempt: 1, ..host.app(&sandbox, example("probe-http")) };
    host.client.start_container(&sandbox.id, &next).await.unwrap();
    assert_eq!(get(address, "/health").await.0, 200);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_would_fit_alone_do_not_kill_their_container() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("probe", example("probe-http"), |app| app.memory_limit = Some(64 * MIB))
        .await;
    // Nothing is known of their need yet: some may come too many, and are told to try again.
    let clients: Vec<_> = (0..8)
        .map(|_| tokio::spawn(async move { get(address, "/grow?mib=25&ms=300").await }))
        .collect();
    let mut served = 0;
    for client in clients {
        match client.await.unwrap().0 {
            200 => served += 1,
            status => assert_eq!(status, 503),
        }
    }
    assert!(served >= 1);
    let state = host.client.sandbox("id-probe").await.unwrap().containers[0].state.clone();
    assert!(!state.is_exited(), "{state:?}");
    // By now it is known.
    let clients: Vec<_> = (0..8)
        .map(|_| tokio::spawn(async move { get(address, "/grow?mib=25&ms=50").await }))
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap().0, 200);
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_all_slots_leaves_some_to_others() {
    // A host of 400 slots, and clients that want 1,500 of them.
    let host = TestHost::start().await;
    let mut slow = Vec::new();
    for name in ["slow-a", "slow-b", "slow-c"] {
        slow.push(host.serve(name, example("probe-http")).await);
    }
    let victim = host.serve("victim", example("hello-v1")).await;
    let clients: Vec<_> = (0..1500)
        .map(|n| {
            let address = slow[n % slow.len()];
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                connection.get("/sleep?ms=60000").await.map(|(status, ..)| status)
            })
        })
        .collect();
    let taken = async || {
        let all = host.client.sandboxes().await.unwrap();
        all.iter().flat_map(|s| &s.containers).map(|c| c.usage.active_requests).sum::<u64>()
    };
    let begun = Instant::now();
    while taken().await < 390 && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut connection = Connection::open(victim).await;
    for _ in 0..50 {
        assert_eq!(connection.get("/health").await.unwrap().0, 200);
    }
    for name in ["slow-a", "slow-b", "slow-c"] {
        host.client.delete_sandbox(&format!("id-{name}")).await.unwrap();
    }
    for client in clients {
        let answer = client.await.unwrap();
        assert!(answer.is_err() || answer.is_ok_and(|status| status == 503));
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_outgrows_the_usual_slot_gets_a_larger_one() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    assert_eq!(get(address, "/grow?mib=300").await.0, 500);
    assert_eq!(host.exit("probe").await.1, ExitReason::OOMKilled);
    let sandbox = host.client.sandbox("id-probe").await.unwrap().spec;
    let next = ContainerSpec { attempt: 1, ..host.app(&sandbox, example("probe-http")) };
    host.client.start_container(&sandbox.id, &next).await.unwrap();
    assert_eq!(get(address, "/grow?mib=300").await.0, 200);

    let roomy = host
        .serve_with("roomy", example("probe-http"), |app| app.memory_limit = Some(600 * MIB))
        .await;
    assert_eq!(get(roomy, "/grow?mib=300").await.0, 200);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_time_out() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("probe", example("probe-http"), |app| app.http.timeout_seconds = Some(1))
        .await;
    for path in ["/sleep?ms=30000", "/busy"] {
        let begun = Instant::now();
        assert_eq!(get(address, path).await.0, 504, "{path}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{path}");
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_wait_and_are_answered() {
    let host = TestHost::start().await;
    let address = host.serve("probe", example("probe-http")).await;
    let clients: Vec<_> = (0..400)
        .map(|_| tokio::spawn(async move { get(address, "/sleep?ms=100").await.0 }))
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), 200);
    }
    host.end().await;
}

/// How many requests a neighbour is answered in half a second.
async fn answered(neighbour: std::net::SocketAddr) -> u32 {
    let begun = Instant::now();
    let mut connection = Connection::open(neighbour).await;
    let mut count = 0;
    while begun.elapsed() < Duration::from_millis(500) {
        assert_eq!(connection.get("/health").await.unwrap().0, 200);
        count += 1;
    }
    count
}

/// Descriptors of this process that refer to a folder.
fn descriptors(of: &std::path::Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == of)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_counted_and_given_back() {
    crate::confine::raise_files();
    let host = TestHost::start().await;
    let neighbour = host.serve("neighbour", example("hello-v1")).await;
    let alone = answered(neighbour).await;
    let volume = host.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let image = opener(&host, "opener", 2000);
    for name in ["one", "two"] {
        let sandbox = host.sandbox(name).await;
        let mut app = host.app(&sandbox, image.clone());
        app.ports = Vec::new();
        app.mounts.push(Mount {
            host_path: volume.clone(),
            guest_path: "/data".into(),
            ..Mount::default()
        });
        host.client.start_container(&sandbox.id, &app).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let most = descriptors(&volume);
    let beside = answered(neighbour).await;
    assert!((32..=2 * 1024).contains(&most), "{most} files are open");
    assert!(beside * 4 > alone, "{beside} requests beside them, {alone} alone");
    for name in ["one", "two"] {
        assert_eq!(host.exit(name).await.0, 0, "{}", host.log(name));
    }
    let end = Instant::now() + Duration::from_secs(10);
    while descriptors(&volume) > 0 {
        assert!(Instant::now() < end, "{} files are open still", descriptors(&volume));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    host.end().await;
}

/// Connections that a container may have.
const MOST: usize = 1024;
/// The same, and some whose end the server has not heard of when the next come.
const MOST_SEEN: usize = MOST + 64;

/// A server that takes connections and says nothing.
struct Mute {
    address: SocketAddrV4,
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Mute {
    async fn start() -> Mute {
        let IpAddr::V4(ip) = free_ip() else { panic!("an IPv4 address") };
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = SocketAddrV4::new(ip, listener.local_addr().unwrap().port());
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mute = Mute { address, open: open.clone(), most: most.clone() };
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                let open = open.clone();
                tokio::spawn(async move {
                    let mut heard = [0; 1024];
                    while stream.read(&mut heard).await.is_ok_and(|count| count > 0) {}
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        mute
    }
}

/// By requests that nobody answers, and by sockets: connections without end are a container's own trouble.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_and_given_back() {
    crate::confine::raise_files();
    let host = TestHost::start().await;
    let neighbour = host.serve("neighbour", example("hello-v1")).await;
    let alone = answered(neighbour).await;
    let (asked, dialed) = (Mute::start().await, Mute::start().await);
    // Guests reach nobody else on this machine's own addresses.
    let backends = vec![asked.address.into(), dialed.address.into()];
    let mute = ServiceRoute {
        name: "mute".into(),
        namespace: "test".into(),
        ports: vec![PortRoute { port: 80, backends, ..Default::default() }],
        ..Default::default()
    };
    let routes = Routes { services: vec![mute], ..Default::default() };
    host.client.put_routes(&routes).await.unwrap();
    let caller = host.serve("caller", caller(&host, "caller", asked.address.into())).await;
    let calling = tokio::spawn(async move { Connection::open(caller).await.get("/").await });
    let sandbox = host.sandbox("dialer").await;
    let mut app = host.app(&sandbox, dialer(&host, "dialer", dialed.address, 2000));
    app.ports = Vec::new();
    host.client.start_container(&sandbox.id, &app).await.unwrap();

    tokio::time::sleep(Duration::from_millis(500)).await;
    let beside = answered(neighbour).await;
    // Only who asks goes on to make new ones while others end.
    for (server, most, limit) in [("asked", &asked.most, MOST_SEEN), ("dialed", &dialed.most, MOST)]
    {
        let most = most.load(SeqCst);
        assert!(
            (16..=limit).contains(&most),
            "{most} connections were open: {server}: {}",
            host.log("caller")
        );
    }
    assert!(beside * 4 > alone, "{beside} requests beside them, {alone} alone");
    assert_eq!(host.exit("dialer").await.0, 0, "{}", host.log("dialer"));
    // The other goes on until it has too many of them to wait for.
    let broken = calling.await.unwrap().map_or(0, |(status, ..)| status);
    assert!([0, 500].contains(&broken), "{broken}");
    let end = Instant::now() + Duration::from_secs(10);
    for (server, limit) in [(&asked, MOST_SEEN), (&dialed, MOST)] {
        while server.open.load(SeqCst) > 0 {
            assert!(Instant::now() < end, "{} are open still", server.open.load(SeqCst));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let most = server.most.load(SeqCst);
        assert!(most <= limit, "{most} were open, {limit} are the most");
    }
    assert!(answered(neighbour).await * 4 > alone);
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_memory_too() {
    let host = TestHost::start().await;
    let neighbour = host.serve("neighbour", example("hello-v1")).await;
    let alone = answered(neighbour).await;
    // Instances that ask for a few thousand elements at a time, and keep them. Before the limit of one table's size comes
    // that of memory.
    let grow = "(loop $again (br_if $again (i32.ne (i32.const -1)
        (table.grow $hoard (ref.null func) (i32.const 5000)))))
        (call $nap (i64.const 300)) unreachable";
    let module = format!("{grow}) (table $hoard 1 funcref) (func $unused");
    let image = crafted(&host, "hoarder", &module);
    let address = host.serve_with("hoarder", image, |app| app.memory_limit = Some(160 << 10)).await;
    let asked = tokio::spawn(async move { Connection::open(address).await.get("/").await });
    let beside = answered(neighbour).await;
    // Its container ends with it.
    let broken = asked.await.unwrap().map_or(0, |(status, ..)| status);
    assert!([0, 500].contains(&broken), "{broken}");
    let (code, reason, message) = host.exit("hoarder").await;
    assert_eq!((code, reason), (137, ExitReason::OOMKilled), "{message}");
    assert!(beside * 4 > alone, "{beside} requests beside it, {alone} alone");
    assert!(answered(neighbour).await > 0);
    host.end().await;
}

/// A log whose disk does not answer, here a pipe that nobody reads, holds up whoever writes to it, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stalls_harms_no_neighbour() {
    let host = TestHost::start().await;
    let neighbour = host.serve("neighbour", example("hello-v1")).await;
    let alone = answered(neighbour).await;
    let folder = host.folder.path().join("logs").join("flood");
    std::fs::create_dir_all(&folder).unwrap();
    nix::unistd::mkfifo(&folder.join("0.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let flood = host
        .serve_with("flood", example("probe-http"), |app| app.http.timeout_seconds = Some(2))
        .await;
    // More guests than there are threads to block.
    let floods: Vec<_> = (0..16)
        .map(|_| tokio::spawn(async move { get(flood, "/flood?bytes=1000").await.0 }))
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let beside = answered(neighbour).await;
    assert!(beside * 4 > alone, "{beside} requests beside it, {alone} alone");
    for flood in floods {
        assert_eq!(flood.await.unwrap(), 504);
    }
    // Somebody reads at last, so that the thread that writes comes to its end, and makes no file when the folder is gone.
    let mut options = std::fs::File::options();
    let mut pipe = options.read(true).write(true).open(folder.join("0.log")).unwrap();
    std::thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink()));
    host.client.stop_container("id-flood", "app", Stop { grace_seconds: 0 }).await.unwrap();
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_while_it_runs() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("probe", example("probe-http"), |app| {
            app.memory_limit = Some(64 * MIB);
            app.cpu_limit = Some(100);
            app.cpu_weight = 2000;
        })
        .await;
    let grow = async |mib: u64| {
        Connection::open(address).await.get(&format!("/grow?mib={mib}")).await.map(|a| a.0)
    };
    let more =
        Resources { memory_limit: Some(160 * MIB), cpu_weight: 2000, ..Resources::default() };
    host.client.update_container("id-probe", "app", &more).await.unwrap();
    assert_eq!(grow(80).await.unwrap(), 200);
    // Without a limit it has all that nobody else wants.
    let spinning = tokio::spawn(async move { Connection::open(address).await.get("/busy").await });
    let used = async || host.client.usage().await.unwrap()[0].usage.cpu_nanoseconds / 1_000_000;
    let before = used().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = used().await - before;
    assert!(spent > 300, "{spent} ms used");
    let less = Resources { cpu_limit: Some(50), ..more.clone() };
    host.client.update_container("id-probe", "app", &less).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = used().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spent = used().await - before;
    assert!(spent < 200, "{spent} ms used");

    // The whole Pod's limit holds too, and what is told of it follows.
    let whole = Resources { memory_limit: Some(40 * MIB), cpu_weight: 7, ..Resources::default() };
    host.client.update_sandbox("id-probe", &whole).await.unwrap();
    let status = host.client.sandbox("id-probe").await.unwrap();
    assert_eq!((status.spec.memory_limit, status.spec.cpu_weight), (Some(40 * MIB), 7));
    host.client.put_sandbox(&status.spec).await.unwrap();
    let refused = host
        .client
        .update_sandbox("id-probe", &Resources { memory_limit: Some(1), ..whole })
        .await
        .unwrap_err();
    let said = refused.problem().map(|p| p.message.clone()).unwrap_or_default();
    assert!(said.contains("pod memory limit (1) below current usage"), "{said}");
    // It waits for the one that spins, in vain, or does not fit beside it.
    let refused = grow(80).await.unwrap();
    assert!([500, 503].contains(&refused), "{refused}");
    drop(spinning);
    host.end().await;
}
