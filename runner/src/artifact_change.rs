//! What differs between two artifacts of one port: columns of a table, tensors of a model, files.

use std::collections::{BTreeMap, BTreeSet};

use natron_artifacts::{Artifact, ColumnType, Digest, Kind, Manifest, Table};
use natron_cache::{ColumnIngredient, Store};
use serde::Serialize;

/// Rows of one block: column digests are made of blocks of as many rows.
pub const BLOCK_ROWS: u64 = 65_536;

/// Larger tables are not opened to count the rows that changed, in bytes.
const LARGEST_OPENED: u64 = 4 << 30;

/// What differs between two artifacts.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ArtifactChange {
    /// Kind before and after.
    pub kinds: (Option<Kind>, Option<Kind>),
    /// Rows before and after, of tables.
    pub rows: (Option<u64>, Option<u64>),
    /// Lengths in bytes before and after, where known.
    pub sizes: (Option<u64>, Option<u64>),
    /// Columns that differ, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<ColumnChange>,
    /// Columns in all, after.
    #[serde(skip_serializing_if = "is_zero")]
    pub of_columns: usize,
    /// Tensors of models that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<PartChange>,
    /// Tensors in all, after.
    #[serde(skip_serializing_if = "is_zero")]
    pub of_tensors: usize,
    /// Files that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PartChange>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A column that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnChange {
    /// Its name.
    pub name: String,
    /// How it differs.
    #[serde(flatten)]
    pub difference: ColumnDifference,
}

/// How a column differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "class")]
pub enum ColumnDifference {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its type or unit is another.
    Declared {
        /// Type and unit before.
        before: String,
        /// Type and unit after.
        after: String,
    },
    /// Its values differ.
    Values {
        /// Where, if both tables are in the store.
        #[serde(skip_serializing_if = "Option::is_none")]
        extent: Option<Extent>,
    },
}

/// How far two columns differ in the rows that both have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Rows that differ.
    pub rows: u64,
    /// Rows compared: those of the shorter column.
    pub of_rows: u64,
    /// Blocks of [`BLOCK_ROWS`] rows in which rows differ.
    pub blocks: u64,
    /// Blocks compared.
    pub of_blocks: u64,
    /// The first row that differs, from 0.
    pub first_row: Option<u64>,
}

/// A file or tensor that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartChange {
    /// Its name.
    pub name: String,
    /// How.
    pub presence: Presence,
    /// Length in bytes before, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_before: Option<u64>,
    /// Length in bytes after, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_after: Option<u64>,
    /// Line by line, where both sides are known: a unified diff without its head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// On which side something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// Only after.
    Added,
    /// Only before.
    Removed,
    /// On both, with other content.
    Changed,
}

impl ArtifactChange {
    /// How `after` differs from `before`. With a store, tables that are there are opened to count the rows that differ.
    pub fn new(before: &Manifest, after: &Manifest, store: Option<&Store>) -> Self {
        let mut change = Self {
            kinds: (Some(before.kind), Some(after.kind)),
            rows: (before.rows, after.rows),
            sizes: (Some(before.size()), Some(after.size())),
            of_columns: after.columns.len(),
            of_tensors: after.tensors.len(),
            ..Self::default()
        };
        if before.logical == after.logical || before.kind != after.kind {
            return change;
        }
        let column = |manifest: &Manifest| -> Vec<ColumnIngredient> {
            let columns = manifest.columns.iter();
            columns
                .map(|known| ColumnIngredient {
                    name: known.column.name.clone(),
                    column_type: known.column.column_type,
                    unit: known.column.unit.clone(),
                    digest: known.digest,
                })
                .collect()
        };
        change.columns = column_changes(&column(before), &column(after));
        let tensors = |manifest: &Manifest| -> BTreeMap<String, (Digest, Option<u64>)> {
            let tensors = manifest.tensors.iter();
            tensors
                .map(|t| (t.name.clone(), (t.digest, None)))
                .collect()
        };
        change.tensors = part_changes(&tensors(before), &tensors(after));
        if matches!(after.kind, Kind::Files) {
            let files = |manifest: &Manifest| -> BTreeMap<String, (Digest, Option<u64>)> {
                let files = manifest.files.iter();
                files
                    .map(|f| (f.name.clone(), (f.digest, Some(f.size))))
                    .collect()
            };
            change.files = part_changes(&files(before), &files(after));
        }
        if let Some(store) = store {
            change.measure(before, after, store);
        }
        change
    }

