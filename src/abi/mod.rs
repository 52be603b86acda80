//! The C ABI: pointers end here.
