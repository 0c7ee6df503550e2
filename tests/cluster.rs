//! Nodes of a cluster for real: the program three times, and nats-server, on loopback. Who sees whom when nodes and
//! engines die, hang and come back, who has the key, and what an idle node costs. Says that it was skipped where there is
//! no nats-server.
#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "real programs are waited for by the clock")]

#[path = "cluster/calls.rs"]
mod calls;
#[path = "cluster/support.rs"]
mod support;

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use support::{Engine, Node, Place, WAIT, free_port, key, measured, signal, skipped, until};

/// Five times the goals.
const SEEN: Duration = Duration::from_secs(5);
const DEAD: Duration = Duration::from_secs(30);
const BACK: Duration = Duration::from_secs(20);

fn three(engine: &str, key: &str) -> [Node; 3] {
    ["a", "b", "c"].map(|name| Node::start(name, engine, key))
}

fn whole(nodes: &[Node]) -> bool {
    nodes.iter().all(|node| node.bus_is_up() && node.sees("alive").len() == nodes.len() - 1)
}

#[test]
fn three_nodes_see_each_other_until_one_is_killed_and_one_says_goodbye() {
    if skipped() {
        return;
    }
    let (engine, place) = (Engine::start(), Place::new());
    let [a, mut b, mut c] = three(&engine.url(), &place.key("key"));
    let took = until(SEEN, "all see all", || {
        a.sees("alive") == ["b", "c"] && b.sees("alive") == ["a", "c"] && c.sees("alive") == ["a", "b"]
    });
    measured("three nodes see each other, from the last one's start text", took);
    let version = Command::new("nats-server").arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap().trim().rsplit('v').next().unwrap().to_owned();
    let line = format!("cluster     default, node c, 3 nodes, engine {} ({version})", engine.url());
    assert!(c.says(&line), "no {line:?} in {}", c.said());
    let view = a.cluster();
    assert_eq!(
        (&view["cluster"], &view["node"]["name"], &view["node"]["state"]),
        (&"default".into(), &"a".into(), &"serving".into())
    );
    assert_eq!(a.metric("weirgate_cluster_nodes{state=\"alive\"}"), 3);
    assert_eq!((a.metric("weirgate_bus_up"), a.get("/readyz").0), (1, 200));

    c.child.kill().unwrap();
    let killed = Instant::now();
    c.child.wait().unwrap();
    until(DEAD, "c is in doubt", || a.sees("suspect") == ["c"]);
    measured("a killed node is suspect", killed.elapsed());
    until(DEAD, "c is dead", || a.sees("alive") == ["b"] && a.sees("suspect").is_empty());
    measured("a killed node is dead", killed.elapsed());
    assert!(killed.elapsed() >= Duration::from_secs(5), "it could have been slow");
    until(SEEN, "the log says so", || a.says("a node of the cluster is dead"));

    signal(&b.child, "TERM");
    let left = Instant::now();
    until(SEEN, "b is gone", || a.sees("alive").is_empty());
    measured("a node that ends is gone", left.elapsed());
    until(WAIT, "b ends", || b.child.try_wait().unwrap().is_some());
    assert!(a.says("a node has left the cluster") && a.sees("suspect").is_empty());
}

