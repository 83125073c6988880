//! From text to a tree.

use std::ops::Range;

use super::{
    mistake::Mistake,
    token::{Token, tokens},
    tree::{Argument, Binary, Expression, Name, STRENGTH_OF_MINUS, STRENGTH_OF_NOT, Unary, What},
};

/// Longer texts are refused.
const LONGEST_TEXT: usize = 16 * 1024;

/// Expressions in expressions in expressions: whoever walks over a tree may do so by calling itself.
pub(crate) const DEEPEST: usize = 100;

/// The tree of `text`.
pub(crate) fn parse(text: &str) -> Result<Expression, Mistake> {
    if text.len() > LONGEST_TEXT {
        return Err(Mistake::new(
            0..0,
            format!("the expression has more than {LONGEST_TEXT} bytes"),
        )
        .help("give parts of it names below `let`"));
    }
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        end: text.len(),
        depth: 0,
    };
    if parser.tokens.is_empty() {
        return Err(Mistake::new(0..text.len(), "the expression is empty"));
    }
    let (tree, _) = parser.expression(0)?;
    match parser.tokens.get(parser.next) {
        None => Ok(tree),
        Some((token, at)) => {
            let message = match token {
                Token::Symbol(")") => "this `)` closes nothing".to_owned(),
                Token::Symbol("]") => "this `]` closes nothing".to_owned(),
                Token::Symbol("=") => "`=` gives an argument its name".to_owned(),
                _ => "an operator is missing before this".to_owned(),
            };
            let help = match token {
                Token::Symbol("=") => "two values are compared by `==`",
                _ => "",
            };
            Err(Mistake::new(at.clone(), message).help(help))
        }
    }
}

/// A tree and how deep it is.
type Deep = (Expression, usize);

