pub mod kernel;
pub mod source;
