//! An HSM of a fleet, over the bytes of its connections.
