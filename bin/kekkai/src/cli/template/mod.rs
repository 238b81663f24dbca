//! Go's text templates, as far as `--format` uses them: values, parser, evaluation, Docker's extra functions.
//!
//! What must stay true: rendering never panics and never loops without a list to loop over; text and error positions are
//! the ones Go's `text/template` produces, because scripts compare them.

mod eval;
mod functions;
mod lexer;
mod parser;
mod print;
mod value;

pub(crate) use eval::{Mode, execute};
pub(crate) use parser::parse;
pub(crate) use value::{Value, from_json};

#[cfg(test)]
mod tests;
