//! Two clusters that are to meet, and why they cannot.

use causeway_mesh_schema::{ClusterId, ClusterName, Scale};

use crate::SetupError;

/// A cluster as its flags or its `cilium-config` describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    pub name: ClusterName,
    pub id: ClusterId,
    pub scale: Scale,
}

impl Side {
    /// # Errors
    /// A name or number that no cluster of a mesh can have. `object` says where they are from.
    pub fn parse(object: &str, name: &str, id: u32, max_clusters: u32) -> Result<Side, SetupError> {
        let bad = |problem: String, remedy: &str| SetupError::new(object, problem, remedy);
        let scale = Scale::from_max(max_clusters).ok_or_else(|| {
            bad(format!("max-connected-clusters is {max_clusters}"), "use 255, or 511 in every cluster of the mesh")
        })?;
        let name = ClusterName::parse(name).map_err(|e| bad(e.to_string(), "set cluster-name in cilium-config"))?;
        if name.as_str() == "default" {
            let remedy = "set cluster-name in cilium-config to one of its own, and restart agents and operator";
            return Err(bad("the cluster is named \"default\", as every cluster without a name is".to_owned(), remedy));
        }
        let remedy = "set cluster-id in cilium-config before there are pods, since identities depend on it";
        let id = ClusterId::new(id, scale).map_err(|e| bad(e.to_string(), remedy))?;
        Ok(Side { name, id, scale })
    }
}

/// # Errors
/// Equal names or numbers, or meshes of different sizes.
pub fn check_pair(ours: &Side, theirs: &Side) -> Result<(), SetupError> {
    let object = format!("clusters {} and {}", ours.name, theirs.name);
    let bad = |problem: String, remedy: &str| Err(SetupError::new(&object, problem, remedy));
    if ours.name == theirs.name {
        return bad("both have the same name".to_owned(), "set another cluster-name in one of them");
    }
    if ours.id == theirs.id {
        let problem = format!("both have the cluster id {}", ours.id);
        return bad(
            problem,
            "set another cluster-id in one of them before it has pods, or replace its pods afterwards",
        );
    }
    if ours.scale != theirs.scale {
        let (a, b) = (ours.scale.max_clusters(), theirs.scale.max_clusters());
        let problem = format!("max-connected-clusters is {a} in one and {b} in the other");
        return bad(problem, "identities are numbered by it: set the same in both");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_meet() {
        let side = |name, id, max| Side::parse("flags", name, id, max).unwrap();
        let east = side("east", 1, 255);
        assert_eq!(check_pair(&east, &side("west", 2, 255)), Ok(()));
        for (other, why) in [
            (side("east", 2, 255), "same name"),
            (side("west", 1, 255), "cluster id 1"),
            (side("west", 2, 511), "255 in one and 511"),
        ] {
            let error = check_pair(&east, &other).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        for (name, id, max) in [("", 1, 255), ("default", 1, 255), ("a", 0, 255), ("a", 256, 255), ("a", 1, 100)] {
            assert!(Side::parse("flags", name, id, max).is_err(), "{name} {id} {max}");
        }
    }
}
