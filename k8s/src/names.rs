//! Names of annotations, labels, conditions and kinds that Causeway shares with Cilium and Kubernetes. Where a name has
//! an older alias, the newer one wins; `annotation` looks in that order.
//!
//! Sources: Cilium `pkg/annotation/k8s.go` for annotations, `operator/pkg/lbipam` for conditions and selector keys,
//! `pkg/k8s/apis/cilium.io` for kinds and labels, Kubernetes "Well-Known Labels, Annotations and Taints".

use std::collections::BTreeMap;

// Kinds without kube-derive, and those that errors name.
pub const KIND_CILIUM_IDENTITY: &str = "CiliumIdentity";
pub const KIND_CILIUM_ENDPOINT: &str = "CiliumEndpoint";
pub const KIND_CILIUM_ENDPOINT_SLICE: &str = "CiliumEndpointSlice";
pub const KIND_SERVICE_EXPORT: &str = "ServiceExport";

/// An annotation: its name, and the aliases that older manifests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Annotation {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
}

impl Annotation {
    const fn new(name: &'static str, aliases: &'static [&'static str]) -> Annotation {
        Annotation { name, aliases }
    }

    /// The name under which the annotation stands in `annotations`, and its value.
    #[must_use]
    pub fn find<'a>(&self, annotations: Option<&'a BTreeMap<String, String>>) -> Option<(&'static str, &'a str)> {
        let annotations = annotations?;
        std::iter::once(&self.name)
            .chain(self.aliases)
            .find_map(|name| annotations.get(*name).map(|value| (*name, value.as_str())))
    }

    /// The annotation's value.
    #[must_use]
    pub fn get<'a>(&self, annotations: Option<&'a BTreeMap<String, String>>) -> Option<&'a str> {
        self.find(annotations).map(|(_, value)| value)
    }
}

// LB IPAM, on Services.
/// Addresses that the Service asks for, with commas between.
pub const LB_IPAM_IPS: Annotation = Annotation::new("lbipam.cilium.io/ips", &["io.cilium/lb-ipam-ips"]);
/// Services with the same key may share an address when their ports differ.
pub const LB_IPAM_SHARING_KEY: Annotation =
    Annotation::new("lbipam.cilium.io/sharing-key", &["io.cilium/lb-ipam-sharing-key"]);
/// Namespaces, with commas between, or `*`, whose Services may share this one's address.
pub const LB_IPAM_SHARING_CROSS_NAMESPACE: Annotation =
    Annotation::new("lbipam.cilium.io/sharing-cross-namespace", &["io.cilium/lb-ipam-sharing-cross-namespace"]);
/// `true`: an address may be shared though both Services have externalTrafficPolicy Local and select different pods.
pub const LB_IPAM_SHARING_PERMIT_DIFFERENT_PODS: Annotation = Annotation::new(
    "lbipam.cilium.io/sharing-permit-different-pods",
    &["io.cilium/lb-ipam-sharing-permit-different-pods"],
);

// Services.
/// `true`: the Service is one with those of the same name in the other clusters.
pub const SERVICE_GLOBAL: Annotation = Annotation::new("service.cilium.io/global", &["io.cilium/global-service"]);
/// `false`: a global Service does not offer its local backends to others.
pub const SERVICE_SHARED: Annotation = Annotation::new("service.cilium.io/shared", &["io.cilium/shared-service"]);
/// Which backends of a global Service to prefer: `local`, `remote`, `none`.
pub const SERVICE_AFFINITY: Annotation = Annotation::new("service.cilium.io/affinity", &["io.cilium/service-affinity"]);
/// Whether the remote backends of a global Service are written as EndpointSlices. Absent: only of a headless one.
pub const SERVICE_GLOBAL_SYNC_ENDPOINT_SLICES: Annotation =
    Annotation::new("service.cilium.io/global-sync-endpoint-slices", &[]);
