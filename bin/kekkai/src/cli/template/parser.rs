//! Tokens to a tree.

use super::lexer::{self, Failure, Token, Tokens};

/// A parsed template.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(super) source: String,
    pub(super) body: Vec<Node>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    Action(Pipeline),
    If {
        pipe: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        pipe: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        pipe: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) declares: Vec<String>,
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) at: usize,
    pub(super) operands: Vec<Operand>,
}

#[derive(Debug, Clone)]
pub(super) enum Operand {
    Dot,
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Char(char, String),
    Text(String, String),
    /// A chain of fields from dot; the position is the second field's, as in Go.
    Field(Vec<String>, usize),
    /// A variable and fields after it.
    Variable(String, Vec<String>, usize),
    Function(String, usize),
    /// A parenthesised pipeline and fields after it.
    Pipe(Box<Pipeline>, Vec<String>, usize),
}

const KEYWORDS: &[&str] = &[
    "if", "with", "range", "else", "end", "define", "template", "block", "break", "continue",
];
/// Templates nest at most this deep; each level is a level of our own stack.
const MAX_DEPTH: usize = 100;

/// Parses a template.
///
/// # Errors
/// The text after `template: :` of Go's message, for example `1: unclosed action`.
pub(crate) fn parse(source: &str) -> Result<Template, String> {
    parse_inner(source)
        .map(|body| Template {
            source: source.to_owned(),
            body,
        })
        .map_err(|(message, line)| format!("template: :{line}: {message}"))
}

