//! The store by itself, and beside a model of what the map should hold.

use super::super::prefix::v4;
use super::*;

/// A map, and the store that writes it.
#[derive(Default)]
struct World {
    ips: RemoteIps,
    map: BTreeMap<Prefix, u32>,
    writes: usize,
}

/// This cluster's own rows in these tests.
const OWN: u32 = 999;

impl World {
    fn put(&mut self, cluster: u16, prefix: Prefix, identity: u32) -> Put {
        let put = self.ips.put(cluster, prefix, entry(identity, u64::from(identity)), None);
        self.drain();
        put
    }

    fn delete(&mut self, cluster: u16, prefix: Prefix) {
        self.ips.delete(cluster, prefix, 0, None);
        self.drain();
    }

    fn local(&mut self, prefix: Prefix, there: bool) {
        if there {
            self.ips.local_set(prefix);
            self.map.insert(prefix, OWN);
        } else if let Some(identity) = self.ips.local_gone(prefix) {
            self.map.insert(prefix, identity);
            self.ips.wrote(prefix);
        } else {
            self.map.remove(&prefix);
        }
        self.drain();
    }

    fn own(&mut self, range: Prefix, owner: Option<u16>) {
        self.ips.own(range, owner);
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            let jobs = self.ips.jobs(7);
            if jobs.is_empty() {
                break;
            }
            for job in jobs {
                self.writes += 1;
                match job.identity {
                    Some(identity) => self.map.insert(job.prefix, identity),
                    None => self.map.remove(&job.prefix),
                };
                self.ips.finished(&job, true);
            }
        }
        assert_eq!(self.ips.waiting(), 0);
    }
}

fn entry(identity: u32, revision: u64) -> Entry {
    Entry { identity, host: None, revision }
}

fn ip(last: u8) -> Prefix {
    v4(10, 2, 0, last)
}

#[test]
fn a_listing_sweeps_what_it_does_not_name_and_writes_nothing_that_is_known() {
    let mut w = World::default();
    w.ips.relisting(2);
    for last in 0..10 {
        w.put(2, ip(last), 100 + u32::from(last));
    }
    w.ips.listed(2);
    w.drain();
    assert_eq!((w.map.len(), w.writes), (10, 10));
    w.ips.relisting(2);
    for last in 0..9 {
        assert!(w.ips.known(2, ip(last), 100 + u64::from(last)), "{last}");
    }
    assert!(!w.ips.known(2, ip(1), 7), "another revision");
    w.ips.listed(2);
    w.drain();
    assert_eq!((w.map.len(), w.writes, w.ips.unchanged()), (9, 11, 9), "one deletion and nothing else");
    assert_eq!(w.put(2, ip(0), 100), Put::Settled, "another revision, the same identity");
    assert_eq!(w.writes, 11);
    w.ips.forget(2);
    w.drain();
    assert_eq!((w.map.len(), w.ips.len(), w.ips.counts(2)), (0, 0, Counts::default()));
}

#[test]
fn broken_listings_never_save_a_stale_row() {
    let mut w = World::default();
    w.ips.relisting(2);
    w.put(2, ip(1), 100);
    w.put(2, ip(2), 101);
    w.ips.listed(2);
    for _ in 0..600 {
        w.ips.relisting(2);
        assert!(w.ips.known(2, ip(1), 100));
    }
    w.ips.listed(2);
    w.drain();
    assert_eq!(w.map, BTreeMap::from([(ip(1), 100)]));
}

#[test]
fn of_two_clusters_the_smaller_number_is_believed_unless_the_range_is_the_others() {
    let mut w = World::default();
    w.put(5, ip(1), 500);
    w.put(3, ip(1), 300);
    assert_eq!(w.map[&ip(1)], 300);
    assert_eq!((w.ips.counts(5).contested, w.ips.withheld(5, 9)), (1, vec![(ip(1), 3)]));
    w.own(Prefix::parse("10.2.0.0/24").unwrap(), Some(5));
    assert_eq!(w.map[&ip(1)], 500, "it is 5's range");
    assert_eq!(w.put(3, ip(2), 301), Put::Withheld);
    assert_eq!((w.ips.counts(3).contested, w.ips.counts(3).refused), (1, 1));
    assert_eq!(w.ips.withheld(3, 9), [(ip(2), 5), (ip(1), 5)]);
    w.own(Prefix::parse("10.2.0.0/24").unwrap(), Some(0));
    assert_eq!(w.map, BTreeMap::new(), "now it is ours");
    w.own(Prefix::parse("10.2.0.0/24").unwrap(), None);
    assert_eq!(w.map, BTreeMap::from([(ip(1), 300), (ip(2), 301)]));
    w.delete(3, ip(1));
    assert_eq!(w.map[&ip(1)], 500, "whoever was put aside comes in");
    w.ips.forget(3);
    w.ips.forget(5);
    w.drain();
    assert_eq!(w.map.len(), 0);
}

