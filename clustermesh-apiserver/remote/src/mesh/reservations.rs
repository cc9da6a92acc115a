//! Which remote cluster has which number: two with the same cannot both be believed.

use std::collections::BTreeMap;

use causeway_mesh_schema::{ClusterId, ClusterName};

#[derive(Debug)]
pub(crate) struct Reservations {
    own: (ClusterName, Option<ClusterId>),
    held: BTreeMap<ClusterId, ClusterName>,
}

impl Reservations {
    pub(crate) fn new(name: ClusterName, id: Option<ClusterId>) -> Reservations {
        Reservations { own: (name, id), held: BTreeMap::new() }
    }

    /// Gives `id` to `cluster`, in place of any that it has.
    ///
    /// # Errors
    /// It is another's; who has it and what to do, in words. What the cluster had, it keeps.
    pub(crate) fn reserve(&mut self, cluster: &ClusterName, id: ClusterId) -> Result<(), String> {
        let holder = match self.held.get(&id) {
            _ if self.own.1 == Some(id) => Some((&self.own.0, " (this cluster)")),
            Some(other) if other != cluster => Some((other, "")),
            _ => None,
        };
        if let Some((other, note)) = holder {
            return Err(format!(
                "cluster-id {id} of {cluster} is also that of {other}{note}; give one of them another --cluster-id"
            ));
        }
        self.release(cluster);
        self.held.insert(id, cluster.clone());
        Ok(())
    }

    pub(crate) fn release(&mut self, cluster: &ClusterName) {
        self.held.retain(|_, holder| holder != cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_cluster() {
        let name = |text| ClusterName::parse(text).unwrap();
        let id = |number: u32| ClusterId::try_from(number).unwrap();
        let (b, c) = (name("b"), name("c"));
        let mut table = Reservations::new(name("a"), Some(id(1)));
        let own = table.reserve(&b, id(1)).unwrap_err();
        assert!(own.contains("cluster-id 1 of b is also that of a (this cluster)"), "{own}");
        assert_eq!(table.reserve(&b, id(2)), Ok(()));
        assert_eq!(table.reserve(&b, id(2)), Ok(()), "again");
        let taken = table.reserve(&c, id(2)).unwrap_err();
        assert!(taken.contains("of c is also that of b;"), "{taken}");
        assert_eq!(table.reserve(&b, id(3)), Ok(()), "another in its place");
        assert_eq!(table.reserve(&c, id(2)), Ok(()));
        table.release(&c);
        assert_eq!(table.reserve(&b, id(2)), Ok(()));
    }
}