/// How a backend is chosen: `random` or `maglev`.
pub const SERVICE_LB_ALGORITHM: Annotation = Annotation::new("service.cilium.io/lb-algorithm", &[]);
/// How packets reach a remote backend: `dsr` or `snat`.
pub const SERVICE_FORWARDING_MODE: Annotation = Annotation::new("service.cilium.io/forwarding-mode", &[]);
/// The only Service type to realise: `ClusterIP`, `NodePort` or `LoadBalancer`.
pub const SERVICE_TYPE: Annotation = Annotation::new("service.cilium.io/type", &[]);
/// Nodes with this value in their label of the same name realise the Service, others do not.
pub const SERVICE_NODE: Annotation = Annotation::new("service.cilium.io/node", &[]);
/// Nodes that match this selector realise the Service, others do not.
pub const SERVICE_NODE_SELECTOR: Annotation = Annotation::new("service.cilium.io/node-selector", &[]);
/// Whether loadBalancerSourceRanges `allow` or `deny`.
pub const SERVICE_SRC_RANGES_POLICY: Annotation = Annotation::new("service.cilium.io/src-ranges-policy", &[]);

// Namespaces.
/// Whether what is in the namespace may leave the cluster. Absent: as `--clustermesh-default-global-namespace` says.
pub const NAMESPACE_GLOBAL: Annotation = Annotation::new("clustermesh.cilium.io/global", &[]);

// Nodes.
/// The node's WireGuard public key, on its CiliumNode.
pub const NETWORK_WG_PUB_KEY: Annotation =
    Annotation::new("network.cilium.io/wg-pub-key", &["io.cilium.network.wg-pub-key"]);
/// The node's IPv4 pod CIDR.
pub const NETWORK_IPV4_POD_CIDR: Annotation =
    Annotation::new("network.cilium.io/ipv4-pod-cidr", &["io.cilium.network.ipv4-pod-cidr"]);
/// The node's IPv6 pod CIDR.
pub const NETWORK_IPV6_POD_CIDR: Annotation =
    Annotation::new("network.cilium.io/ipv6-pod-cidr", &["io.cilium.network.ipv6-pod-cidr"]);
/// Index of the node's encryption key.
pub const NETWORK_ENCRYPTION_KEY: Annotation =
    Annotation::new("network.cilium.io/encryption-key", &["io.cilium.network.encryption-key"]);

// Pods.
/// MAC address that the pod asks for.
pub const CNI_MAC_ADDRESS: Annotation = Annotation::new("cni.cilium.io/mac-address", &[]);

// Identities.
/// When the operator first saw that nobody uses an identity, RFC 3339 (Cilium `pkg/k8s/identitybackend`). An agent that
/// takes the identity into use again removes it.
pub const IDENTITY_HEARTBEAT: &str = "io.cilium.heartbeat";

// Labels and selector keys.
/// Namespace of a pod, on identities and as a security label with source `k8s`.
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Security labels of the pod's namespace begin with this.
pub const LABEL_NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels";
/// Security label: the cluster's name.
pub const LABEL_POLICY_CLUSTER: &str = "io.cilium.k8s.policy.cluster";
/// Security label: the pod's service account.
pub const LABEL_POLICY_SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// In a service selector: the Service's name.
pub const SELECTOR_SERVICE_NAME: &str = "io.kubernetes.service.name";
/// In a service selector: the Service's namespace.
pub const SELECTOR_SERVICE_NAMESPACE: &str = "io.kubernetes.service.namespace";
/// On a Service or its EndpointSlices: some other program proxies it.
pub const LABEL_SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// On an EndpointSlice: the Service's name.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// On an EndpointSlice: the program that writes it, and that alone may change it.
pub const LABEL_SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// On a Service or EndpointSlice: the Service is headless, so its names answer with the pods' addresses.
pub const LABEL_HEADLESS: &str = "service.kubernetes.io/headless";
/// On a Node: no load balancer may send traffic to it.
pub const LABEL_NODE_EXCLUDE_FROM_LB: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

