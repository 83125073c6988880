//! Where every record and every carried object lies, in memory.

use natron_artifacts::Digest;

use crate::{
    StageKey,
    frame::{Header, Prefix, prefix},
};

/// Where the latest record of a key lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) key: StageKey,
    pub(crate) committed_ms: u64,
    /// Number of the segment.
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    /// Length of the frame; 0 when the record is disowned or turned out to be damaged.
    pub(crate) length: u32,
    /// Where in the frame the head and the ingredients begin, and where these end.
    pub(crate) head: u32,
    pub(crate) ingredients: u32,
    pub(crate) objects: u32,
}

/// Where a carried object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectPlace {
    prefix: Prefix,
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    /// Length in bytes; [`GONE`] when the object turned out to be damaged.
    pub(crate) size: u32,
}

const GONE: u32 = u32::MAX;

/// Latest records by key, carried objects by digest. Both grow to hundreds of thousands and are asked for in no order, hence
/// open addressing: digests are random already, and nothing that is listed depends on the order.
#[derive(Debug, Default)]
pub(crate) struct Index {
    records: Vec<RecordPlace>,
    by_key: Slots,
    objects: Vec<ObjectPlace>,
    by_prefix: Slots,
}

impl ObjectPlace {
    /// The objects that a frame at `offset` carries.
    pub(crate) fn of(
        header: &Header,
        segment: u32,
        mut offset: u64,
    ) -> impl Iterator<Item = Self> + '_ {
        offset += header.objects_at() as u64;
        header.table.iter().map(move |(prefix, size)| {
            let place = Self {
                prefix: *prefix,
                segment,
                offset,
                size: *size,
            };
            offset += u64::from(*size);
            place
        })
    }

    /// Whether it is a copy of the object at another place.
    pub(crate) fn is_copy_of(&self, other: &Self) -> bool {
        (self.prefix, self.size) == (other.prefix, other.size)
            && (self.segment, self.offset) != (other.segment, other.offset)
    }
}

impl Index {
    /// The latest record of `key`.
    pub(crate) fn record(&self, key: &StageKey) -> Option<RecordPlace> {
        let digest = key.digest();
        let found = self
            .by_key
            .find(hash(digest.as_bytes()), |i| self.records[i].key == *key);
        found
            .map(|i| self.records[i])
            .filter(|place| place.length > 0)
    }

    /// When the latest record of `key` was committed, or disowned.
    pub(crate) fn newest_ms(&self, key: &StageKey) -> Option<u64> {
        let digest = key.digest();
        let found = self
            .by_key
            .find(hash(digest.as_bytes()), |i| self.records[i].key == *key);
        found.map(|i| self.records[i].committed_ms)
    }

    /// All latest records.
    pub(crate) fn records(&self) -> impl Iterator<Item = &RecordPlace> {
        self.records.iter().filter(|place| place.length > 0)
    }

    /// All keys whose latest record is disowned or damaged, and when it was committed.
    pub(crate) fn disowned(&self) -> impl Iterator<Item = (StageKey, u64)> {
        let gone = self.records.iter().filter(|place| place.length == 0);
        gone.map(|place| (place.key, place.committed_ms))
    }

    /// Where a carried object lies.
    pub(crate) fn object(&self, digest: &Digest) -> Option<ObjectPlace> {
        let prefix = prefix(digest);
        let found = self
            .by_prefix
            .find(hash(&prefix), |i| self.objects[i].prefix == prefix);
        found
            .map(|i| self.objects[i])
            .filter(|place| place.size != GONE)
    }

    /// Takes a record in, unless a later one of its key is there. `is_later` orders records of one moment.
    pub(crate) fn insert(
        &mut self,
        header: &Header,
        segment: u32,
        offset: u64,
        is_later: impl Fn(&RecordPlace) -> bool,
    ) {
        let place = RecordPlace {
            key: header.key,
            committed_ms: header.committed_ms,
            segment,
            offset,
            length: if header.is_tombstone() {
                0
            } else {
                header.length
            },
            head: header.head_at() as u32,
            ingredients: header.ingredients_at() as u32,
            objects: header.objects_at() as u32,
        };
        let records = &self.records;
        let bytes = place.key.digest();
        let found = self
            .by_key
            .find(hash(bytes.as_bytes()), |i| records[i].key == place.key);
        if let Some(i) = found {
            let there = &mut self.records[i];
            if there.committed_ms < place.committed_ms
                || (there.committed_ms == place.committed_ms && is_later(there))
            {
                *there = place;
            }
        } else {
            self.records.push(place);
            let records = &self.records;
            self.by_key.insert(records.len() - 1, |i| {
                hash(records[i].key.digest().as_bytes())
            });
        }
        for place in ObjectPlace::of(header, segment, offset) {
            let objects = &self.objects;
            let found = self
                .by_prefix
                .find(hash(&place.prefix), |i| objects[i].prefix == place.prefix);
            if let Some(i) = found {
                // The same content: any place will do.
                self.objects[i] = place;
            } else {
                self.objects.push(place);
                let objects = &self.objects;
                self.by_prefix
                    .insert(objects.len() - 1, |i| hash(&objects[i].prefix));
            }
        }
    }

