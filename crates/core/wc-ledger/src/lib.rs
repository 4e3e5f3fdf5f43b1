//! Who owes whom, and how can anyone check it?
#![forbid(unsafe_code)]

pub mod book;
mod pairs;
pub mod price;

pub use book::{Book, PostError, Totals};
pub use price::price;
