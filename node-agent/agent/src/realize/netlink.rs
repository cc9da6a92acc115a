//! Netlink calls. (being written)
