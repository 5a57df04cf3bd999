#![doc = include_str!("../../docs/MACHINES.md")]
#![allow(clippy::doc_markdown)] // It is a page first.