    /// Forgets a record that is damaged, unless another has taken its place.
    pub(crate) fn forget_record(&mut self, damaged: &RecordPlace) {
        let records = &self.records;
        let digest = damaged.key.digest();
        let found = self
            .by_key
            .find(hash(digest.as_bytes()), |i| records[i] == *damaged);
        if let Some(i) = found {
            self.records[i].length = 0;
        }
    }

    /// Forgets a carried object that is damaged, unless another has taken its place; `copy` is one that is not damaged.
    pub(crate) fn replace_object(&mut self, damaged: &ObjectPlace, copy: Option<ObjectPlace>) {
        let objects = &self.objects;
        let found = self
            .by_prefix
            .find(hash(&damaged.prefix), |i| objects[i] == *damaged);
        if let Some(i) = found {
            self.objects[i] = copy.unwrap_or(ObjectPlace {
                size: GONE,
                ..*damaged
            });
        }
    }
}

/// The first bytes of something random.
fn hash(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
}

/// Numbers of items by their hash: a power of two of slots, at most half of them in use, searched one after the other.
#[derive(Debug, Default)]
struct Slots {
    /// 0 for a free one, else the number and 1.
    slots: Vec<u32>,
    used: usize,
}

impl Slots {
    fn find(&self, hash: u64, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                0 => return None,
                n if is_it(n as usize - 1) => return Some(n as usize - 1),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Adds an item that is not there.
    fn insert(&mut self, item: usize, hash: impl Fn(usize) -> u64) {
        if (self.used + 1) * 2 > self.slots.len() {
            let items: Vec<u32> = self.slots.iter().copied().filter(|n| *n > 0).collect();
            self.slots = vec![0; (self.slots.len() * 2).max(64)];
            for n in items {
                self.place(n, hash(n as usize - 1));
            }
        }
        self.used += 1;
        self.place(item as u32 + 1, hash(item));
    }

    fn place(&mut self, n: u32, hash: u64) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = n;
    }
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Bytes;

    use super::*;
    use crate::frame::{Place, date, encode, group};

    fn header(n: u64, committed_ms: u64) -> Header {
        let text = n.to_string();
        let key = StageKey::new(Digest::of(text.as_bytes()));
        let carried = (Digest::of(text.as_bytes()), Bytes::from(text));
        let mut frame = encode(&key, b"{}", b"{}", &[carried]);
        date(&mut frame, committed_ms);
        let place = Place {
            segment: "s",
            offset: 0,
        };
        group(vec![frame], &place).1.remove(0).1
    }

    #[test]
    fn finds_what_was_put_in_and_nothing_else() {
        let mut index = Index::default();
        for n in 0..1000 {
            index.insert(&header(n, 1), 7, 100 * n, |_| false);
        }

        for n in 0..2000_u64 {
            let digest = Digest::of(n.to_string().as_bytes());
            let record = index.record(&StageKey::new(digest));
            assert_eq!(
                record.map(|place| place.offset),
                (n < 1000).then_some(100 * n)
            );
            assert_eq!(index.object(&digest).is_some(), n < 1000);
        }
        assert_eq!(index.records().count(), 1000);
    }

    #[test]
    fn the_latest_record_counts_and_a_damaged_one_does_not() {
        let mut index = Index::default();
        let key = header(1, 0).key;
        let digest = key.digest();
        index.insert(&header(1, 5), 0, 500, |_| false);
        index.insert(&header(1, 4), 0, 400, |_| true);
        assert_eq!(index.record(&key).unwrap().offset, 500);
        index.insert(&header(1, 5), 0, 600, |_| true);
        let latest = index.record(&key).unwrap();
        assert_eq!(latest.offset, 600);

        index.forget_record(&latest);
        index.replace_object(&index.object(&digest).unwrap(), None);
        assert_eq!(index.record(&key), None);
        assert_eq!(index.object(&digest), None);
        assert_eq!(index.newest_ms(&key), Some(5));
        index.insert(&header(1, 6), 0, 700, |_| false);
        assert_eq!(index.record(&key).unwrap().offset, 700);
        assert!(index.object(&digest).is_some());
    }
}
