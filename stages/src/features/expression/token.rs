//! The words of an expression.

use std::ops::Range;

use super::mistake::Mistake;

/// One word.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// A number, not negative and finite.
    Number(f64),
    /// A name or one of the words `and`, `or`, `not`.
    Name(String),
    /// What stood between quotes.
    Text(String),
    /// One of [`SYMBOLS`].
    Symbol(&'static str),
}

/// Longer ones before those that they begin with.
const SYMBOLS: [&str; 19] = [
    "<=", ">=", "==", "!=", "<", ">", "=", "+", "-", "*", "/", "^", "(", ")", "[", "]", ",", ".",
    "!",
];

/// The words of `text`, each with its bytes.
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, Mistake> {
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(letter) = text[start..].chars().next() {
        if letter.is_whitespace() {
            start += letter.len_utf8();
            continue;
        }
        let rest = &text[start..];
        let (token, length) = if letter.is_ascii_digit() {
            number(rest, start)?
        } else if letter.is_ascii_alphabetic() || letter == '_' {
            let length = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            (Token::Name(rest[..length].to_owned()), length)
        } else if letter == '"' || letter == '\'' {
            let Some(length) = rest[1..].find(letter) else {
                return Err(Mistake::new(
                    start..text.len(),
                    "the text that begins here has no end",
                )
                .help(format!("close it with {letter}")));
            };
            (Token::Text(rest[1..=length].to_owned()), length + 2)
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            (Token::Symbol(symbol), symbol.len())
        } else {
            return Err(unknown(letter, start));
        };
        found.push((token, start..start + length));
        start += length;
    }
    Ok(found)
}

fn unknown(letter: char, start: usize) -> Mistake {
    let help = match letter {
        '&' => "a condition and another are joined by `and`",
        '|' => "a condition or another are joined by `or`",
        '?' | ':' => "a choice is written `if(condition, then, otherwise)`",
        '%' => "a share of a hundred is a number, as `0.05`",
        _ => "",
    };
    let shown = letter.escape_debug();
    Mistake::new(
        start..start + letter.len_utf8(),
        format!("`{shown}` means nothing in an expression"),
    )
    .help(help)
}

/// The number at the start of `rest`, and its length.
fn number(rest: &str, start: usize) -> Result<(Token, usize), Mistake> {
    let bytes = rest.as_bytes();
    let digits = |from: usize| {
        bytes[from.min(bytes.len())..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut length = digits(0);
    if bytes.get(length) == Some(&b'.') && digits(length + 1) > 0 {
        length += 1 + digits(length + 1);
    }
    if matches!(bytes.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits(length + 1 + sign);
        if exponent > 0 {
            length += 1 + sign + exponent;
        }
    }
    let glued = rest[length..]
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len() - length);
    let at = start..start + length + glued;
    if glued > 0 {
        let shown = &rest[..length + glued];
        return Err(Mistake::new(
            at,
            format!("`{shown}` is neither a number nor a name"),
        ));
    }
    match rest[..length].parse::<f64>() {
        Ok(x) if x.is_finite() => Ok((Token::Number(x), length)),
        _ => Err(Mistake::new(at, "this number is too large")),
    }
}