#[test]
fn a_range_that_contains_ours_is_refused() {
    let mut w = World::default();
    w.own(Prefix::parse("10.1.0.0/24").unwrap(), Some(0));
    assert_eq!(w.put(2, Prefix::parse("10.0.0.0/8").unwrap(), 6), Put::Withheld);
    assert_eq!(w.put(2, Prefix::parse("0.0.0.0/1").unwrap(), 6), Put::Withheld);
    assert_eq!(w.put(2, Prefix::parse("10.2.0.0/16").unwrap(), 6), Put::Queued);
    assert_eq!(w.map.len(), 1);
}

#[test]
fn beyond_the_limit_rows_are_counted_and_left_out() {
    let mut w = World::default();
    w.ips.limits.rows = 2;
    w.put(2, ip(1), 100);
    w.put(2, ip(2), 101);
    assert_eq!(w.put(3, ip(3), 102), Put::Withheld);
    assert_eq!(w.put(2, ip(2), 103), Put::Queued, "what is there may change");
    assert_eq!((w.put(3, ip(2), 104), w.ips.counts(3).contested), (Put::Withheld, 1), "and be contested");
    assert_eq!((w.ips.counts(2).left_out, w.ips.counts(3).left_out), (0, 1));
    assert_eq!(w.map, BTreeMap::from([(ip(1), 100), (ip(2), 103)]));
    w.delete(2, ip(1));
    w.put(3, ip(3), 105);
    assert_eq!(w.map, BTreeMap::from([(ip(2), 103), (ip(3), 105)]), "there is room again");
}

#[test]
fn beyond_the_limit_nodes_are_not_remembered() {
    let mut w = World::default();
    w.ips.limits.hosts = 1;
    for (last, host) in [(1, 1), (2, 2), (3, 1)] {
        let host = Some(IpAddr::from([192, 0, 2, host]));
        w.ips.put(2, ip(last), Entry { identity: 100, host, revision: 1 }, None);
    }
    w.drain();
    let host = Some(IpAddr::from([192, 0, 2, 1]));
    assert_eq!([1, 2, 3].map(|last| w.ips.host_of(&ip(last))), [host, None, host]);
    assert_eq!((w.map.len(), w.ips.hosts.len(), w.ips.host_index.len()), (3, 1, 1));
}

#[test]
fn more_than_the_queue_holds_is_found_by_a_walk() {
    let mut ips = RemoteIps::default();
    let all = 40_000_u32;
    for n in 0..all {
        let [_, b, c, d] = n.to_be_bytes();
        ips.put(2, v4(10, b, c, d), entry(n, 1), None);
    }
    assert_eq!(ips.waiting(), 40_000);
    let mut written = BTreeSet::new();
    loop {
        let jobs = ips.jobs(1000);
        if jobs.is_empty() {
            break;
        }
        for job in jobs {
            assert!(written.insert(job.prefix), "{} twice", job.prefix);
            ips.finished(&job, true);
        }
    }
    assert_eq!((written.len(), ips.waiting()), (40_000, 0));
}

#[test]
fn a_failed_write_comes_again() {
    let mut ips = RemoteIps::default();
    ips.put(2, ip(1), entry(5, 1), None);
    for _ in 0..3 {
        let jobs = ips.jobs(9);
        assert_eq!(jobs.len(), 1);
        ips.finished(&jobs[0], false);
        assert_eq!(ips.waiting(), 1);
    }
    let jobs = ips.jobs(9);
    ips.finished(&jobs[0], true);
    assert_eq!((ips.jobs(9).len(), ips.waiting()), (0, 0));
}

