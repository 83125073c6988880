//! `when = "${matrix.model} == 'gru' and ${matrix.layers} > 1"`.
//!
//! Comparisons `== != < <= > >=` and `in [...]` of references, strings in single or double quotes, numbers and `true`/`false`,
//! joined by `not`, `and`, `or` and parentheses.

use crate::document::{Content, Node};

/// A value in a condition.
#[derive(Debug, Clone, PartialEq)]
enum Term {
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Term>),
}

impl Term {
    fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
        }
    }

    fn of(node: &Node) -> Option<Self> {
        Some(match &node.content {
            Content::Bool(truth) => Self::Bool(*truth),
            Content::Integer(integer) => Self::Number(*integer as f64),
            Content::Float(float) => Self::Number(*float),
            Content::String(text) | Content::Datetime(text) => Self::Text(text.clone()),
            Content::Array(items) => Self::List(items.iter().map(Self::of).collect::<Option<_>>()?),
            Content::Table(_) | Content::Broken => return None,
        })
    }
}

/// Why a condition has no truth.
#[derive(Debug, PartialEq)]
pub(crate) enum Mistake {
    /// At this byte something is wrong.
    At(usize, String),
    /// A reference was complained about already.
    Reported,
}

/// The truth of the condition in `text`. `reference` gives the value of `${...}`, which is handed over whole.
pub(crate) fn evaluate(
    text: &str,
    reference: &mut dyn FnMut(&str) -> Node,
) -> Result<bool, Mistake> {
    let mut reader = Reader {
        text,
        at: 0,
        depth: 0,
        reference,
    };
    let start = reader.at;
    let term = reader.either()?;
    reader.skip_space();
    if reader.at < text.len() {
        let rest = &text[reader.at..];
        return Err(reader.mistake(format!("`{rest}` means nothing here")));
    }
    Reader::truth(term, start)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    reference: &'a mut dyn FnMut(&str) -> Node,
}

