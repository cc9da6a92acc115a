//! Tables of the follower.
