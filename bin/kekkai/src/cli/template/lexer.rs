//! Cuts a template into literal text and the tokens of its actions, with their byte positions.

/// A token inside `{{ }}`, or text outside of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// Literal text between actions, already trimmed.
    Literal(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// A word: keyword, function name, `true`, `nil`.
    Word(String),
    /// `.Name`.
    Field(String),
    /// `.` alone.
    Dot,
    /// `$` or `$name`.
    Variable(String),
    /// A quoted or raw string, with its value and its source.
    Text(String, String),
    Int(i64),
    Float(f64),
    /// A character constant and its source.
    Char(char, String),
    Pipe,
    LeftParen,
    RightParen,
    Declare,
    Assign,
    Comma,
    /// Blanks between operands; they separate arguments from field chains.
    Space,
}

/// Tokens with the byte offset at which each begins.
pub(super) type Tokens = Vec<(Token, usize)>;

/// What is wrong, and in which line.
pub(super) type Failure = (String, usize);

/// Cuts `source` into tokens.
pub(super) fn lex(source: &str) -> Result<Tokens, Failure> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    loop {
        let rest = &source[at..];
        let Some(open) = rest.find("{{") else {
            push_literal(&mut tokens, rest, at, trim_next, false);
            return Ok(tokens);
        };
        let action = &rest[open + 2..];
        let trims = action.starts_with('-') && action[1..].starts_with([' ', '\t', '\r', '\n']);
        push_literal(&mut tokens, &rest[..open], at, trim_next, trims);
        let mut inside = at + open + 2 + if trims { 2 } else { 0 };
        if source[inside..].starts_with("/*") {
            let Some(end) = source[inside..].find("*/") else {
                return Err((String::from("unclosed comment"), line_of(source, inside)));
            };
            inside += end + 2;
            let tail = source[inside..].trim_start_matches([' ', '\t', '\r', '\n']);
            let skipped = source[inside..].len() - tail.len();
            if let Some(rest) = tail.strip_prefix("-}}").filter(|_| skipped > 0) {
                trim_next = true;
                at = source.len() - rest.len();
            } else if source[inside..].starts_with("}}") {
                trim_next = false;
                at = inside + 2;
            } else {
                return Err((
                    String::from("comment ends before closing delimiter"),
                    line_of(source, inside),
                ));
            }
            continue;
        }
        tokens.push((Token::Open, at + open));
        (at, trim_next) = lex_action(source, inside, &mut tokens)?;
    }
}

fn push_literal(tokens: &mut Tokens, text: &str, at: usize, trim_left: bool, trim_right: bool) {
    let blanks: &[char] = &[' ', '\t', '\r', '\n'];
    let text = if trim_left {
        text.trim_start_matches(blanks)
    } else {
        text
    };
    let text = if trim_right {
        text.trim_end_matches(blanks)
    } else {
        text
    };
    if !text.is_empty() {
        tokens.push((Token::Literal(text.to_owned()), at));
    }
}

pub(super) fn line_of(source: &str, at: usize) -> usize {
    1 + source[..at.min(source.len())].matches('\n').count()
}

