//! Several owners may want a row at the same key; one of them has it. When it lets go, the next one gets it.

use std::collections::{BTreeMap, BTreeSet};

/// Claims of owners on keys. Of several claims on a key, the smallest owner's is in force.
#[derive(Debug)]
pub(crate) struct Claims<O, K, V> {
    by_key: BTreeMap<K, BTreeMap<O, V>>,
    by_owner: BTreeMap<O, BTreeSet<K>>,
}

impl<O, K, V> Default for Claims<O, K, V> {
    fn default() -> Self {
        Claims { by_key: BTreeMap::new(), by_owner: BTreeMap::new() }
    }
}

impl<O: Ord + Clone, K: Ord + Clone, V> Claims<O, K, V> {
    /// Replaces everything that `owner` claims. Returns the keys whose claims changed hands or may have changed.
    pub(crate) fn set(&mut self, owner: &O, rows: BTreeMap<K, V>) -> BTreeSet<K> {
        let mut touched = self.by_owner.remove(owner).unwrap_or_default();
        for key in &touched {
            if !rows.contains_key(key) {
                self.drop_claim(owner, key);
            }
        }
        if !rows.is_empty() {
            self.by_owner.insert(owner.clone(), rows.keys().cloned().collect());
        }
        for (key, value) in rows {
            touched.insert(key.clone());
            self.by_key.entry(key).or_default().insert(owner.clone(), value);
        }
        touched
    }

    /// All who claim something.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &O> {
        self.by_owner.keys()
    }

    /// The claim in force.
    pub(crate) fn get(&self, key: &K) -> Option<(&O, &V)> {
        self.by_key.get(key)?.first_key_value()
    }

    fn drop_claim(&mut self, owner: &O, key: &K) {
        if let Some(claims) = self.by_key.get_mut(key) {
            claims.remove(owner);
            if claims.is_empty() {
                self.by_key.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_owner_has_the_row_and_the_next_inherits() {
        let mut c: Claims<u8, &str, char> = Claims::default();
        assert_eq!(c.set(&2, BTreeMap::from([("x", 'b'), ("y", 'b')])), BTreeSet::from(["x", "y"]));
        assert_eq!(c.set(&1, BTreeMap::from([("x", 'a')])), BTreeSet::from(["x"]));
        assert_eq!(c.get(&"x"), Some((&1, &'a')));
        assert_eq!(c.set(&1, BTreeMap::new()), BTreeSet::from(["x"]));
        assert_eq!(c.get(&"x"), Some((&2, &'b')));
        assert_eq!(c.set(&2, BTreeMap::from([("y", 'c')])), BTreeSet::from(["x", "y"]));
        assert_eq!((c.get(&"x"), c.get(&"y")), (None, Some((&2, &'c'))));
    }
}
