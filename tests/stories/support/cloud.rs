//! Another cloud: a network namespace with a wire to this machine, which fails as one is told. It is
//! gone at the end, whatever happens.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::machine::run;

/// A namespace, and the wire to it.
pub(crate) struct Cloud {
    name: String,
    /// The wire's end on this machine.
    wire: String,
    number: u32,
}

/// What befalls the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Nothing passes.
    Cut,
    /// Nothing comes out of the cloud.
    Mute,
    /// Nothing comes into the cloud.
    Deaf,
    /// So many of a hundred packets are lost, either way.
    Loss(u32),
    /// So much passes in a second, either way.
    Thin { kbit: u32 },
}

impl Cloud {
    /// A new one.
    ///
    /// # Errors
    /// Why this machine has no clouds.
    pub(crate) fn open() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Names of wires have at most 15 characters.
        let (name, wire) = (format!("rollcall-{process}-{number}"), format!("rc{process:x}{number:x}"));
        run("nft", &["--version"])?;
        run("ip", &["netns", "add", &name])?;
        // From here on, whatever fails, dropping clears away.
        let number = process.wrapping_mul(61).wrapping_add(number) % 16_384;
        let cloud = Self { name, wire, number };
        let (near, far) = (format!("{}/30", cloud.near()), format!("{}/30", cloud.far()));
        let peer = ["peer", "name", "up0", "netns", cloud.name()];
        run("ip", &[&["link", "add", &cloud.wire, "type", "veth"][..], &peer].concat())?;
        run("ip", &["address", "add", &near, "dev", &cloud.wire])?;
        run("ip", &["link", "set", &cloud.wire, "up"])?;
        for words in [
            &["address", "add", &far, "dev", "up0"][..],
            &["link", "set", "up0", "up"],
            &["link", "set", "lo", "up"],
        ] {
            run("ip", &[&["-n", cloud.name()], words].concat())?;
        }
        Ok(cloud)
    }

    /// The namespace's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The address of this machine, as the cloud sees it: of a range for measurements (RFC 2544), which
    /// nobody uses.
    pub(crate) fn near(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xc612_0000 + self.number * 4 + 1)
    }

    fn far(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(0xc612_0000 + self.number * 4 + 2)
    }

    /// Lets the cloud speak to another address of this machine.
    pub(crate) fn reaches(&self, address: Ipv4Addr) {
        let (to, via) = (address.to_string(), self.near().to_string());
        run("ip", &["-n", &self.name, "route", "add", &to, "via", &via]).expect("a route can be added");
    }

    /// Something befalls the wire.
    pub(crate) fn suffer(&self, fault: Fault) {
        let input = "type filter hook input priority 0;";
        let output = "type filter hook output priority 0;";
        let loss = |percent: u32| format!("numgen random mod 100 < {percent} drop");
        match fault {
            Fault::Cut => self.filter(&[(input, "drop"), (output, "drop")]),
            Fault::Mute => self.filter(&[(output, "drop")]),
            Fault::Deaf => self.filter(&[(input, "drop")]),
            Fault::Loss(percent) => self.filter(&[(input, &loss(percent)), (output, &loss(percent))]),
            Fault::Thin { kbit } => {
                let rate = format!("{kbit}kbit");
                let shape = ["root", "tbf", "rate", &rate, "burst", "4kb", "latency", "2s"];
                let shaped =
                    |before: &[&str]| run("tc", &[before, &shape].concat()).expect("it can be made thin");
                shaped(&["qdisc", "replace", "dev", &self.wire]);
                shaped(&["-n", &self.name, "qdisc", "replace", "dev", "up0"]);
            }
        }
    }

    /// The wire is as good as new.
    pub(crate) fn heal(&self) {
        self.nft("add table inet fault\ndelete table inet fault\n");
    }

    fn filter(&self, chains: &[(&str, &str)]) {
        let chains: String = chains
            .iter()
            .enumerate()
            .map(|(n, (hook, rule))| format!("  chain c{n} {{ {hook} {rule}; }}\n"))
            .collect();
        self.nft(&format!("table inet fault {{\n{chains}}}\n"));
    }

    fn nft(&self, rules: &str) {
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &self.name, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip was there a moment ago");
        nft.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("it reads");
        assert!(nft.wait().expect("it ends").success(), "nft takes the rules");
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // The wire goes with either end; it is named in case the namespace lives on with a process.
        drop(run("ip", &["link", "delete", &self.wire]));
        if let Err(why) = run("ip", &["netns", "delete", &self.name]) {
            eprintln!("left behind: {why}");
        }
    }
}