/// Reads one action up to its `}}`. Returns where it ends and whether the text after it is trimmed.
fn lex_action(source: &str, start: usize, tokens: &mut Tokens) -> Result<(usize, bool), Failure> {
    let mut at = start;
    let mut depth = 0usize;
    loop {
        let rest = &source[at..];
        let fail = |message: String| Err((message, line_of(source, at)));
        let Some(c) = rest.chars().next() else {
            return fail(String::from("unclosed action"));
        };
        let closes = |rest: &str| rest.starts_with("}}");
        if closes(rest)
            || (rest.starts_with('-')
                && closes(&rest[1..])
                && matches!(tokens.last(), Some((Token::Space, _))))
        {
            let trims = c == '-';
            if depth > 0 {
                return fail(String::from("unclosed left paren"));
            }
            tokens.push((Token::Close, at));
            return Ok((at + 2 + usize::from(trims), trims));
        }
        let (token, length) = match c {
            ' ' | '\t' | '\r' | '\n' => {
                let end = rest
                    .find(|c| !matches!(c, ' ' | '\t' | '\r' | '\n'))
                    .unwrap_or(rest.len());
                (Token::Space, end)
            }
            '|' => (Token::Pipe, 1),
            '(' => {
                depth += 1;
                (Token::LeftParen, 1)
            }
            ')' => {
                if depth == 0 {
                    return fail(String::from("unexpected right paren"));
                }
                depth -= 1;
                (Token::RightParen, 1)
            }
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            ':' => return fail(String::from("expected :=")),
            '=' => (Token::Assign, 1),
            '"' => {
                let (value, length) =
                    quoted(rest).map_err(|message| (message, line_of(source, at)))?;
                (Token::Text(value, rest[..length].to_owned()), length)
            }
            '`' => {
                let Some(end) = rest[1..].find('`') else {
                    return fail(String::from("unterminated raw quoted string"));
                };
                (
                    Token::Text(rest[1..=end].to_owned(), rest[..end + 2].to_owned()),
                    end + 2,
                )
            }
            '\'' => {
                let end = rest[1..].find('\'').map(|end| end + 2);
                let Some((length, value)) =
                    end.and_then(|length| Some((length, unescape(&rest[1..length - 1])?)))
                else {
                    return fail(String::from("unterminated character constant"));
                };
                match value.chars().next() {
                    Some(c) if value.chars().nth(1).is_none() => {
                        (Token::Char(c, rest[..length].to_owned()), length)
                    }
                    _ => return fail(format!("malformed character constant: {}", &rest[..length])),
                }
            }
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => number(source, at)?,
            '.' => {
                let end = word_end(&rest[1..]);
                if end == 0 {
                    (Token::Dot, 1)
                } else {
                    (Token::Field(rest[1..=end].to_owned()), end + 1)
                }
            }
            '$' => {
                let end = word_end(&rest[1..]);
                (Token::Variable(rest[..=end].to_owned()), end + 1)
            }
            '+' | '-' | '0'..='9' => number(source, at)?,
            c if c == '_' || c.is_alphabetic() => {
                let end = word_end(rest);
                (Token::Word(rest[..end].to_owned()), end)
            }
            c => {
                return fail(format!(
                    "unrecognized character in action: U+{:04X} {c:?}",
                    u32::from(c)
                ));
            }
        };
        tokens.push((token, at));
        at += length;
    }
}

fn word_end(text: &str) -> usize {
    text.find(|c: char| !(c == '_' || c.is_alphanumeric()))
        .unwrap_or(text.len())
}

fn number(source: &str, at: usize) -> Result<(Token, usize), Failure> {
    let rest = &source[at..];
    let end = rest
        .char_indices()
        .find(|(index, c)| {
            !(c.is_ascii_alphanumeric()
                || matches!(c, '.' | '_')
                || (matches!(c, '+' | '-')
                    && (*index == 0 || rest[..*index].ends_with(['e', 'E']))))
        })
        .map_or(rest.len(), |(index, _)| index);
    let raw = &rest[..end];
    let text = raw.replace('_', "");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let lower = digits.to_ascii_lowercase();
    let parsed = if let Some(hex) = lower.strip_prefix("0x") {
        i64::from_str_radix(hex, 16).ok()
    } else if let Some(octal) = lower.strip_prefix("0o") {
        i64::from_str_radix(octal, 8).ok()
    } else if let Some(binary) = lower.strip_prefix("0b") {
        i64::from_str_radix(binary, 2).ok()
    } else {
        digits.parse().ok()
    };
    let token = match (parsed, digits.parse::<f64>()) {
        (Some(value), _) => Token::Int(if negative { -value } else { value }),
        (None, Ok(value)) => Token::Float(if negative { -value } else { value }),
        _ => return Err((format!("bad number syntax: {raw:?}"), line_of(source, at))),
    };
    Ok((token, end))
}

/// Reads a double-quoted string at the start of `text`: its value and its length in the source.
fn quoted(text: &str) -> Result<(String, usize), String> {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            '\n' => break,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => {
                let value =
                    unescape(&text[1..index]).ok_or_else(|| String::from("invalid syntax"))?;
                return Ok((value, index + 1));
            }
            _ => {}
        }
    }
    Err(String::from("unterminated quoted string"))
}

/// Resolves Go's escapes; `None` where one is malformed.
pub(crate) fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let c = match chars.clone().next()? {
            'x' => {
                chars.next();
                let mut pair = || chars.next()?.to_digit(16);
                bytes.push(u8::try_from(pair()? * 16 + pair()?).ok()?);
                continue;
            }
            first @ '0'..='7' => {
                chars.next();
                let mut more = || chars.next()?.to_digit(8);
                let value = first.to_digit(8)? * 64 + more()? * 8 + more()?;
                bytes.push(u8::try_from(value).ok()?);
                continue;
            }
            kind @ ('u' | 'U') => {
                chars.next();
                let mut value = 0u32;
                for _ in 0..if kind == 'u' { 4 } else { 8 } {
                    value = value
                        .checked_mul(16)?
                        .checked_add(chars.next()?.to_digit(16)?)?;
                }
                char::from_u32(value)?
            }
            other => {
                chars.next();
                match other {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'v' => '\x0b',
                    '\\' | '"' | '\'' => other,
                    _ => return None,
                }
            }
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