    /// How the columns that a key holds differ, where the tables are not known.
    pub(crate) fn of_columns(
        before: (Option<u64>, &[ColumnIngredient]),
        after: (Option<u64>, &[ColumnIngredient]),
    ) -> Self {
        Self {
            kinds: (Some(Kind::Table), Some(Kind::Table)),
            rows: (before.0, after.0),
            columns: column_changes(before.1, after.1),
            of_columns: after.1.len(),
            ..Self::default()
        }
    }

    /// Keeps only the columns that `names` holds: the others were not asked for.
    pub(crate) fn limit_to(&mut self, names: &BTreeSet<String>) {
        self.columns.retain(|column| names.contains(&column.name));
        self.of_columns = names.len();
    }

    fn measure(&mut self, before: &Manifest, after: &Manifest, store: &Store) {
        let is_changed =
            |column: &ColumnChange| matches!(column.difference, ColumnDifference::Values { .. });
        let is_small = before.size().max(after.size()) <= LARGEST_OPENED;
        if !self.columns.iter().any(is_changed)
            || !is_small
            || !store.has(before)
            || !store.has(after)
        {
            return;
        }
        let (Ok(Artifact::Table(before)), Ok(Artifact::Table(after))) =
            (store.open_artifact(before), store.open_artifact(after))
        else {
            return;
        };
        for column in &mut self.columns {
            if let ColumnDifference::Values { extent } = &mut column.difference {
                *extent = extent_of(&before, &after, &column.name);
            }
        }
    }
}

fn column_changes(before: &[ColumnIngredient], after: &[ColumnIngredient]) -> Vec<ColumnChange> {
    let old: BTreeMap<&str, &ColumnIngredient> =
        before.iter().map(|c| (c.name.as_str(), c)).collect();
    let new: BTreeSet<&str> = after.iter().map(|c| c.name.as_str()).collect();
    let declared = |c: &ColumnIngredient| format!("{} {}", c.column_type, c.unit).trim().to_owned();
    let mut changes: Vec<ColumnChange> = after
        .iter()
        .filter_map(|column| {
            let difference = match old.get(column.name.as_str()) {
                None => ColumnDifference::Added,
                Some(old) if declared(old) != declared(column) => ColumnDifference::Declared {
                    before: declared(old),
                    after: declared(column),
                },
                Some(old) if old.digest != column.digest => {
                    ColumnDifference::Values { extent: None }
                }
                Some(_) => return None,
            };
            Some(ColumnChange {
                name: column.name.clone(),
                difference,
            })
        })
        .collect();
    let gone = before.iter().filter(|c| !new.contains(c.name.as_str()));
    changes.extend(gone.map(|column| ColumnChange {
        name: column.name.clone(),
        difference: ColumnDifference::Removed,
    }));
    changes
}

/// What differs between named parts with digests and lengths.
pub(crate) fn part_changes(
    before: &BTreeMap<String, (Digest, Option<u64>)>,
    after: &BTreeMap<String, (Digest, Option<u64>)>,
) -> Vec<PartChange> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (old, new) = (before.get(name), after.get(name));
            let presence = match (old, new) {
                (None, _) => Presence::Added,
                (_, None) => Presence::Removed,
                (Some(old), Some(new)) if old.0 != new.0 => Presence::Changed,
                _ => return None,
            };
            Some(PartChange {
                name: name.clone(),
                presence,
                size_before: old.and_then(|(_, size)| *size),
                size_after: new.and_then(|(_, size)| *size),
                diff: None,
            })
        })
        .collect()
}

