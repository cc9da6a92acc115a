//! Tests of the house itself: which room may know which, and what every file must have. Holds no code.
