//! Nobody sees anything of a neighbour: tests generated from the schema's own text, and one for each leak of that kind that others had.
//! Everything goes over HTTP, as a client would.

mod abuse;
mod alike;
mod errors;
mod headers;
mod holes;
mod lists;
mod replay;
mod table;
mod together;
mod world;
