//! Redis, as one server, one with a replica, or a cluster.

use std::process::Command;

use super::{Process, eventually, folder, free_port, on_path, skip};

/// How far a cluster's own port is above the clients'.
const BUS: u16 = 10_000;

/// A server that syncs each change to its file. It keeps its port and its folder when it is started again.
pub struct Server {
    port: u16,
    folder: tempfile::TempDir,
    options: Vec<String>,
    process: Option<Process>,
}

impl Server {
    /// `None` if there is no Redis here and that is all right.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// Later options override earlier ones.
    pub fn start_with(options: &[&str]) -> Option<Self> {
        if on_path("redis-server").is_none() {
            skip("Redis", "apt-get install redis-server");
            return None;
        }
        let mut server = Self {
            port: free_port(BUS),
            folder: folder(),
            options: options.iter().map(ToString::to_string).collect(),
            process: None,
        };
        server.restart();
        Some(server)
    }

    /// Starts it again after a [`kill`](Server::kill), and waits until it answers.
    pub fn restart(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"]);
        command.arg("--dir").arg(self.folder.path());
        let durable = "--appendonly yes --appendfsync always --maxmemory-policy noeviction";
        command.args(durable.split(' ')).args(["--save", ""]);
        command.args(&self.options);
        self.process = Some(Process::start(&mut command));
        eventually("the server answers", || {
            (self.cli(&["PING"]).trim() == "PONG").then_some(())
        });
    }

    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the process until it is told to [go on](Server::go_on). Its port stays open.
    pub fn stop(&self) {
        self.process.as_ref().unwrap().signal("STOP");
    }

    pub fn go_on(&self) {
        self.process.as_ref().unwrap().signal("CONT");
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// What it answers to a command, as redis-cli prints it.
    pub fn cli(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let mut cli = Command::new("redis-cli");
        let output = cli.args(["-p", &port]).args(command).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// How often it was asked for something, but for announcements and by `cli`. Each time it tells its clock; what is asked
    /// besides is counted, too.
    pub fn asked(&self) -> u64 {
        let stats = self.cli(&["INFO", "commandstats"]);
        let (mut asked, mut scripts, mut reads) = (0, 0, 0);
        for line in stats.lines().filter(|line| line.starts_with("cmdstat_")) {
            let (name, figures) = line["cmdstat_".len()..].split_once(":calls=").unwrap();
            let calls: u64 = figures.split(',').next().unwrap().parse().unwrap();
            match name {
                "evalsha" | "eval" => scripts += calls,
                "get" => reads += calls,
                "set" | "info" | "publish" => {}
                _ => asked += calls,
            }
        }
        asked + reads.saturating_sub(scripts)
    }

    /// A further server that replicates this one, once it is in step.
    pub fn replica(&self) -> Self {
        let port = self.port.to_string();
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &port]).unwrap();
        eventually("the replica is connected", || {
            let info = self.cli(&["INFO", "replication"]);
            info.contains("state=online").then_some(())
        });
        replica
    }
}

/// Three primaries with a replica each, which take over after two seconds.
pub struct Cluster {
    pub servers: Vec<Server>,
}

impl Cluster {
    pub fn start() -> Option<Self> {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
        let servers: Option<Vec<_>> = (0..6).map(|_| Server::start_with(&options)).collect();
        let cluster = Self { servers: servers? };
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(cluster.servers.iter().map(Server::address));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = create.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        cluster.wait_until_well();
        Some(cluster)
    }

    /// Waits until all nodes that run think that the cluster is well, and know who is a replica.
    pub fn wait_until_well(&self) {
        eventually("the cluster is well", || {
            let running = self
                .servers
                .iter()
                .filter(|server| server.process.is_some());
            let mut is_well = true;
            for server in running {
                let slots = server.cli(&["CLUSTER", "INFO"]);
                let replication = server.cli(&["INFO", "replication"]);
                is_well &= slots.contains("cluster_state:ok");
                is_well &= replication.contains("state=online")
                    || replication.contains("master_link_status:up");
            }
            is_well.then_some(())
        });
    }

    /// Some of the nodes' URLs.
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.servers.iter().take(3).map(Server::url).collect();
        urls.join(",")
    }

    /// The servers that are primaries now, by place.
    pub fn primaries(&self) -> Vec<usize> {
        let is_primary = |server: &Server| server.cli(&["ROLE"]).starts_with("master");
        let servers = self.servers.iter().enumerate();
        let running = servers.filter(|(_, server)| server.process.is_some());
        let primaries = running.filter(|(_, server)| is_primary(server));
        primaries.map(|(place, _)| place).collect()
    }

    /// Moves so many slots from one primary to another.
    pub fn reshard(&self, from: usize, to: usize, slots: usize) {
        let id = |place: usize| {
            let id = self.servers[place].cli(&["CLUSTER", "MYID"]);
            id.trim().to_owned()
        };
        let mut reshard = Command::new("redis-cli");
        reshard.args(["--cluster", "reshard", &self.servers[from].address()]);
        reshard.args(["--cluster-from", &id(from), "--cluster-to", &id(to)]);
        reshard.args(["--cluster-slots", &slots.to_string(), "--cluster-yes"]);
        let output = reshard.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