fn parse_inner(source: &str) -> Result<Vec<Node>, Failure> {
    let mut parser = Parser {
        source,
        tokens: lexer::lex(source)?,
        at: 0,
        variables: vec![String::from("$")],
        loops: 0,
        depth: 0,
    };
    let (body, end) = parser.list()?;
    match end {
        None => Ok(body),
        Some(word) => Err(parser.failure(format!("unexpected {{{{{word}}}}}"))),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Tokens,
    at: usize,
    variables: Vec<String>,
    loops: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn position(&self) -> usize {
        self.tokens
            .get(self.at)
            .map_or(self.source.len(), |(_, at)| *at)
    }

    fn next(&mut self) -> Option<(Token, usize)> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(Token::Space)) {
            self.at += 1;
        }
    }

    fn failure(&self, message: impl Into<String>) -> Failure {
        (message.into(), lexer::line_of(self.source, self.position()))
    }

    /// Nodes up to the end, or up to `{{end}}` or `{{else`, whose word is returned.
    fn list(&mut self) -> Result<(Vec<Node>, Option<&'static str>), Failure> {
        let mut nodes = Vec::new();
        loop {
            match self.next() {
                None => return Ok((nodes, None)),
                Some((Token::Literal(text), _)) => nodes.push(Node::Text(text)),
                Some((Token::Open, _)) => {
                    self.skip_space();
                    if let Some(Token::Word(word)) = self.peek()
                        && let Some(keyword) = KEYWORDS.iter().find(|keyword| *keyword == word)
                    {
                        self.at += 1;
                        match *keyword {
                            "end" => {
                                self.close("end")?;
                                return Ok((nodes, Some("end")));
                            }
                            "else" => return Ok((nodes, Some("else"))),
                            "if" | "with" | "range" => nodes.push(self.control(keyword)?),
                            "break" | "continue" => {
                                if self.loops == 0 {
                                    return Err(self.failure(format!(
                                        "{{{{{keyword}}}}} outside {{{{range}}}}"
                                    )));
                                }
                                self.close(keyword)?;
                                nodes.push(if *keyword == "break" {
                                    Node::Break
                                } else {
                                    Node::Continue
                                });
                            }
                            _ => {
                                return Err(self.failure(format!(
                                    "{{{{{keyword}}}}} is not supported in a format"
                                )));
                            }
                        }
                        continue;
                    }
                    let pipe = self.pipeline("command", &Token::Close)?;
                    nodes.push(Node::Action(pipe));
                }
                Some(_) => return Err(self.failure("unexpected token")),
            }
        }
    }

    fn close(&mut self, context: &str) -> Result<(), Failure> {
        self.skip_space();
        match self.next() {
            Some((Token::Close, _)) => Ok(()),
            other => Err(self.failure(format!(
                "unexpected {} in {context}",
                describe(other.as_ref().map(|(token, _)| token))
            ))),
        }
    }

    fn control(&mut self, keyword: &str) -> Result<Node, Failure> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.failure("templates nested too deeply"));
        }
        let scope = self.variables.len();
        let pipe = self.pipeline(keyword, &Token::Close)?;
        self.loops += usize::from(keyword == "range");
        let (then, mut end) = self.list()?;
        self.loops -= usize::from(keyword == "range");
        let mut otherwise = Vec::new();
        if end == Some("else") {
            self.skip_space();
            let chained = matches!(self.peek(), Some(Token::Word(word)) if word == keyword && keyword != "range");
            if chained {
                self.at += 1;
                otherwise.push(self.control(keyword)?);
                end = Some("end");
            } else {
                self.close("else")?;
                (otherwise, end) = self.list()?;
                if end == Some("else") {
                    return Err(self.failure("expected end; found {{else}}"));
                }
            }
        }
        if end.is_none() {
            return Err(self.failure("unexpected EOF"));
        }
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(match keyword {
            "if" => Node::If {
                pipe,
                then,
                otherwise,
            },
            "with" => Node::With {
                pipe,
                then,
                otherwise,
            },
            _ => Node::Range {
                pipe,
                body: then,
                otherwise,
            },
        })
    }

    /// A pipeline up to and including `end`.
    fn pipeline(&mut self, context: &str, end: &Token) -> Result<Pipeline, Failure> {
        self.skip_space();
        let (declares, assigns) = self.declarations(context)?;
        let mut commands = Vec::new();
        loop {
            self.skip_space();
            let at = self.position();
            let mut operands = Vec::new();
            loop {
                if let Some(operand) = self.operand()? {
                    operands.push(operand);
                }
                match self.next() {
                    Some((Token::Space, _)) => {
                        self.skip_space();
                        if matches!(self.peek(), Some(Token::Pipe)) {
                            continue;
                        }
                        if self.peek() == Some(end) {
                            continue;
                        }
                    }
                    Some((Token::Pipe, _)) => {
                        if operands.is_empty() {
                            return Err(self.failure(format!("missing value for {context}")));
                        }
                        commands.push(Command { at, operands });
                        break;
                    }
                    Some((token, _)) if token == *end => {
                        if operands.is_empty() {
                            return Err(self.failure(format!("missing value for {context}")));
                        }
                        commands.push(Command { at, operands });
                        let later = commands
                            .iter()
                            .skip(1)
                            .find(|command| !is_callable(&command.operands[0]));
                        if let Some(command) = later {
                            let stage = commands
                                .iter()
                                .position(|other| other.at == command.at)
                                .unwrap_or(0)
                                + 1;
                            let what = super::eval::describe_operand(&command.operands[0]);
                            return Err(self.failure(format!(
                                "non executable command in pipeline stage {stage}: {what}"
                            )));
                        }
                        return Ok(Pipeline {
                            declares,
                            assigns,
                            commands,
                        });
                    }
                    other => {
                        return Err(self.failure(format!(
                            "unexpected {} in operand",
                            describe(other.as_ref().map(|(token, _)| token))
                        )));
                    }
                }
            }
        }
    }

    fn declarations(&mut self, context: &str) -> Result<(Vec<String>, bool), Failure> {
        let start = self.at;
        let mut names = Vec::new();
        while let Some(Token::Variable(name)) = self.peek().cloned() {
            self.at += 1;
            self.skip_space();
            names.push(name);
            match self.peek() {
                Some(Token::Declare) => {
                    self.at += 1;
                    self.variables.extend(names.iter().cloned());
                    return Ok((names, false));
                }
                Some(Token::Assign) => {
                    self.at += 1;
                    return Ok((names, true));
                }
                Some(Token::Comma) if context == "range" && names.len() < 2 => {
                    self.at += 1;
                    self.skip_space();
                }
                _ => break,
            }
        }
        self.at = start;
        Ok((Vec::new(), false))
    }

    fn operand(&mut self) -> Result<Option<Operand>, Failure> {
        let at = self.position();
        let mut operand = match self.peek().cloned() {
            Some(Token::Dot) => Operand::Dot,
            Some(Token::Field(name)) => Operand::Field(vec![name], at),
            Some(Token::Variable(name)) => {
                if !self.variables.contains(&name) {
                    return Err(self.failure(format!("undefined variable \"{name}\"")));
                }
                Operand::Variable(name, Vec::new(), at)
            }
            Some(Token::Word(word)) => match word.as_str() {
                "true" => Operand::Bool(true),
                "false" => Operand::Bool(false),
                "nil" => Operand::Nil,
                _ if super::functions::exists(&word) => Operand::Function(word, at),
                _ => return Err(self.failure(format!("function \"{word}\" not defined"))),
            },
            Some(Token::Text(value, source)) => Operand::Text(value, source),
            Some(Token::Int(value)) => Operand::Int(value),
            Some(Token::Float(value)) => Operand::Float(value),
            Some(Token::Char(value, source)) => Operand::Char(value, source),
            Some(Token::LeftParen) => {
                self.at += 1;
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(self.failure("templates nested too deeply"));
                }
                let pipe = self.pipeline("parenthesized pipeline", &Token::RightParen)?;
                self.depth -= 1;
                self.at -= 1;
                Operand::Pipe(Box::new(pipe), Vec::new(), at)
            }
            _ => return Ok(None),
        };
        self.at += 1;
        let mut first = true;
        while let Some(Token::Field(name)) = self.peek().cloned() {
            let here = self.position();
            match &mut operand {
                Operand::Field(names, position) | Operand::Variable(_, names, position) => {
                    names.push(name);
                    if first {
                        *position = here;
                    }
                }
                Operand::Pipe(_, names, _) => names.push(name),
                Operand::Dot => {
                    return Err(self.failure(format!("unexpected <.{name}> in operand")));
                }
                other => {
                    let what = super::eval::describe_operand(other);
                    return Err(self.failure(format!("unexpected . after term {what:?}")));
                }
            }
            first = false;
            self.at += 1;
        }
        Ok(Some(operand))
    }
}

/// Whether an operand may receive the result of the command before it.
fn is_callable(operand: &Operand) -> bool {
    matches!(
        operand,
        Operand::Function(..) | Operand::Field(..) | Operand::Variable(..) | Operand::Pipe(..)
    )
}

fn describe(token: Option<&Token>) -> String {
    match token {
        None => String::from("EOF"),
        Some(Token::Close) => String::from("\"}}\""),
        Some(Token::Declare) => String::from("\":=\""),
        Some(Token::Assign) => String::from("\"=\""),
        Some(Token::Comma) => String::from("\",\""),
        Some(Token::RightParen) => String::from("\")\""),
        Some(Token::LeftParen) => String::from("\"(\""),
        Some(Token::Word(word)) => format!("<{word}>"),
        Some(Token::Field(name)) => format!("<.{name}>"),
        Some(Token::Variable(name)) => format!("\"{name}\""),
        Some(Token::Text(_, source)) => source.clone(),
        Some(Token::Dot) => String::from("<.>"),
        Some(other) => format!("{other:?}"),
    }
}
