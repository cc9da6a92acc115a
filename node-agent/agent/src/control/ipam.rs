//! Which address a pod gets. (being written)
