//! stolon-proxy as a library: its rooms, for the program and its tests.
