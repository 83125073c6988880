//! Reads the sets' files: one column a line, `name = expression`. The pipeline's own language is richer and says where a
//! mistake is; this is enough for these files.

use std::collections::BTreeMap;

use natron_kernels::indicators::{
    catalog, pointwise,
    program::{Builder, Input, Program, Series},
};

/// The program of a set, and the columns that need something the catalogue does not have.
pub fn read(text: &str) -> (Program, Vec<String>) {
    let mut reader = Reader {
        builder: Builder::new(),
        known: BTreeMap::new(),
        words: Vec::new(),
        next: 0,
    };
    let (mut outputs, mut missing) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let Some((name, expression)) = line.split_once(" = ") else {
            continue;
        };
        reader.words = words(expression);
        reader.next = 0;
        match reader.either() {
            Ok(series) => {
                reader.known.insert(name.to_owned(), series);
                outputs.push(series);
            }
            Err(message) => missing.push(format!("{name}: {message}")),
        }
    }
    (reader.builder.finish(&outputs), missing)
}

/// Names, numbers and signs.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let letters: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < letters.len() {
        let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
        let is_number = letters[at].is_ascii_digit();
        let start = at;
        at += 1;
        if is_of_name(letters[start]) {
            while at < letters.len() && (is_of_name(letters[at]) || is_number && letters[at] == '.')
            {
                at += 1;
            }
        } else if "<>=!".contains(letters[start]) && letters.get(at) == Some(&'=') {
            at += 1;
        }
        words.push(letters[start..at].iter().collect::<String>());
    }
    words.retain(|word| word.trim() != "");
    words
}

struct Reader {
    builder: Builder,
    known: BTreeMap<String, Series>,
    words: Vec<String>,
    next: usize,
}

type Read<T> = Result<T, String>;

/// Puts a node of two series in.
type Join = fn(&mut Builder, Series, Series) -> Series;

impl Reader {
    fn takes(&mut self, word: &str) -> bool {
        let is_it = self.words.get(self.next).is_some_and(|next| next == word);
        self.next += usize::from(is_it);
        is_it
    }

    fn word(&mut self) -> Read<String> {
        self.next += 1;
        self.words
            .get(self.next - 1)
            .cloned()
            .ok_or_else(|| "it ends".to_owned())
    }

    /// Operands with one of these signs between them, from the left.
    fn chain(
        &mut self,
        signs: &[(&str, Join)],
        operand: fn(&mut Self) -> Read<Series>,
    ) -> Read<Series> {
        let mut left = operand(self)?;
        while let Some((_, join)) = signs.iter().find(|(sign, _)| self.takes(sign)) {
            let right = operand(self)?;
            left = join(&mut self.builder, left, right);
        }
        Ok(left)
    }

    fn either(&mut self) -> Read<Series> {
        self.chain(
            &[("and", pointwise::and), ("or", pointwise::or)],
            Self::comparison,
        )
    }

    fn comparison(&mut self) -> Read<Series> {
        let signs: &[(&str, Join)] = &[
            (">=", pointwise::ge),
            ("<=", pointwise::le),
            (">", pointwise::gt),
            ("<", pointwise::lt),
        ];
        self.chain(signs, Self::sum)
    }

    fn sum(&mut self) -> Read<Series> {
        self.chain(
            &[("+", pointwise::add), ("-", pointwise::sub)],
            Self::product,
        )
    }

    fn product(&mut self) -> Read<Series> {
        self.chain(
            &[("*", pointwise::mul), ("/", pointwise::div)],
            Self::earlier,
        )
    }

    /// `x[n]`: the value `n` rows before.
    fn earlier(&mut self) -> Read<Series> {
        let series = self.value()?;
        if !self.takes("[") {
            return Ok(series);
        }
        let lag: f64 = self.word()?.parse().map_err(|_| "a lag".to_owned())?;
        self.next += 1;
        let indicator = catalog::find("lag").ok_or("no indicator `lag`")?;
        Ok((indicator.expand)(&mut self.builder, &[series], &[lag])[0])
    }

    fn value(&mut self) -> Read<Series> {
        let word = self.word()?;
        if word == "(" {
            let inner = self.either()?;
            self.next += 1;
            return Ok(inner);
        }
        if let Ok(number) = word.parse() {
            return Ok(self.builder.constant(number));
        }
        if self.takes("(") {
            return self.call(&word);
        }
        let input = match word.as_str() {
            "open" => Input::Open,
            "high" => Input::High,
            "low" => Input::Low,
            "close" => Input::Close,
            "volume" => Input::Volume,
            _ => {
                return self
                    .known
                    .get(&word)
                    .copied()
                    .ok_or_else(|| format!("no `{word}`"));
            }
        };
        Ok(self.builder.input(input))
    }

    fn call(&mut self, name: &str) -> Read<Series> {
        let n_series = match name {
            "ln" | "sqrt" => 1,
            _ => catalog::find(name)
                .ok_or_else(|| format!("no indicator `{name}`"))?
                .series
                .len(),
        };
        let (mut series, mut parameters) = (Vec::new(), Vec::new());
        while !self.takes(")") {
            if series.len() < n_series {
                series.push(self.either()?);
            } else {
                parameters.push(
                    self.word()?
                        .parse::<f64>()
                        .map_err(|error| error.to_string())?,
                );
            }
            self.takes(",");
        }
        match name {
            "ln" => return Ok(pointwise::ln(&mut self.builder, series[0])),
            "sqrt" => return Ok(pointwise::sqrt(&mut self.builder, series[0])),
            _ => {}
        }
        let indicator = catalog::find(name).ok_or("an indicator")?;
        for parameter in &indicator.parameters[parameters.len()..] {
            parameters.push(parameter.default.ok_or("a parameter is missing")?);
        }
        let outputs = (indicator.expand)(&mut self.builder, &series, &parameters);
        let position = if self.takes(".") {
            let part = self.word()?;
            let found = indicator
                .outputs
                .iter()
                .position(|output| output.name == part);
            found.ok_or_else(|| format!("`{name}` has no `{part}`"))?
        } else {
            0
        };
        Ok(outputs[position])
    }
}
