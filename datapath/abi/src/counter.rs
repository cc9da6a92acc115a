//! The closed list of what the programs count. A refusal is one of these, and every one has a name.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $value:literal $text:literal $drop:literal;)*) => {
        /// Index into `COUNTERS`. Drops carry the numbers of Cilium's drop reasons where it has one, so that Hubble's
        /// clients print them (`flow.DropReason`); numbers below 128 count packets that went on.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $name = $value,)* }

        impl Counter {
            pub const ALL: &'static [Counter] = &[$(Counter::$name,)*];

            /// Stable name, used as metric label and in `causeway status`.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => $text,)* }
            }

            /// Whether packets counted here were dropped.
            pub const fn is_drop(self) -> bool {
                match self { $(Counter::$name => $drop,)* }
            }
        }
    };
}

counters! {
    /// Delivered to a pod of this node.
    ToEndpoint = 0 "to-endpoint" false;
    /// Sent to the wire by the programs.
    ToNetwork = 1 "to-network" false;
    /// Left to the host's stack.
    ToStack = 2 "to-stack" false;
    /// A connection to a service got a backend.
    ServiceChosen = 3 "service-chosen" false;
    /// A source address was translated for the first packet of a connection.
    Masqueraded = 4 "masqueraded" false;
    /// A pod sent from an address that is not its own.
    InvalidSourceIp = 132 "invalid-source-ip" true;
    /// The headers do not fit the packet or contradict each other.
    InvalidPacket = 134 "invalid-packet" true;
    /// A rewrite of packet bytes failed.
    WriteError = 141 "write-error" true;
    /// No port or id was free for source translation.
    NoMappingForNat = 161 "no-mapping-for-nat" true;
    /// The flow table refused a new row.
    FlowInsertFailed = 155 "flow-insert-failed" true;
    /// A fragment without ports whose first fragment was not seen.
    FragmentNotFound = 157 "fragment-not-found" true;
    /// The service exists and has no backend that may answer.
    ServiceBackendNotFound = 158 "service-backend-not-found" true;
    /// A router's word that a backend cannot be reached, about a connection that no backend has answered. The client keeps
    /// trying, and finds another one.
    BackendUnreachable = 240 "backend-unreachable" true;
    /// The address is a service's, the port is not.
    NoService = 180 "no-service" true;
    /// No route to the destination, or the route refuses.
    FibLookupFailed = 169 "fib-lookup-failed" true;
    /// Was about to leave in plaintext and must not.
    NotEncrypted = 195 "unencrypted-traffic" true;
    /// Came from the wire in plaintext and must not.
    PlaintextRefused = 241 "plaintext-refused" true;
}

/// Rows of the `COUNTERS` array.
pub const COUNTERS_LEN: u32 = 256;