/// How far the column `name` of two tables differs; nothing when one of them has none of the same type.
fn extent_of(before: &Table, after: &Table, name: &str) -> Option<Extent> {
    let column_type = |table: &Table| {
        let columns = table.columns().iter();
        columns
            .filter(|c| c.name == name)
            .map(|c| c.column_type)
            .next()
    };
    let shared = column_type(before)?;
    if column_type(after)? != shared {
        return None;
    }
    let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    Some(match shared {
        ColumnType::F64 => extent(
            &bits(&before.f64(name).ok()?),
            &bits(&after.f64(name).ok()?),
        ),
        ColumnType::F32 => {
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            extent(
                &bits(&before.f32(name).ok()?),
                &bits(&after.f32(name).ok()?),
            )
        }
        ColumnType::I64 => extent(
            &before.i64_or_null(name).ok()?,
            &after.i64_or_null(name).ok()?,
        ),
        // Missing truth values and texts look like false and empty here; the digests have told them apart already, and
        // the extent then names one row less.
        ColumnType::Bool => extent(&before.bools(name).ok()?, &after.bools(name).ok()?),
        ColumnType::Utf8 => extent(&before.utf8(name).ok()?, &after.utf8(name).ok()?),
        ColumnType::TimestampNs => extent(before.times(name).ok()?, after.times(name).ok()?),
    })
}

fn extent<T: PartialEq>(before: &[T], after: &[T]) -> Extent {
    let of_rows = before.len().min(after.len()) as u64;
    let mut extent = Extent {
        rows: 0,
        of_rows,
        blocks: 0,
        of_blocks: of_rows.div_ceil(BLOCK_ROWS),
        first_row: None,
    };
    let mut last_block = None;
    for (row, (a, b)) in (0_u64..).zip(before.iter().zip(after)) {
        if a == b {
            continue;
        }
        extent.rows += 1;
        extent.first_row.get_or_insert(row);
        let block = row / BLOCK_ROWS;
        if last_block != Some(block) {
            extent.blocks += 1;
            last_block = Some(block);
        }
    }
    extent
}

#[cfg(test)]
mod tests {
    use natron_artifacts::Column;

    use super::*;

    fn table(close: Vec<f64>, volume: Option<Vec<i64>>) -> Artifact {
        let mut builder = Table::builder()
            .time_index((0..close.len() as i64).collect())
            .f64(Column::new("close", ColumnType::F64), close);
        if let Some(volume) = volume {
            builder = builder.i64(Column::new("volume", ColumnType::I64), volume);
        }
        builder.build().unwrap().into()
    }

    fn manifest(artifact: &Artifact) -> Manifest {
        artifact.seal().unwrap().manifest
    }

    #[test]
    fn names_the_columns_that_changed_and_how_far() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), natron_cache::Durability::None).unwrap();
        let rows = 3 * BLOCK_ROWS as usize;
        let mut close = vec![1.0; rows];
        let before = table(close.clone(), Some(vec![7; rows]));
        close[70_000] = 2.0;
        close[70_001] = 2.0;
        let after = table(close, None);
        for artifact in [&before, &after] {
            for content in artifact.seal().unwrap().contents {
                store.put(&content).unwrap();
            }
        }

        let change = ArtifactChange::new(&manifest(&before), &manifest(&after), Some(&store));
        let extent = Extent {
            rows: 2,
            of_rows: rows as u64,
            blocks: 1,
            of_blocks: 3,
            first_row: Some(70_000),
        };
        let difference = ColumnDifference::Values {
            extent: Some(extent),
        };
        assert_eq!(
            change.columns,
            [
                ColumnChange {
                    name: "close".into(),
                    difference
                },
                ColumnChange {
                    name: "volume".into(),
                    difference: ColumnDifference::Removed
                },
            ]
        );
    }

    #[test]
    fn without_the_tables_only_the_digests_speak() {
        let before = table(vec![1.0, 2.0], None);
        let after = table(vec![1.0, 3.0], None);

        let change = ArtifactChange::new(&manifest(&before), &manifest(&after), None);
        assert_eq!(
            change.columns[0].difference,
            ColumnDifference::Values { extent: None }
        );
        assert_eq!(change.columns.len(), 1);
        let same = ArtifactChange::new(&manifest(&before), &manifest(&before), None);
        assert!(same.columns.is_empty());
    }

    #[test]
    fn appended_rows_leave_the_common_ones_alone() {
        let extent = extent(&[1, 2, 3], &[1, 2, 3, 4]);
        assert_eq!((extent.rows, extent.of_rows), (0, 3));
        assert_eq!(extent.first_row, None);
    }
}
