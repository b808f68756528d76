//! The binary: the command line of `cordon`.

fn main() {}
