//! Paths that take less than the local device: no packet is fragmented, and none is lost for good.

use homa_client::{Carrier, Client, Config};

use crate::host::{Echo, Host, pattern};

const SIZES: [usize; 3] = [100, 100_000, 1_000_000];

/// Calls `echo` from `host`, on both carriers, so that every size has to come back.
fn exchange(host: &Host, echo: Echo, config: &Config) {
    let (to, config) = (echo.addr, config.clone());
    host.block_on(move || async move {
        let client = Client::bind(&config).unwrap();
        for len in SIZES {
            let body = pattern(len);
            let response = client.call(to, body.clone().into()).await;
            let response = response.unwrap_or_else(|error| panic!("{to}: {len} bytes: {error}"));
            assert!(response.into_bytes() == body, "{to}: {len} bytes");
        }
        let counters = client.counters(to);
        println!(
            "{to}: {} packets, {} sent again, {} refused, {} RESENDs",
            counters.packets_sent,
            counters.protocol.retransmitted,
            counters.send_errors,
            counters
                .protocol
                .sent(homa_client::engine::wire::Kind::Resend),
        );
    });
    assert_eq!(echo.stop().protocol.requests_delivered, SIZES.len() as u64);
}

fn configs() -> [Config; 2] {
    [Carrier::Udp, Carrier::Ip].map(Config::for_carrier)
}

/// The local system refuses what is too long for the device.
#[test]
fn a_device_that_takes_less_than_configured() {
    let (Some(one), Some(two)) = (Host::new(), Host::new()) else {
        return;
    };
    one.join(&two, 1);
    for host in [&one, &two] {
        host.ip("link set veth1 mtu 1280");
    }
    for config in configs() {
        for addr in ["10.0.1.1:4000", "[fd00:1::1]:4000", "[::]:4000"] {
            let mut echo = one.serve(addr, &config);
            if echo.addr.ip().is_unspecified() {
                echo.addr.set_ip("::ffff:10.0.1.1".parse().unwrap());
            }
            exchange(&two, echo, &config);
        }
    }
}

/// The local system refuses what is too long for a route, in one direction only.
#[test]
fn a_route_that_takes_less_than_its_device() {
    let (Some(one), Some(two)) = (Host::new(), Host::new()) else {
        return;
    };
    one.join(&two, 1);
    two.ip("route add 10.0.1.1/32 dev veth1 mtu 1300");
    two.ip("-6 route add fd00:1::1/128 dev veth1 mtu 1300");
    for config in configs() {
        for addr in ["10.0.1.1:4000", "[fd00:1::1]:4000"] {
            exchange(&two, one.serve(addr, &config), &config);
        }
    }
}

/// A router far away refuses it: ICMP "fragmentation needed" and ICMPv6 "packet too big".
#[test]
fn a_router_whose_next_link_takes_less() {
    let hosts = (Host::new(), Host::new(), Host::new());
    let (Some(one), Some(router), Some(two)) = hosts else {
        return;
    };
    one.join(&router, 1);
    two.join(&router, 2);
    router.sysctl("ipv4/ip_forward", "1");
    router.sysctl("ipv6/conf/all/forwarding", "1");
    // The link between the router and `one` takes less; `one` itself knows, but `two` does not.
    for host in [&one, &router] {
        host.ip("link set veth1 mtu 1300");
    }
    for (host, net) in [(&one, 1), (&two, 2)] {
        host.ip(&format!("route add default via 10.0.{net}.2"));
        host.ip(&format!("-6 route add default via fd00:{net}::2"));
    }
    for config in configs() {
        for addr in ["10.0.1.1:4000", "[fd00:1::1]:4000"] {
            exchange(&two, one.serve(addr, &config), &config);
            // Forgotten, so that the other carrier learns it as well.
            two.ip("route flush cache");
            two.ip("-6 route flush cache");
        }
    }
}
