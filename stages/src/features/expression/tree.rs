//! What an expression says, before anything is known of the names in it.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    ops::Range,
};

/// An expression and the bytes of the text that it stands in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expression {
    pub(crate) what: What,
    pub(crate) at: Range<usize>,
}

/// A name and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Name {
    pub(crate) name: String,
    pub(crate) at: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    /// A number, not negative and finite.
    Number(f64),
    /// Something between quotes.
    Text(String),
    /// A column or a feature.
    Name(String),
    /// `name(arguments)`.
    Call(Name, Vec<Argument>),
    /// `value.name`.
    Output(Box<Expression>, Name),
    /// `value[rows]`.
    Lag(Box<Expression>, Box<Expression>),
    Unary(Unary, Box<Expression>),
    Binary(Binary, Box<Expression>, Box<Expression>),
}

/// What stands between the parentheses of a call, perhaps with a name before it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Argument {
    pub(crate) name: Option<Name>,
    pub(crate) value: Expression,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unary {
    Minus,
    Not,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Or,
    And,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
    Plus,
    Minus,
    Times,
    Over,
    Power,
}

/// How tightly an operator binds; see [`Binary::strength`].
pub(crate) const STRENGTH_OF_NOT: u8 = 3;
pub(crate) const STRENGTH_OF_COMPARISON: u8 = 4;
pub(crate) const STRENGTH_OF_MINUS: u8 = 7;
const STRENGTH_OF_POSTFIX: u8 = 9;

impl Binary {
    /// All of them, with how they are written.
    pub(crate) const ALL: [(Self, &'static str); 13] = [
        (Self::Or, "or"),
        (Self::And, "and"),
        (Self::Less, "<"),
        (Self::LessOrEqual, "<="),
        (Self::Greater, ">"),
        (Self::GreaterOrEqual, ">="),
        (Self::Equal, "=="),
        (Self::NotEqual, "!="),
        (Self::Plus, "+"),
        (Self::Minus, "-"),
        (Self::Times, "*"),
        (Self::Over, "/"),
        (Self::Power, "^"),
    ];

    pub(crate) fn text(self) -> &'static str {
        let found = Self::ALL.iter().find(|(operator, _)| *operator == self);
        found.map_or("", |(_, text)| text)
    }

    /// Binds the tighter, the larger. Comparisons do not join each other; `^` joins from the right, the others from the
    /// left.
    pub(crate) fn strength(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Less
            | Self::LessOrEqual
            | Self::Greater
            | Self::GreaterOrEqual
            | Self::Equal
            | Self::NotEqual => STRENGTH_OF_COMPARISON,
            Self::Plus | Self::Minus => 5,
            Self::Times | Self::Over => 6,
            Self::Power => 8,
        }
    }

    pub(crate) fn is_comparison(self) -> bool {
        self.strength() == STRENGTH_OF_COMPARISON
    }
}

impl Expression {
    /// The same with `parts` in the place of their names, and theirs in theirs. No part may name itself.
    pub(crate) fn with(&self, parts: &BTreeMap<&str, Expression>) -> Self {
        let inner = |value: &Self| Box::new(value.with(parts));
        let what = match &self.what {
            What::Name(name) => match parts.get(name.as_str()) {
                Some(part) => return part.with(parts),
                None => self.what.clone(),
            },
            What::Number(_) | What::Text(_) => self.what.clone(),
            What::Call(name, arguments) => {
                let arguments = arguments.iter().map(|argument| Argument {
                    name: argument.name.clone(),
                    value: argument.value.with(parts),
                });
                What::Call(name.clone(), arguments.collect())
            }
            What::Output(value, name) => What::Output(inner(value), name.clone()),
            What::Lag(value, rows) => What::Lag(inner(value), inner(rows)),
            What::Unary(operator, value) => What::Unary(*operator, inner(value)),
            What::Binary(operator, left, right) => {
                What::Binary(*operator, inner(left), inner(right))
            }
        };
        Self {
            what,
            at: self.at.clone(),
        }
    }
}

impl What {
    fn strength(&self) -> u8 {
        match self {
            Self::Unary(Unary::Not, _) => STRENGTH_OF_NOT,
            Self::Unary(Unary::Minus, _) => STRENGTH_OF_MINUS,
            Self::Binary(operator, ..) => operator.strength(),
            _ => STRENGTH_OF_POSTFIX,
        }
    }
}

/// In one line, with no more parentheses than it needs: parsed again, it is the same tree.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Number(x) => write!(f, "{x}"),
            What::Text(text) => {
                let quote = if text.contains('"') { '\'' } else { '"' };
                write!(f, "{quote}{text}{quote}")
            }
            What::Name(name) => f.write_str(name),
            What::Call(name, arguments) => {
                write!(f, "{}(", name.name)?;
                for (i, argument) in arguments.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    if let Some(name) = &argument.name {
                        write!(f, "{} = ", name.name)?;
                    }
                    write!(f, "{}", argument.value)?;
                }
                f.write_char(')')
            }
            What::Output(value, name) => {
                part(f, value, STRENGTH_OF_POSTFIX)?;
                write!(f, ".{}", name.name)
            }
            What::Lag(value, rows) => {
                part(f, value, STRENGTH_OF_POSTFIX)?;
                write!(f, "[{rows}]")
            }
            What::Unary(Unary::Minus, value) => {
                f.write_char('-')?;
                part(f, value, STRENGTH_OF_MINUS)
            }
            What::Unary(Unary::Not, value) => {
                f.write_str("not ")?;
                part(f, value, STRENGTH_OF_NOT)
            }
            What::Binary(operator, left, right) => {
                let strength = operator.strength();
                let (of_left, of_right) = match operator {
                    // `2 ^ -1` needs no parentheses.
                    Binary::Power => (strength + 1, STRENGTH_OF_MINUS),
                    _ if operator.is_comparison() => (strength + 1, strength + 1),
                    _ => (strength, strength + 1),
                };
                part(f, left, of_left)?;
                write!(f, " {} ", operator.text())?;
                part(f, right, of_right)
            }
        }
    }
}

/// `value`, in parentheses if it binds less tightly than `strength`.
fn part(f: &mut fmt::Formatter<'_>, value: &Expression, strength: u8) -> fmt::Result {
    if value.what.strength() < strength {
        write!(f, "({value})")
    } else {
        write!(f, "{value}")
    }
}
