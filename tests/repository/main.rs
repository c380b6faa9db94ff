//! What lies in this repository agrees with itself: the sources with the house rules, the documents with the sources, the
//! corpora with the fuzz targets. None of it starts a node.

mod documents;
mod fuzz_corpora;
mod tidy;
