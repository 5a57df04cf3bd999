//! The servers: one, or those of a cluster with the slots that they have.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use redis::{ConnectionAddr, ConnectionInfo, Value, cmd};
use tokio::task::JoinSet;

use super::builder::Config;
use super::node::{Node, Silence};
use super::slots::{Layout, Range, SLOTS, layout, slot_of};

/// Which servers there are, as far as is known.
pub(super) struct Nodes {
    config: Arc<Config>,
    known: Mutex<Known>,
    asking: tokio::sync::Mutex<()>,
    /// How often the servers were asked for their slots.
    asked: AtomicU64,
    /// How many connections were made.
    made: Arc<AtomicU64>,
}

#[derive(Default)]
struct Known {
    nodes: BTreeMap<String, Arc<Node>>,
    /// What the cluster was last said to be, in order.
    ranges: Vec<Range>,
    /// Those that have slots, by address; the one server if there is no cluster.
    primaries: Vec<Arc<Node>>,
    /// By slot; empty if there is no cluster, or nobody was asked yet.
    owners: Vec<Option<Arc<Node>>>,
    /// If there is no cluster.
    single: Option<Arc<Node>>,
}

/// What one server said of its cluster.
struct Told {
    by: Arc<Node>,
    layout: Layout,
    is_well: bool,
}

impl Nodes {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            known: Mutex::new(Known::default()),
            asking: tokio::sync::Mutex::default(),
            asked: AtomicU64::new(0),
            made: Arc::default(),
        }
    }

    /// How many connections were made.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    fn new_node(&self, info: ConnectionInfo) -> Node {
        self.config.node(info, Arc::clone(&self.made))
    }

    /// Who has this key; `None` if that isn't known.
    pub(super) fn owner_of(&self, key: &[u8]) -> Option<Arc<Node>> {
        let known = self.known.lock();
        if known.single.is_some() {
            return known.single.clone();
        }
        known.owners.get(usize::from(slot_of(key)))?.clone()
    }

    /// The primaries that have slots, by address; the one server if there is no cluster.
    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        self.known.lock().primaries.clone()
    }

    /// Changes whenever slots were said to be elsewhere.
    pub(super) fn layout(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.known.lock().ranges.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether there is one server, and no cluster.
    pub(super) fn is_single(&self) -> bool {
        self.known.lock().single.is_some()
    }

    /// The server at an address that another one told, `host:port`.
    pub(super) fn named(&self, address: &str) -> Option<Arc<Node>> {
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse().ok()?;
        (!host.is_empty()).then(|| self.node(&mut self.known.lock(), host, port))
    }

    /// A key's slot belongs to another server now.
    pub(super) fn moved(&self, key: &[u8], to: &Arc<Node>) {
        let mut known = self.known.lock();
        if let Some(owner) = known.owners.get_mut(usize::from(slot_of(key))) {
            *owner = Some(Arc::clone(to));
        }
    }

    /// All servers that can be asked about the others.
    fn all(&self) -> Vec<Arc<Node>> {
        let mut known = self.known.lock();
        for seed in &self.config.seeds {
            let name = seed.addr().to_string();
            let node = || Arc::new(self.new_node(seed.clone()));
            known.nodes.entry(name).or_insert_with(node);
        }
        known.nodes.values().map(Arc::clone).collect()
    }

    /// Asks all servers at once who has which slot. The first that says that its cluster is well is believed, or else any. Callers
    /// that come meanwhile wait for that.
    pub(super) async fn learn(&self) -> Result<(), Silence> {
        if self.is_single() {
            return Ok(());
        }
        let before = self.asked.load(Ordering::SeqCst);
        let _asking = self.asking.lock().await;
        if self.asked.load(Ordering::SeqCst) != before {
            return Ok(());
        }
        let mut asking = JoinSet::new();
        for node in self.all() {
            asking.spawn(told_by(node));
        }
        let mut best: Option<Told> = None;
        let mut silence = None;
        while let Some(told) = asking.join_next().await {
            match told {
                Ok(Ok(told)) => {
                    let is_well = told.is_well;
                    if is_well || best.is_none() {
                        best = Some(told);
                    }
                    if is_well {
                        break;
                    }
                }
                Ok(Err(silent)) => silence = Some(silent),
                Err(_) => {}
            }
        }
        match (best, silence) {
            (Some(told), _) => self.believe(told),
            (None, Some(silence)) => return Err(silence),
            (None, None) => {}
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn believe(&self, told: Told) {
        let mut known = self.known.lock();
        let mut ranges = match told.layout {
            Layout::Single => {
                known.primaries = vec![Arc::clone(&told.by)];
                known.single = Some(told.by);
                return;
            }
            Layout::Cluster(ranges) => ranges,
        };
        ranges.sort_unstable();
        let own_host = match told.by.info().addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
            _ => String::new(),
        };
        let mut owners = vec![None; SLOTS];
        let mut primaries = BTreeMap::new();
        for range in &ranges {
            let host = if range.host.is_empty() {
                &own_host
            } else {
                &range.host
            };
            let node = self.node(&mut known, host, range.port);
            let slots = usize::from(range.first)..=usize::from(range.last);
            for owner in owners.get_mut(slots).into_iter().flatten() {
                *owner = Some(Arc::clone(&node));
            }
            primaries.insert(node.address(), node);
        }
        known.owners = owners;
        known.primaries = primaries.into_values().collect();
        known.ranges = ranges;
    }

    /// The server at this address. It is asked as the first one that was configured is, but for its address.
    fn node(&self, known: &mut Known, host: &str, port: u16) -> Arc<Node> {
        let seed = &self.config.seeds[0];
        let address = match seed.addr() {
            ConnectionAddr::TcpTls {
                insecure,
                tls_params,
                ..
            } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        let name = address.to_string();
        let node = known.nodes.entry(name);
        let node = node.or_insert_with(|| {
            let info = seed.clone().set_addr(address);
            Arc::new(self.new_node(info))
        });
        Arc::clone(node)
    }
}

async fn told_by(by: Arc<Node>) -> Result<Told, Silence> {
    let mut commands = redis::pipe();
    commands.add_command(cmd("CLUSTER").arg("SLOTS").take());
    commands.add_command(cmd("CLUSTER").arg("INFO").take());
    let mut answers = by.ask(0, &commands).await?.into_iter();
    let slots = answers.next().unwrap_or_default();
    let Some(layout) = layout(slots) else {
        let error = (
            redis::ErrorKind::UnexpectedReturnType,
            "the server doesn't tell its slots yet",
        );
        return Err(Silence::NotConnected(error.into()));
    };
    let is_well = match answers.next() {
        Some(Value::BulkString(info)) => {
            String::from_utf8_lossy(&info).contains("cluster_state:ok")
        }
        Some(Value::VerbatimString { text, .. }) => text.contains("cluster_state:ok"),
        _ => layout == Layout::Single,
    };
    Ok(Told {
        by,
        layout,
        is_well,
    })
}