// The mesh (Cilium `pkg/clustermesh/{endpointslicesync,mcsapi}`, MCS-API KEP-1645).
/// Value of [`LABEL_SLICE_MANAGED_BY`] on a slice that the operator wrote from the words of another cluster. Whoever reads
/// the mesh itself has these backends already and must not count them again.
pub const SLICE_MANAGED_BY_MESH: &str = "endpointslice-mesh-controller.cilium.io";
/// Value of [`LABEL_SLICE_MANAGED_BY`] on a slice of a derived Service that the operator copied from a local one.
pub const SLICE_MANAGED_BY_MIRROR: &str = "endpointslice-local-mcsapi-controller.cilium.io";
/// On an EndpointSlice: the cluster whose backends it has.
pub const LABEL_MCS_SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// On a derived Service and its EndpointSlices: the name of the Service that was exported.
pub const LABEL_MCS_SERVICE_NAME: &str = "multicluster.kubernetes.io/service-name";
/// On a copied EndpointSlice: the slice it was copied from.
pub const LABEL_MCS_LOCAL_SLICE: &str = "service.cilium.io/local-endpointslice";
/// On a ServiceImport: the derived Service that serves it.
pub const ANNOTATION_MCS_DERIVED_SERVICE: &str = "multicluster.kubernetes.io/derived-service";
/// On a ServiceImport and its derived Service: IP families, with commas between, that all exports and this cluster have.
pub const ANNOTATION_MCS_SUPPORTED_IP_FAMILIES: &str = "clustermesh.cilium.io/supported-ip-families";

// Load balancer classes that LB IPAM serves beside "none given".
pub const LB_CLASS_BGP: &str = "io.cilium/bgp-control-plane";
pub const LB_CLASS_L2: &str = "io.cilium/l2-announcer";

// Conditions.
/// On a Service: whether it has the addresses that it asks for.
pub const CONDITION_IPAM_REQUEST_SATISFIED: &str = "cilium.io/IPAMRequestSatisfied";
/// On a pool: whether it overlaps an older one.
pub const CONDITION_POOL_CONFLICT: &str = "cilium.io/PoolConflict";
/// On a pool: number of its addresses, as the message.
pub const CONDITION_IPS_TOTAL: &str = "cilium.io/IPsTotal";
/// On a pool: number of its free addresses, as the message.
pub const CONDITION_IPS_AVAILABLE: &str = "cilium.io/IPsAvailable";
/// On a pool: number of its addresses in use, as the message.
pub const CONDITION_IPS_USED: &str = "cilium.io/IPsUsed";
/// On a CiliumBGPClusterConfig: its selector matches no node.
pub const CONDITION_NO_MATCHING_NODE: &str = "cilium.io/NoMatchingNode";
/// On a CiliumBGPClusterConfig: it names peer configurations that do not exist.
pub const CONDITION_MISSING_PEER_CONFIGS: &str = "cilium.io/MissingPeerConfigs";
/// On a CiliumBGPClusterConfig: another one selects the same nodes.
pub const CONDITION_CONFLICTING_CLUSTER_CONFIG: &str = "cilium.io/ConflictingClusterConfig";
/// On a CiliumBGPPeerConfig: its Secret does not exist.
pub const CONDITION_MISSING_AUTH_SECRET: &str = "cilium.io/MissingAuthSecret";
/// On a CiliumBGPNodeConfig: the agent could not carry it out.
pub const CONDITION_BGP_RECONCILE_ERROR: &str = "cilium.io/BGPReconcileError";
/// On a ServiceExport: whether there is a Service that can be exported.
pub const CONDITION_EXPORT_VALID: &str = "Valid";
/// On a ServiceExport and a ServiceImport: whether it is in effect.
pub const CONDITION_MCS_READY: &str = "Ready";
/// On a ServiceExport: whether the exports of other clusters say otherwise; the oldest wins.
pub const CONDITION_EXPORT_CONFLICT: &str = "Conflict";
/// Ours: the object has a field that we cannot use; the message names field and remedy.
pub const CONDITION_REJECTED: &str = "causeway.io/Rejected";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_found_and_the_newer_name_wins() {
        let mut annotations = BTreeMap::from([("io.cilium/lb-ipam-ips".to_owned(), "192.0.2.1".to_owned())]);
        assert_eq!(LB_IPAM_IPS.find(Some(&annotations)), Some(("io.cilium/lb-ipam-ips", "192.0.2.1")));
        annotations.insert("lbipam.cilium.io/ips".to_owned(), "192.0.2.2".to_owned());
        assert_eq!(LB_IPAM_IPS.get(Some(&annotations)), Some("192.0.2.2"));
        assert_eq!(LB_IPAM_IPS.get(None), None);
    }
}
