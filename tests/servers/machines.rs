#![doc = include_str!("../../docs/MACHINES.md")]