struct Parser {
    tokens: Vec<(Token, Range<usize>)>,
    next: usize,
    end: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(token, _)| token)
    }

    /// Where the next word stands; the end of the text where there is none.
    fn place(&self) -> Range<usize> {
        let at = self.tokens.get(self.next).map(|(_, at)| at.clone());
        at.unwrap_or(self.end..self.end)
    }

    fn is_next(&self, symbol: &str) -> bool {
        matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let is_next = self.is_next(symbol);
        self.next += usize::from(is_next);
        is_next
    }

    /// Wraps what is `depth` deep.
    fn deep(what: What, at: Range<usize>, depth: usize) -> Result<Deep, Mistake> {
        if depth >= DEEPEST {
            return Err(Mistake::new(
                at,
                format!("more than {DEEPEST} expressions are nested here"),
            )
            .help("give parts of it names below `let`"));
        }
        Ok((Expression { what, at }, depth + 1))
    }

    /// An expression whose operators bind at least as tightly as `least`.
    fn expression(&mut self, least: u8) -> Result<Deep, Mistake> {
        self.depth += 1;
        let place = self.place();
        let found = if self.depth > DEEPEST {
            Err(Mistake::new(
                place,
                format!("more than {DEEPEST} expressions are nested here"),
            )
            .help("give parts of it names below `let`"))
        } else {
            self.operators(least)
        };
        self.depth -= 1;
        found
    }

    fn operators(&mut self, least: u8) -> Result<Deep, Mistake> {
        let (mut left, mut depth) = self.prefix()?;
        let mut is_comparison = false;
        while let Some(operator) = self.operator() {
            let strength = operator.strength();
            if strength < least {
                break;
            }
            let place = self.place();
            if operator.is_comparison() && is_comparison {
                return Err(Mistake::new(place, "comparisons do not join each other")
                    .help("write `a < b and b < c`"));
            }
            self.next += 1;
            let of_right = if operator == Binary::Power {
                STRENGTH_OF_MINUS
            } else {
                strength + 1
            };
            let (right, depth_of_right) = self.expression(of_right)?;
            is_comparison = operator.is_comparison();
            let at = left.at.start..right.at.end;
            let what = What::Binary(operator, Box::new(left), Box::new(right));
            (left, depth) = Self::deep(what, at, depth.max(depth_of_right))?;
        }
        Ok((left, depth))
    }

    fn operator(&self) -> Option<Binary> {
        let text = match self.peek()? {
            Token::Symbol(symbol) => symbol,
            Token::Name(name) => name.as_str(),
            _ => return None,
        };
        let found = Binary::ALL.iter().find(|(_, known)| *known == text);
        found.map(|(operator, _)| *operator)
    }

    fn prefix(&mut self) -> Result<Deep, Mistake> {
        let start = self.place().start;
        let (operator, strength) = match self.peek() {
            Some(Token::Symbol("-")) => (Unary::Minus, STRENGTH_OF_MINUS),
            Some(Token::Symbol("+")) => {
                return Err(Mistake::new(self.place(), "a value is missing before `+`"));
            }
            Some(Token::Symbol("!")) => {
                return Err(
                    Mistake::new(self.place(), "`!` means nothing in an expression")
                        .help("the opposite of a condition is `not condition`"),
                );
            }
            Some(Token::Name(name)) if name == "not" => (Unary::Not, STRENGTH_OF_NOT),
            _ => return self.postfix(),
        };
        self.next += 1;
        let (value, depth) = self.expression(strength)?;
        let at = start..value.at.end;
        Self::deep(What::Unary(operator, Box::new(value)), at, depth)
    }

    fn postfix(&mut self) -> Result<Deep, Mistake> {
        let (mut value, mut depth) = self.primary()?;
        loop {
            let start = value.at.start;
            if self.take("[") {
                let open = self.tokens[self.next - 1].1.clone();
                let (rows, depth_of_rows) = self.expression(0)?;
                let end = self.close("]", "[", open)?;
                let what = What::Lag(Box::new(value), Box::new(rows));
                (value, depth) = Self::deep(what, start..end, depth.max(depth_of_rows))?;
            } else if self.take(".") {
                let name = self.name("a column's name")?;
                let end = name.at.end;
                (value, depth) =
                    Self::deep(What::Output(Box::new(value), name), start..end, depth)?;
            } else {
                return Ok((value, depth));
            }
        }
    }

    fn name(&mut self, what: &str) -> Result<Name, Mistake> {
        let at = self.place();
        match self.peek() {
            Some(Token::Name(name)) => {
                let name = name.clone();
                self.next += 1;
                Ok(Name { name, at })
            }
            _ => Err(Mistake::new(at, format!("{what} is missing here"))),
        }
    }

    /// The end of the closing `symbol`.
    fn close(&mut self, symbol: &str, open: &str, opened: Range<usize>) -> Result<usize, Mistake> {
        let place = self.place();
        if self.take(symbol) {
            return Ok(place.end);
        }
        if self.next < self.tokens.len() {
            return Err(Mistake::new(
                place,
                format!("expected an operator, `,` or `{symbol}` here"),
            ));
        }
        Err(Mistake::new(opened, format!("this `{open}` is not closed")))
    }

    fn primary(&mut self) -> Result<Deep, Mistake> {
        let at = self.place();
        let Some(token) = self.peek().cloned() else {
            return Err(Mistake::new(at, "a value is missing at the end"));
        };
        let is_word = |name: &str| ["and", "or", "not"].contains(&name);
        match token {
            Token::Number(x) => {
                self.next += 1;
                Self::deep(What::Number(x), at, 0)
            }
            Token::Text(text) => {
                self.next += 1;
                Self::deep(What::Text(text), at, 0)
            }
            Token::Name(name) if !is_word(&name) => {
                self.next += 1;
                if self.is_next("(") {
                    self.call(Name { name, at })
                } else {
                    Self::deep(What::Name(name), at, 0)
                }
            }
            Token::Symbol("(") => {
                self.next += 1;
                let (inner, depth) = self.expression(0)?;
                self.close(")", "(", at)?;
                // What is in parentheses keeps its own place: a mistake in it points there.
                Ok((inner, depth))
            }
            Token::Symbol(symbol) => Err(Mistake::new(
                at,
                format!("a value is missing before `{symbol}`"),
            )),
            Token::Name(word) => Err(Mistake::new(
                at,
                format!("a condition is missing before `{word}`"),
            )),
        }
    }

    fn call(&mut self, name: Name) -> Result<Deep, Mistake> {
        let opened = self.place();
        self.next += 1;
        let (mut arguments, mut depth) = (Vec::new(), 0);
        let end = loop {
            let place = self.place();
            if self.take(")") {
                break place.end;
            }
            let is_named = matches!(self.peek(), Some(Token::Name(_)))
                && matches!(
                    self.tokens.get(self.next + 1),
                    Some((Token::Symbol("="), _))
                );
            let name = if is_named {
                let name = self.name("an argument's name")?;
                self.next += 1;
                Some(name)
            } else {
                None
            };
            let (value, depth_of_value) = self.expression(0)?;
            depth = depth.max(depth_of_value);
            arguments.push(Argument { name, value });
            if !self.take(",") {
                break self.close(")", "(", opened.clone())?;
            }
        };
        let at = name.at.start..end;
        Self::deep(What::Call(name, arguments), at, depth)
    }
}