#[test]
fn an_engine_that_is_killed_and_comes_back_takes_nobody_with_it() {
    if skipped() {
        return;
    }
    let (mut engine, place) = (Engine::start(), Place::new());
    let nodes = three(&engine.url(), &place.key("key"));
    until(SEEN, "all see all", || whole(&nodes));
    engine.kill();
    measured("the bus is down for all", until(BACK, "it is noticed", || nodes.iter().all(|node| !node.bus_is_up())));
    let silent = Instant::now();
    while silent.elapsed() < Duration::from_secs(8) {
        for node in &nodes {
            assert_eq!((node.sees("alive").len(), node.get("/healthz").0, node.get("/readyz").0), (2, 200, 200));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(nodes[0].metric("weirgate_bus_up"), 0);
    engine.restart();
    measured("all are back after the engine's start", until(BACK, "all are back", || whole(&nodes)));
    assert!(nodes.iter().all(|node| node.metric("weirgate_bus_reconnects_total") == 1));
    assert!(nodes.iter().all(|node| !node.says("is dead")));
}

#[test]
fn an_engine_that_hangs_is_left_for_the_other_server() {
    if skipped() {
        return;
    }
    let (engines, place) = (Engine::pair(), Place::new());
    let urls = format!("{},{}", engines[0].url(), engines[1].url());
    let nodes = three(&urls, &place.key("key"));
    until(SEEN, "all see all", || whole(&nodes));
    let engine_of = |node: &Node| node.cluster()["bus"]["engine"].as_str().unwrap_or_default().to_owned();
    let hung = engines.iter().position(|engine| engine_of(&nodes[0]).contains(&engine.url())).unwrap();
    signal(&engines[hung].child, "STOP");
    let stopped = Instant::now();
    let other = engines[1 - hung].url();
    until(BACK, "the bus is back", || engine_of(&nodes[0]).contains(&other) && nodes[0].bus_is_up());
    measured("the bus is back after the engine was stopped", stopped.elapsed());
    until(BACK, "all are back", || whole(&nodes));
    measured("all see all after the engine was stopped", stopped.elapsed());
    assert!(nodes.iter().all(|node| !node.says("is dead")));
    signal(&engines[hung].child, "CONT");
}

#[test]
fn who_has_another_key_or_another_name_is_no_node() {
    if skipped() {
        return;
    }
    let (engine, place) = (Engine::start(), Place::new());
    let (right, wrong) = (place.key("right"), place.key("wrong"));
    let a = Node::start("a", &engine.url(), &right);
    let b = Node::start("b", &engine.url(), &wrong);
    let other = ["--cluster", &engine.url(), "--cluster-key", &right, "--cluster-name", "other", "--node-name", "c"];
    let c = Node::start_with(&other);
    until(SEEN, "both have heard each other", || a.unopened("forged") >= 3 && b.unopened("forged") >= 3);
    assert!([&a, &b, &c].iter().all(|node| node.bus_is_up() && node.sees("alive").is_empty()));
    assert_eq!(c.unopened("forged"), 0, "of another cluster it hears nothing");
    assert!(a.said().matches("was not opened").count() == 1, "{}", a.said());
    assert!(b.says("cluster     default, node b, 1 node, engine "), "{}", b.said());
}

#[test]
fn a_key_follows_another_without_a_restart() {
    if skipped() {
        return;
    }
    let (engine, place) = (Engine::start(), Place::new());
    let (old, new) = (key(1), key(2));
    let files = ["a", "b", "c"].map(|name| place.write(name, &old));
    let nodes = [0, 1, 2].map(|at| Node::start(["a", "b", "c"][at], &engine.url(), &files[at]));
    until(SEEN, "all see all", || whole(&nodes));
    let steps = [format!("{old}{new}"), format!("{new}{old}"), new.clone()];
    for (step, text) in steps.iter().enumerate() {
        for (name, node) in ["a", "b", "c"].iter().zip(&nodes) {
            place.write(name, text);
            // One is told, the others notice.
            if *name == "a" {
                signal(&node.child, "HUP");
            }
        }
        let took = until(BACK, "the keys are read", || {
            nodes.iter().all(|node| node.said().matches("are sealed with the first").count() == step + 1)
        });
        measured("keys are read again", took);
        assert!(whole(&nodes));
    }
    let opened = |node: &Node, key: u8| node.metric(&format!("weirgate_bus_opened_total{{key=\"{key}\"}}"));
    let before = nodes.each_ref().map(|node| (opened(node, 1), opened(node, 2)));
    std::thread::sleep(Duration::from_secs(4));
    for (node, (old, new)) in nodes.iter().zip(before) {
        assert!(opened(node, 1) == old && opened(node, 2) > new, "the old one rests");
        assert!(!node.says("seen as") && !node.says("is dead") && !node.says("was not opened"), "{}", node.said());
    }
    place.write("a", "nonsense");
    until(BACK, "it is said", || nodes[0].says("the cluster keys in use stay"));
    assert!(nodes[0].bus_is_up() && nodes[0].sees("alive").len() == 2);
}

#[test]
fn an_engine_that_is_not_there_does_not_stop_the_start() {
    if skipped() {
        return;
    }
    // Bound and not listening: nobody else gets the port meanwhile, and who connects is refused.
    let kept = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    kept.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let (port, place) = (kept.local_addr().unwrap().as_socket().unwrap().port(), Place::new());
    let url = format!("nats://127.0.0.1:{port}");
    let key = place.key("key");
    let nodes = ["a", "b"].map(|name| Node::start(name, &url, &key));
    for node in &nodes {
        assert!(node.says(&format!("alone, engine {url} does not answer yet")), "{}", node.said());
        assert!(node.says("of --cluster does not answer: this node serves alone") && node.get("/readyz").0 == 200);
        assert_eq!(node.cluster()["node"]["state"], "serving");
    }
    drop(kept);
    let engine = Engine::start_with(port, &[]);
    measured("nodes find an engine that came later", until(BACK, "they find it", || whole(&nodes)));
    drop(engine);
}

#[test]
fn an_engine_asks_for_tls_and_a_user() {
    if skipped() {
        return;
    }
    let place = Place::new();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let cert = place.write("cert.pem", &made.cert.pem());
    let private = place.write("key.pem", &made.signing_key.serialize_pem());
    // The pair of the documents of NATS.
    let seed = place.write("seed", "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY\n");
    let nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let may = "permissions: { publish: \"wg.default.>\", subscribe: \"wg.default.>\" }";
    let config = format!(
        "tls {{ cert_file: {cert:?}, key_file: {private:?} }}\n\
         authorization {{ users: [ {{ nkey: {nkey}, {may} }}, {{ user: sfu, password: \"s:ecret\", {may} }} ] }}\n"
    );
    let config = place.write("nats.conf", &config);
    let port = free_port();
    let engine = Engine::start_with(port, &["-c", &config]);
    let (url, key) = (format!("tls://127.0.0.1:{port}"), place.key("key"));
    let a = Node::start_with(&[
        "--cluster",
        &url,
        "--cluster-ca",
        &cert,
        "--cluster-creds",
        &seed,
        "--cluster-key",
        &key,
        "--node-name",
        "a",
    ]);
    let user = format!("tls://sfu:s:ecret@127.0.0.1:{port}");
    let b = Node::start_with(&["--cluster", &user, "--cluster-ca", &cert, "--cluster-key", &key, "--node-name", "b"]);
    until(SEEN, "both see each other", || a.sees("alive") == ["b"] && b.sees("alive") == ["a"]);
    assert!(!b.said().contains("s:ecret"), "{}", b.said());
    let wrong = format!("tls://sfu:guess@127.0.0.1:{port}");
    let c = Node::start_with(&["--cluster", &wrong, "--cluster-ca", &cert, "--cluster-key", &key, "--node-name", "c"]);
    until(SEEN, "it says why", || c.said().to_lowercase().contains("authorization"));
    let d = Node::start_with(&["--cluster", &user, "--cluster-key", &key, "--node-name", "d"]);
    assert!(!c.bus_is_up() && !d.bus_is_up() && a.sees("alive") == ["b"], "{} {}", c.said(), d.said());
    assert!(!c.said().contains("guess"));
    drop(engine);
}

#[test]
fn processes_of_one_machine_need_no_engine() {
    let place = Place::new();
    let (bus, key) = (format!("unix:{}", place.path("bus")), place.key("key"));
    let mut a = Node::start("a", &bus, &key);
    let b = Node::start("b", &bus, &key);
    assert!(b.says(&format!("2 nodes, engine {bus}")), "{}", b.said());
    a.child.kill().unwrap();
    a.child.wait().unwrap();
    let killed = Instant::now();
    let c = Node::start("c", &bus, &key);
    until(SEEN, "the others meet", || {
        b.sees("alive").contains(&"c".to_owned()) && c.sees("alive").contains(&"b".to_owned())
    });
    measured("who is left goes on without the one that listened, with the start of a third", killed.elapsed());
    until(DEAD, "a is dead", || b.sees("alive") == ["c"]);
    assert!(!b.says("does not answer"), "its bus never was down: {}", b.said());
}

#[test]
fn a_node_takes_no_sockets_before_it_could_hear_of_the_others() {
    let (place, admin) = (Place::new(), std::net::SocketAddr::from(([127, 0, 0, 1], free_port())));
    let engine = format!("nats://127.0.0.1:{}", free_port());
    let node = Node::begin(admin, &["--cluster", &engine, "--cluster-key", &place.key("key")]);
    until(WAIT, "it answers", || std::net::TcpStream::connect(admin).is_ok());
    let (status, body) = node.get("/readyz");
    assert!(status == 503 && body.contains("starting"), "{status} {body}");
    assert_eq!(node.get("/healthz").0, 200);
    until(WAIT, "it serves", || node.get("/readyz").0 == 200);
}

/// What a node of three costs beside a server that is alone.
#[test]
fn an_idle_node_costs_next_to_nothing() {
    if skipped() {
        return;
    }
    let (engine, place) = (Engine::start(), Place::new());
    let alone = Node::start_with(&[]);
    let nodes = three(&engine.url(), &place.key("key"));
    until(SEEN, "all see all", || whole(&nodes));
    const FOR: Duration = Duration::from_secs(10);
    let before = (alone.cpu(), nodes.each_ref().map(Node::cpu));
    std::thread::sleep(FOR);
    let share = |now: Duration, before: Duration| (now - before).as_secs_f64() / FOR.as_secs_f64();
    let alone = share(alone.cpu(), before.0);
    let shares: Vec<f64> = nodes.iter().zip(before.1).map(|(node, before)| share(node.cpu(), before)).collect();
    println!("measured: share of a core: alone {alone:.4}, of three {shares:.4?}");
    // Five times the goal.
    assert!(shares.iter().all(|share| share - alone < 0.025), "{shares:?} beside {alone}");
}

#[test]
fn a_server_without_a_cluster_says_so() {
    let alone = Node::start_with(&[]);
    let (status, body) = alone.get("/cluster");
    assert!(status == 404 && body.contains("no-cluster"), "{body}");
    let (_, page) = alone.get("/metrics");
    assert!(!page.contains("weirgate_bus") && !page.contains("weirgate_cluster"));
    assert!(!alone.says("  cluster "));
}

#[test]
fn wrong_settings_end_the_program_and_say_what_is_right() {
    let place = Place::new();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_weirgate")).arg("check").args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let key = place.key("key");
    let engine = "nats://127.0.0.1:4222";
    for (args, right) in [
        (&["--cluster", engine][..], "--cluster-key FILE as well"),
        (&["--cluster", "10.0.0.2", "--cluster-key", &key], "nats://HOST:4222"),
        (&["--cluster", "unix:bus", "--cluster-key", &key], "unix:/run/weirgate/bus"),
        (&["--cluster", "unix:/b,nats://a", "--cluster-key", &key], "unix:/run/weirgate/bus"),
        (&["--cluster", "unix:/b", "--cluster-key", &key, "--cluster-ca", "x"], "without it"),
        (&["--cluster", "nats://a:b@c,nats://d:e@f", "--cluster-key", &key], "one user for all"),
        (&["--cluster", "nats://a:b@c", "--cluster-creds", "x", "--cluster-key", &key], "one of the two"),
        (&["--cluster", engine, "--cluster-key", &key, "--cluster-name", "a.b"], "up to 32 letters"),
        (&["--cluster", engine, "--cluster-key", &key, "--node-name", ""], "1 to 64 bytes"),
        (&["--cluster", engine, "--cluster-key", &key, "--public-url", "sfu-7"], "wss://sfu-7.example"),
        (&["--region", "eu"], "--cluster URL as well"),
        (&["--cluster-key", &key], "--cluster URL as well"),
    ] {
        let (code, said) = run(args);
        assert!(code == Some(2) && said.contains(right), "{args:?}: {code:?} {said}");
    }
    let empty = place.write("empty", "# none yet\n");
    let missing = place.path("missing");
    for (file, why) in [(&empty, "holds no key"), (&missing, "cannot be read")] {
        let (code, said) = run(&["--cluster", engine, "--cluster-key", file]);
        assert!(code == Some(1) && said.contains(why) && said.contains("weirgate cluster-key"), "{said}");
    }
    let (code, said) = run(&["--cluster", engine, "--cluster-key", &key, "--cluster-creds", &empty]);
    assert!(code == Some(1) && said.contains("neither a JWT"), "{said}");
}
