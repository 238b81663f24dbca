//! `WWW-Authenticate` (RFC 9110, 11.6.1): what a registry wants to see.

/// One challenge that we can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// RFC 7617.
    Basic,
    /// RFC 6750 with the parameters of the distribution project.
    Bearer {
        realm: String,
        service: String,
        scope: String,
        /// `invalid_token` or `insufficient_scope`, when a token was sent and did not do.
        error: String,
        error_description: String,
    },
}

/// Longest header looked at.
const LONGEST: usize = 8 << 10;

/// The challenges of one header. What cannot be parsed is left out.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = header
        .get(..LONGEST.min(header.len()))
        .unwrap_or("")
        .trim_start();
    while !rest.is_empty() {
        let (word, after) = token(rest);
        if word.is_empty() {
            // Not the grammar; go on after the next comma.
            rest = rest
                .split_once(',')
                .map_or("", |(_, after)| after)
                .trim_start();
            continue;
        }
        let after = after.trim_start();
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = parameter(value.trim_start());
            if let Some(challenge) = found.last_mut() {
                set(challenge, &word.to_ascii_lowercase(), value);
            }
            rest = after.trim_start().trim_start_matches(',').trim_start();
            continue;
        }
        match word.to_ascii_lowercase().as_str() {
            "basic" => found.push(Challenge::Basic),
            "bearer" => found.push(Challenge::Bearer {
                realm: String::new(),
                service: String::new(),
                scope: String::new(),
                error: String::new(),
                error_description: String::new(),
            }),
            _ => {}
        }
        rest = after.trim_start_matches(',').trim_start();
    }
    found.retain(
        |challenge| !matches!(challenge, Challenge::Bearer { realm, .. } if realm.is_empty()),
    );
    found
}

fn token(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|b| !(b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted string.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return (text[..end].trim_end().to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn set(challenge: &mut Challenge, key: &str, value: String) {
    if let Challenge::Bearer {
        realm,
        service,
        scope,
        error,
        error_description,
    } = challenge
    {
        match key {
            "realm" => *realm = value,
            "service" => *service = value,
            "scope" => *scope = value,
            "error" => *error = value,
            "error_description" => *error_description = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: &str, scope: &str| Challenge::Bearer {
            realm: realm.into(),
            service: service.into(),
            scope: scope.into(),
            error: String::new(),
            error_description: String::new(),
        };
        assert_eq!(parse(r#"Basic realm="x""#), [Challenge::Basic]);
        assert_eq!(
            parse(
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#
            ),
            [bearer(
                "https://auth.docker.io/token",
                "registry.docker.io",
                "repository:a/b:pull,push"
            )]
        );
        assert_eq!(
            parse(r#"bearer realm=https://a/t , service="a\"b", Basic realm="x""#),
            [bearer("https://a/t", "a\"b", ""), Challenge::Basic]
        );
        for odd in [
            "",
            "Digest x=y",
            "Bearer",
            "Bearer service=\"x\"",
            "=,=\"",
            "Bearer realm=\"",
            "\u{e9}",
            "Basic \"x",
        ] {
            assert!(
                !parse(odd)
                    .iter()
                    .any(|c| matches!(c, Challenge::Bearer { .. })),
                "{odd}"
            );
        }
    }
}