#[test]
fn leftovers_serve_until_it_is_known_that_nobody_wants_them() {
    let (mine, of_2, of_3, node) = (v4(10, 1, 0, 1), ip(1), v4(10, 3, 0, 1), v4(192, 0, 2, 9));
    let left = [(mine, 65_600), (of_2, 131_100), (ip(2), 131_101), (of_3, 200_000), (node, 6)];
    let mut w = World { ips: RemoteIps::adopt(left), map: left.into(), writes: 0 };
    w.own(Prefix::parse("10.1.0.0/24").unwrap(), Some(0));
    w.put(2, of_2, 131_100);
    w.ips.complete(&Complete::Local { identities: 65_536..=131_071 });
    w.drain();
    assert!(!w.map.contains_key(&mine) && w.map.len() == 4);
    w.ips.complete(&Complete::Remote { identities: 131_072..=196_607 });
    w.drain();
    assert_eq!(w.map.keys().copied().collect::<Vec<_>>(), [of_2, of_3, node]);
    w.local(node, true);
    w.ips.complete(&Complete::Everything);
    w.drain();
    assert_eq!(w.map, BTreeMap::from([(of_2, 131_100), (node, OWN)]));
    assert_eq!(w.ips.unclaimed(), 0);
    w.delete(2, of_2);
    assert_eq!(w.map.len(), 1, "what was claimed is deleted as usual");
}

/// What everyone said, and what follows from it.
#[derive(Default)]
struct Model {
    claims: BTreeMap<(Prefix, u16), u32>,
    local: BTreeSet<Prefix>,
    owners: BTreeMap<Prefix, u16>,
}

impl Model {
    fn refused(&self, prefix: Prefix, cluster: u16) -> bool {
        let overlap = |a: &Prefix| a.span().contains(&prefix) || prefix.span().contains(a);
        self.owners.iter().any(|(range, owner)| *owner != cluster && overlap(range))
    }

    fn map(&self) -> BTreeMap<Prefix, u32> {
        let mut best: BTreeMap<Prefix, (bool, u16, u32)> = BTreeMap::new();
        for ((prefix, cluster), identity) in &self.claims {
            let mine = (self.refused(*prefix, *cluster), *cluster, *identity);
            let entry = best.entry(*prefix).or_insert(mine);
            *entry = mine.min(*entry);
        }
        let remote = best.into_iter().filter(|(_, (refused, _, _))| !refused).map(|(p, (_, _, id))| (p, id));
        remote.chain(self.local.iter().map(|p| (*p, OWN))).collect()
    }
}

#[test]
fn whatever_happens_the_map_is_as_the_model_says() {
    for seed in 1..200_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let (mut w, mut m) = (World::default(), Model::default());
        for step in 0..120 {
            let cluster = u16::try_from(2 + random(3)).unwrap();
            let prefix = match random(8) {
                0 => Prefix::parse("10.2.0.0/30").unwrap(),
                n => ip(u8::try_from(n).unwrap()),
            };
            match random(8) {
                0..3 => {
                    let identity = u32::from(cluster) * 1000 + u32::try_from(random(3)).unwrap();
                    m.claims.insert((prefix, cluster), identity);
                    w.put(cluster, prefix, identity);
                }
                3 => {
                    m.claims.remove(&(prefix, cluster));
                    w.delete(cluster, prefix);
                }
                4 => {
                    let there = random(2) == 0;
                    if there {
                        m.local.insert(prefix)
                    } else {
                        m.local.remove(&prefix)
                    };
                    w.local(prefix, there);
                }
                5 => {
                    let range = ["10.2.0.0/29", "10.2.0.4/30", "10.2.0.5/32"][usize::try_from(random(3)).unwrap()];
                    let range = Prefix::parse(range).unwrap();
                    let owner = [None, Some(0), Some(2), Some(3)][usize::try_from(random(4)).unwrap()];
                    match owner {
                        Some(owner) => m.owners.insert(range, owner),
                        None => m.owners.remove(&range),
                    };
                    w.own(range, owner);
                }
                6 => {
                    // A listing that names every second of what there was.
                    w.ips.relisting(cluster);
                    let mine: Vec<_> = m.claims.keys().filter(|(_, c)| *c == cluster).copied().collect();
                    for (n, (prefix, _)) in mine.into_iter().enumerate() {
                        if n % 2 == 0 {
                            let identity = m.claims[&(prefix, cluster)];
                            w.put(cluster, prefix, identity);
                        } else {
                            m.claims.remove(&(prefix, cluster));
                        }
                    }
                    w.ips.listed(cluster);
                    w.drain();
                }
                _ => {
                    m.claims.retain(|(_, c), _| *c != cluster);
                    w.ips.forget(cluster);
                    w.drain();
                }
            }
            assert_eq!(w.map, m.map(), "seed {seed}, step {step}");
        }
        let counts: Vec<Counts> = (2..5).map(|c| w.ips.counts(c)).collect();
        let claims: usize = counts.iter().map(|c| c.rows + c.contested).sum();
        assert_eq!(claims, m.claims.len(), "seed {seed}: {counts:?}");
    }
}