impl Reader<'_> {
    fn mistake(&self, message: impl Into<String>) -> Mistake {
        Mistake::At(self.at, message.into())
    }

    fn truth(term: Term, at: usize) -> Result<bool, Mistake> {
        match term {
            Term::Bool(truth) => Ok(truth),
            other => {
                let message = format!("{} is neither true nor false", other.type_name());
                Err(Mistake::At(at, message))
            }
        }
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Takes `sign` if it comes next.
    fn take(&mut self, sign: &str) -> bool {
        self.skip_space();
        let rest = &self.text[self.at..];
        let is_word = sign.bytes().all(|b| b.is_ascii_alphabetic());
        let goes_on = |rest: &str| {
            rest.bytes()
                .next()
                .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !rest.starts_with(sign) || (is_word && goes_on(&rest[sign.len()..])) {
            return false;
        }
        self.at += sign.len();
        true
    }

    fn either(&mut self) -> Result<Term, Mistake> {
        self.joined(&["or", "||"], Self::both, |a, b| a || b)
    }

    fn both(&mut self) -> Result<Term, Mistake> {
        self.joined(&["and", "&&"], Self::negated, |a, b| a && b)
    }

    fn joined(
        &mut self,
        signs: &[&str],
        part: fn(&mut Self) -> Result<Term, Mistake>,
        join: fn(bool, bool) -> bool,
    ) -> Result<Term, Mistake> {
        self.skip_space();
        let start = self.at;
        let mut term = part(self)?;
        while signs.iter().any(|sign| self.take(sign)) {
            self.skip_space();
            let second = self.at;
            // Both sides are read, so that a mistake on the right is found whatever the left says.
            let right = part(self)?;
            term = Term::Bool(join(Self::truth(term, start)?, Self::truth(right, second)?));
        }
        Ok(term)
    }

    fn negated(&mut self) -> Result<Term, Mistake> {
        self.skip_space();
        let is_negated = self.take("not")
            || (self.text[self.at..].starts_with('!')
                && !self.text[self.at..].starts_with("!=")
                && self.take("!"));
        if !is_negated {
            return self.compared();
        }
        self.deeper()?;
        self.skip_space();
        let start = self.at;
        let term = self.negated()?;
        self.depth -= 1;
        Ok(Term::Bool(!Self::truth(term, start)?))
    }

    fn deeper(&mut self) -> Result<(), Mistake> {
        self.depth += 1;
        if self.depth > 32 {
            return Err(self.mistake("nested more than 32 deep"));
        }
        Ok(())
    }

    fn compared(&mut self) -> Result<Term, Mistake> {
        let left = self.term()?;
        self.skip_space();
        let sign_at = self.at;
        if self.take("in") {
            let right = self.term()?;
            let Term::List(items) = &right else {
                let message = format!("`in` looks into a list, this is {}", right.type_name());
                return Err(Mistake::At(sign_at, message));
            };
            return Ok(Term::Bool(items.contains(&left)));
        }
        let signs = ["==", "!=", "<=", ">=", "<", ">"];
        let Some(sign) = signs.into_iter().find(|sign| self.take(sign)) else {
            if self.text[self.at..].starts_with('=') {
                return Err(self.mistake("`=` compares nothing; write `==`"));
            }
            return Ok(left);
        };
        let right = self.term()?;
        let order = match (&left, &right) {
            (Term::Number(a), Term::Number(b)) => a.partial_cmp(b),
            (Term::Text(a), Term::Text(b)) => Some(a.cmp(b)),
            (Term::Bool(a), Term::Bool(b)) if matches!(sign, "==" | "!=") => Some(a.cmp(b)),
            (a, b) => {
                let (a, b) = (a.type_name(), b.type_name());
                let message = format!("`{sign}` cannot compare {a} with {b}");
                return Err(Mistake::At(sign_at, message));
            }
        };
        let Some(order) = order else {
            return Err(Mistake::At(sign_at, "a number is NaN".to_owned()));
        };
        Ok(Term::Bool(match sign {
            "==" => order.is_eq(),
            "!=" => order.is_ne(),
            "<=" => order.is_le(),
            ">=" => order.is_ge(),
            "<" => order.is_lt(),
            _ => order.is_gt(),
        }))
    }

    fn term(&mut self) -> Result<Term, Mistake> {
        self.skip_space();
        let rest = &self.text[self.at..];
        if rest.starts_with("${") {
            let Some(length) = rest.find('}') else {
                return Err(self.mistake("`${` is not closed by `}`"));
            };
            let written = &rest[..=length];
            let node = (self.reference)(written);
            if node.is_broken() {
                return Err(Mistake::Reported);
            }
            let Some(term) = Term::of(&node) else {
                return Err(self.mistake(format!("`{written}` is {}", node.type_name())));
            };
            self.at += length + 1;
            return Ok(term);
        }
        if self.take("(") {
            self.deeper()?;
            let term = self.either()?;
            self.depth -= 1;
            return self.closed(")", term);
        }
        if self.take("[") {
            self.deeper()?;
            let mut items = Vec::new();
            while !self.text[self.at..].trim_start().starts_with(']') {
                items.push(self.term()?);
                if !self.take(",") {
                    break;
                }
            }
            self.depth -= 1;
            return self.closed("]", Term::List(items));
        }
        for quote in ['\'', '"'] {
            if let Some(inside) = rest.strip_prefix(quote) {
                let Some(length) = inside.find(quote) else {
                    return Err(self.mistake("the string does not end"));
                };
                self.at += length + 2;
                return Ok(Term::Text(inside[..length].to_owned()));
            }
        }
        let length = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "._+-".contains(c)))
            .unwrap_or(rest.len());
        let word = &rest[..length];
        let term = match word {
            "true" => Term::Bool(true),
            "false" => Term::Bool(false),
            "" if rest.is_empty() => return Err(self.mistake("something is missing at the end")),
            _ => match word.parse::<f64>() {
                Ok(number) if number.is_finite() && !word.is_empty() => Term::Number(number),
                _ => {
                    let shown = if word.is_empty() { rest } else { word };
                    let message = format!("`{shown}` is no value; strings stand in quotes");
                    return Err(self.mistake(message));
                }
            },
        };
        self.at += length;
        Ok(term)
    }

    fn closed(&mut self, sign: &str, term: Term) -> Result<Term, Mistake> {
        if self.take(sign) {
            Ok(term)
        } else {
            Err(self.mistake(format!("`{sign}` is missing")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SourceText, document};

    fn truth(text: &str) -> Result<bool, Mistake> {
        let root = document::parse(&SourceText::new(
            "p.toml",
            "model = 'gru'\nlayers = 2\nrate = 1e-3\nfast = true\nlist = [1, 2]",
        ))
        .unwrap();
        evaluate(text, &mut |written| {
            let name = &written[2..written.len() - 1];
            root.at(&[name]).cloned().unwrap_or_else(|| root.broken())
        })
    }

    #[test]
    fn compares_and_joins() {
        for text in [
            "true",
            "${fast}",
            "${model} == 'gru'",
            "${model} == \"gru\" && ${layers} >= 2",
            "not ${model} != 'gru'",
            "!(${layers} > 2) and ${rate} < 0.01",
            "${model} in ['tcn', 'gru'] or false",
            "${layers} in ${list}",
            "false or true and true",
            "${layers} == 2.0",
            "'a' < 'b'",
            "-1 < +1e0",
            "not false and not (true and false)",
        ] {
            assert_eq!(truth(text), Ok(true), "{text}");
        }
        for text in [
            "${layers} in [3, 4]",
            "${fast} == false",
            "true and ${layers} < 2",
            "${layers} in []",
        ] {
            assert_eq!(truth(text), Ok(false), "{text}");
        }
    }

    #[test]
    fn says_where_and_what_is_wrong() {
        for (text, at, message) in [
            ("${layers}", 0, "a number is neither true nor false"),
            ("true and 1", 9, "a number is neither true nor false"),
            (
                "${layers} == 'a'",
                10,
                "`==` cannot compare a number with a string",
            ),
            ("${layers} = 2", 10, "`=` compares nothing; write `==`"),
            (
                "${model} == gru",
                12,
                "`gru` is no value; strings stand in quotes",
            ),
            ("(true", 5, "`)` is missing"),
            ("true true", 5, "`true` means nothing here"),
            ("'a", 0, "the string does not end"),
            ("true and", 8, "something is missing at the end"),
            (
                "${layers} in 2",
                10,
                "`in` looks into a list, this is a number",
            ),
            ("", 0, "something is missing at the end"),
            ("1 < nan", 4, "`nan` is no value; strings stand in quotes"),
        ] {
            assert_eq!(
                truth(text),
                Err(Mistake::At(at, message.to_owned())),
                "{text}"
            );
        }
        assert_eq!(truth("${what} == 1"), Err(Mistake::Reported));
        assert!(truth(&"(".repeat(1000)).is_err());
        assert!(truth(&"not ".repeat(1000)).is_err());
    }
}
