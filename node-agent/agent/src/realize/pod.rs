//! A pod's interface. (being written)
