//! A network of two ends that can be cut: a namespace of Linux's, and a pair of virtual cables.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::on_path;

/// The far end is removed when this is dropped; whoever runs there has to have ended.
pub struct Network {
    name: String,
    /// The far end's.
    pub address: String,
}

impl Network {
    /// `None`, said loudly, where networks can't be made: it takes Linux, the program `ip`, and
    /// root.
    pub fn make() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(7) + MADE.fetch_add(1, Ordering::Relaxed);
        let third = number % 250;
        let network = Self {
            name: format!("ow{}", number % 100_000),
            address: format!("10.231.{third}.2"),
        };
        if on_path("ip").is_none() || !network.ip(&["netns", "add", &network.name]) {
            println!("SKIPPED: networks can't be made here; it takes Linux, iproute2, and root");
            return None;
        }
        network.connect(&format!("10.231.{third}.1"));
        Some(network)
    }

    fn connect(&self, near: &str) {
        let (name, far) = (&self.name, format!("{}/30", self.address));
        let (cable, inner) = (self.cable(), "far");
        let link = ["link", "add", &cable, "type", "veth"];
        let peer = ["peer", "name", inner, "netns", name];
        assert!(self.ip(&[&link[..], &peer[..]].concat()));
        let near = format!("{near}/30");
        assert!(self.ip(&["address", "add", &near, "dev", &cable]));
        assert!(self.ip(&["link", "set", &cable, "up"]));
        assert!(self.ip(&["-n", name, "address", "add", &far, "dev", inner]));
        assert!(self.ip(&["-n", name, "link", "set", "lo", "up"]));
        assert!(self.ip(&["-n", name, "link", "set", inner, "up"]));
        // Known for good, so that nobody finds out by asking for it that the far end is gone.
        let mut show = Command::new("ip");
        let shown = show.args(["-n", name, "-o", "link", "show", inner]);
        let shown = String::from_utf8(shown.output().unwrap().stdout).unwrap();
        let (_, hardware) = shown.split_once("link/ether ").unwrap();
        let hardware = hardware.split(' ').next().unwrap();
        let known = ["lladdr", hardware, "dev", &cable, "nud", "permanent"];
        let neighbour = ["neighbour", "replace", &self.address];
        assert!(self.ip(&[&neighbour[..], &known[..]].concat()));
    }

    /// A program that runs at the far end, as that user.
    pub fn program(&self, program: &Path, user: Option<(u32, u32)>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name));
        if let Some((uid, gid)) = user {
            command.args(["setpriv", "--clear-groups"]);
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
        }
        command.arg(program);
        command
    }

    /// The far end hears nothing any more, and nobody hears from it.
    pub fn cut(&self) {
        let far = format!("{}/30", self.address);
        assert!(self.ip(&["-n", &self.name, "address", "delete", &far, "dev", "far"]));
    }

    fn cable(&self) -> String {
        format!("{}n", self.name)
    }

    #[allow(clippy::unused_self)] // What it does is the network's.
    fn ip(&self, arguments: &[&str]) -> bool {
        let mut ip = Command::new("ip");
        let ip = ip.args(arguments).stdin(Stdio::null());
        let status = ip.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.ip(&["link", "delete", &self.cable()]);
        self.ip(&["netns", "delete", &self.name]);
    }
}
