//! A TOML table of the tree: few entries, many tables.

use crate::document::Entry;

/// Entries in order of their keys. A pipeline of 100,000 stages has half a million tables, most of them with one to four
/// entries: a list takes a tenth of the memory of a `BTreeMap`, whose smallest node has room for eleven.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Table(Vec<(String, Box<Entry>)>);

impl Table {
    /// No entries.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(known, _)| known.as_str().cmp(key))
    }

    /// The entry of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.find(key).ok().map(|i| &*self.0[i].1)
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.find(key).ok().map(|i| &mut *self.0[i].1)
    }

    /// Whether there is one.
    pub(crate) fn contains_key(&self, key: &str) -> bool {
        self.find(key).is_ok()
    }

    /// Puts an entry in and gives the one of that key before.
    pub(crate) fn insert(&mut self, key: String, entry: Entry) -> Option<Entry> {
        match self.find(&key) {
            Ok(i) => Some(std::mem::replace(&mut *self.0[i].1, entry)),
            Err(i) => {
                self.0.insert(i, (key, Box::new(entry)));
                None
            }
        }
    }

    /// Puts an entry at the end, whatever its key; [`Self::settle`] has to follow.
    pub(crate) fn push(&mut self, key: String, entry: Entry) {
        self.0.push((key, Box::new(entry)));
    }

    /// The entry that was put in last.
    pub(crate) fn last_mut(&mut self) -> Option<&mut Entry> {
        self.0.last_mut().map(|(_, entry)| &mut **entry)
    }

    /// The entry of `key`, if it is among the `n` that were put in last, to change it.
    pub(crate) fn among_last(&mut self, n: usize, key: &str) -> Option<&mut Entry> {
        let mut last = self.0.iter_mut().rev().take(n);
        last.find(|(known, _)| known == key)
            .map(|(_, entry)| &mut **entry)
    }

    /// Brings the keys in order after [`Self::push`]; whether all are different.
    pub(crate) fn settle(&mut self) -> bool {
        if !self.0.is_sorted_by(|a, b| a.0 < b.0) {
            self.0.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.0.shrink_to_fit();
        self.0.windows(2).all(|pair| pair[0].0 != pair[1].0)
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &str) -> Option<Entry> {
        let i = self.find(key).ok()?;
        Some(*self.0.remove(i).1)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, in order of their keys.
    pub(crate) fn iter(&self) -> Iter<'_> {
        fn apart(entry: &(String, Box<Entry>)) -> (&String, &Entry) {
            (&entry.0, &entry.1)
        }
        self.0.iter().map(apart as fn(_) -> _)
    }

    /// All keys in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All entries, in order of their keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Entry> {
        self.iter().map(|(_, entry)| entry)
    }

    /// The same, to change them.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.iter_mut().map(|(_, entry)| entry)
    }

    /// All, in order of their keys, to change them.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Entry)> {
        self.0.iter_mut().map(|(key, entry)| (&*key, &mut **entry))
    }

    /// Keeps the entries that `is_kept` says.
    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&str, &mut Entry) -> bool) {
        self.0.retain_mut(|(key, entry)| is_kept(key, entry));
    }

    /// The entry of `key`, made if there is none.
    pub(crate) fn get_or_insert_with(
        &mut self,
        key: &str,
        make: impl FnOnce() -> Entry,
    ) -> &mut Entry {
        let i = self.find(key).unwrap_or_else(|i| {
            self.0.insert(i, (key.to_owned(), Box::new(make())));
            i
        });
        &mut self.0[i].1
    }
}

/// See [`Table::iter`].
pub(crate) type Iter<'a> = std::iter::Map<
    std::slice::Iter<'a, (String, Box<Entry>)>,
    fn(&'a (String, Box<Entry>)) -> (&'a String, &'a Entry),
>;

impl<'a> IntoIterator for &'a Table {
    type Item = (&'a String, &'a Entry);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Table {
    type Item = (String, Entry);
    type IntoIter = std::iter::Map<
        std::vec::IntoIter<(String, Box<Entry>)>,
        fn((String, Box<Entry>)) -> (String, Entry),
    >;

    fn into_iter(self) -> Self::IntoIter {
        fn unboxed((key, entry): (String, Box<Entry>)) -> (String, Entry) {
            (key, *entry)
        }
        self.0.into_iter().map(unboxed as fn(_) -> _)
    }
}

impl FromIterator<(String, Entry)> for Table {
    fn from_iter<T: IntoIterator<Item = (String, Entry)>>(entries: T) -> Self {
        let mut table = Self::new();
        table.extend(entries);
        table
    }
}

impl Extend<(String, Entry)> for Table {
    /// Of entries with one key the last stays.
    fn extend<T: IntoIterator<Item = (String, Entry)>>(&mut self, entries: T) {
        let entries = entries.into_iter();
        self.0
            .extend(entries.map(|(key, entry)| (key, Box::new(entry))));
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        self.0.dedup_by(|later, earlier| {
            let is_same = later.0 == earlier.0;
            if is_same {
                std::mem::swap(later, earlier);
            }
            is_same
        });
        self.0.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Place, SourceText,
        document::{Content, Node},
    };

    fn entry(value: i128) -> Entry {
        let place = Place {
            file: SourceText::new("p.toml", ""),
            span: 0..0,
        };
        Entry {
            key: place.clone(),
            node: Node::new(place, Content::Integer(value)),
        }
    }

    #[test]
    fn keeps_its_keys_in_order_and_the_last_of_each() {
        let mut table: Table = [("b", 1), ("a", 2), ("b", 3)]
            .map(|(key, value)| (key.to_owned(), entry(value)))
            .into_iter()
            .collect();

        assert_eq!(table.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(table.get("b").unwrap().node.content, Content::Integer(3));
        assert!(table.insert("c".into(), entry(4)).is_none());
        assert!(table.insert("a".into(), entry(5)).is_some());
        assert_eq!(table.keys().count(), 3);
        assert!(table.remove("b").is_some() && table.remove("b").is_none());
        assert!(!table.contains_key("b") && table.contains_key("c"));
        assert_eq!(table.get("a").unwrap().node.content, Content::Integer(5));
    }
}
