//! The one writer of the tables.
